"""Scripts: one command per line, from a file or from stdin, checked to the last line before anything moves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from motionlex.controllers.bundle import resolve_bundle
from motionlex.controllers.instructions import Instruction, read_line
from motionlex.controllers.recording import check_new
from motionlex.data.errors import UserError

LARGEST = 1_000_000
"""Bytes of a script that are read."""


def read_script(path: Path) -> tuple[str, ...]:
    """Return the lines of a script, without comments (from ``#`` at the beginning of a line) and empty lines.

    Raises:
        UserError: If it is no file of text, too long, or without any line.
    """
    try:
        content = path.read_bytes() if path.is_file() else None
    except OSError as error:
        raise UserError(f"--script {path} cannot be read: {error.strerror}") from error
    if content is None:
        what = "is a folder" if path.is_dir() else "is no file"
        raise UserError(f"--script {path} {what}: give a text file with one command per line, or - for stdin")
    lines = script_lines(content, f"--script {path}")
    if not lines:
        raise UserError(f'--script {path} holds no command: give one per line, e.g. "walk forward:5"')
    return lines


def script_lines(content: bytes, name: str) -> tuple[str, ...]:
    """Return the lines of a script that was read.

    Args:
        content: Its bytes, UTF-8.
        name: What to call it in messages.

    Raises:
        UserError: If it is no text, or too long.
    """
    if len(content) > LARGEST:
        raise UserError(f"{name} is longer than {LARGEST} bytes")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is not text: byte {error.start} is not UTF-8") from error
    if "\0" in text:
        raise UserError(f"{name} is not text: it holds zero bytes")
    lines = tuple(line.strip() for line in text.replace("\r\n", "\n").split("\n"))
    return tuple(line for line in lines if line and not line.startswith("#"))


def read_instructions(lines: Sequence[str], seconds: float | None, name: str | None = None) -> tuple[Instruction, ...]:
    """Read lines, and find out now what could go wrong with their files later.

    Args:
        lines: What was given.
        seconds: Duration of words without one of their own [s]; None means 5.
        name: What to call a script in messages; None for lines that speak for themselves.

    Raises:
        UserError: On the first bad line.
    """
    return tuple(_checked(line, seconds, "" if name is None else f"{name}: ") for line in lines)


def _checked(line: str, seconds: float | None, where: str) -> Instruction:
    try:
        instruction = read_line(line, seconds)
        check_files(instruction)
    except UserError as error:
        raise UserError(f"{where}{error}") from error
    return instruction


def check_files(instruction: Instruction) -> None:
    """Refuse a file that exists already or cannot be written, and a bundle that is not there.

    Raises:
        UserError: Naming it.
    """
    if instruction.verb == "save":
        check_new(Path(instruction.text))
    elif instruction.verb == "bundle":
        resolve_bundle(instruction.text)
