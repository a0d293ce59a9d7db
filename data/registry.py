"""Discovery of sibling modules: adding a member is adding one file."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache


@cache
def sibling_members(package: str, attribute: str, only: str | None = None) -> tuple[object, ...]:
    """Collect one attribute from every module of a package that has it.

    Args:
        package: Absolute package name, e.g. ``"motionlex.data.robots"``.
        attribute: Module attribute to collect, e.g. ``"ROBOT"``; a tuple contributes each of its items.
        only: Look at modules of this name only; None looks at all.

    Returns:
        The members in alphabetical order of their modules.
    """
    members: list[object] = []
    for module_info in sorted(pkgutil.iter_modules(importlib.import_module(package).__path__), key=lambda m: m.name):
        if only not in (None, module_info.name):
            continue
        module = importlib.import_module(f"{package}.{module_info.name}")
        member = getattr(module, attribute, None)
        if member is not None:
            members.extend(member if isinstance(member, tuple) else (member,))
    return tuple(members)
