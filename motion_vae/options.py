"""Checks that configurations of several methods share; each raises ValueError with what, got and wanted."""

from collections.abc import Sequence


def check_vocabulary(vocabulary: int) -> None:
    """Refuse a vocabulary that carries no information.

    Raises:
        ValueError: If it has fewer than two codes.
    """
    if vocabulary < 2:
        raise ValueError(f"vocabulary must be at least 2, got {vocabulary}")


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Refuse a value that is not among the choices.

    Raises:
        ValueError: If so.
    """
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def check_positive(**values: float | int) -> None:
    """Refuse numbers that are not positive (or not numbers).

    Raises:
        ValueError: If one is not.
    """
    for name, value in values.items():
        if not value > 0.0:
            raise ValueError(f"{name} must be positive, got {value}")


def check_not_negative(**values: float | int) -> None:
    """Refuse numbers that are negative (or not numbers).

    Raises:
        ValueError: If one is.
    """
    for name, value in values.items():
        if not value >= 0.0:
            raise ValueError(f"{name} must be >= 0, got {value}")
