"""Discovery of sibling modules: adding a member is adding one file."""

from __future__ import annotations

import importlib
import pkgutil
import typing
from collections.abc import Iterable
from functools import cache

from motionlex.data.errors import unknown_name


@typing.runtime_checkable
class Named(typing.Protocol):
    """Anything that is looked up by its name."""

    @property
    def name(self) -> str:
        """Name that commands take."""
        ...


Member = typing.TypeVar("Member", bound=Named)


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


def find_by_name(members: Iterable[Member], name: str, *, kind: str, where: str) -> Member:
    """Return the member of that name.

    Args:
        members: Those that exist.
        name: The name the user gave.
        kind: What is looked up, e.g. ``"method"``, for the message.
        where: Folder or file in which a new member belongs, for the message.

    Raises:
        UserError: If there is none of that name; the message lists those that exist.
    """
    found = {member.name: member for member in members}
    if name not in found:
        raise unknown_name(kind, name, found, where)
    return found[name]
