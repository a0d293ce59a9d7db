"""Errors that are the user's to mend: one clear line, never a traceback."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in what the user gave; scripts print it as one line and exit with code 2."""


def unknown_name(kind: str, got: str, available: Iterable[str], where: str | None = None) -> UserError:
    """Build the error for a name that does not exist.

    Args:
        kind: What was looked up, e.g. ``"method"``.
        got: The name the user gave.
        available: The names that exist.
        where: Folder in which a file with a new member of a registry belongs; None where users add none.

    Returns:
        An error naming what was got, the nearest name, all names and the next step.
    """
    names = sorted(available)
    near = difflib.get_close_matches(got, names, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    advice = "" if where is None else f". Add one in {where}"
    return UserError(f"unknown {kind} {got!r}.{hint} Available: {', '.join(names)}{advice}")


def check_number(
    flag: str,
    value: float | int | None,
    *,
    above: float | int | None = None,
    at_least: float | int | None = None,
    at_most: float | int | None = None,
) -> None:
    """Refuse a number that is not finite or out of its range; None (not given) passes.

    Args:
        flag: Name as the user typed it, e.g. ``"--hz"``.
        value: What the user gave.
        above: Largest number that is too small.
        at_least: Smallest good number.
        at_most: Largest good number.

    Raises:
        UserError: Naming the flag, the range and the number.
    """
    if value is None:
        return
    good = (above is None or value > above) and (at_least is None or value >= at_least)
    if math.isfinite(value) and good and (at_most is None or value <= at_most):
        return
    ends = [f"above {above:.12g}"] if above is not None else []
    ends += [f"at least {at_least:.12g}"] if at_least is not None else []
    ends += [f"at most {at_most:.12g}"] if at_most is not None else []
    wanted = "positive" if above == 0 and at_most is None else " and ".join(ends) or "finite"
    raise UserError(f"{flag} must be {wanted}, got {value}")


def check_seed(seed: int) -> None:
    """Refuse a seed that not every random generator takes."""
    check_number("--seed", seed, at_least=0, at_most=2**32 - 1)
