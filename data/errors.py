"""Errors that are the user's to mend: one clear line, never a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in what the user gave; scripts print it as one line and exit with code 2."""


def unknown_name(kind: str, got: str, available: Iterable[str], where: str) -> UserError:
    """Build the error for a name that no registry member carries.

    Args:
        kind: What was looked up, e.g. ``"method"``.
        got: The name the user gave.
        available: The names that exist.
        where: Folder in which a file with a new member belongs.

    Returns:
        An error naming what was got, the nearest name, all names and the next step.
    """
    names = sorted(available)
    near = difflib.get_close_matches(got, names, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return UserError(f"unknown {kind} {got!r}.{hint} Available: {', '.join(names)}. Add one in {where}")
