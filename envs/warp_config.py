"""Sizes of MuJoCo Warp's buffers; needs neither Warp nor a GPU to be read."""

from __future__ import annotations

from dataclasses import dataclass

from motionlex.data.errors import check_number


@dataclass(frozen=True, kw_only=True)
class WarpBuffers:
    """Room for contacts and constraints on the device; what does not fit is dropped and reported.

    On the H1, reference poses of LAFAN1's falls have 5 contacts on average and 33 at most, with 132 constraint rows;
    standing has up to 8 contacts.
    """

    contacts: int = 24
    """Contacts per world, on average over the worlds: one may take more than its share."""
    constraints: int = 192
    """Constraint rows of each world: four per contact, one per hinge at its limit."""

    def __post_init__(self) -> None:
        for name in ("contacts", "constraints"):
            check_number(name, getattr(self, name), above=0)
