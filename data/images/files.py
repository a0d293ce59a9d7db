"""Finding the files of a data set below a folder, and making sure that they are the official ones."""

from __future__ import annotations

import hashlib
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from motionlex.data.errors import UserError

_CHUNK = 1 << 20


class MissingDataError(UserError):
    """A data set is not there at all, so that a command may take another; never raised for one that is damaged."""


def missing(name: str, root: Path, what: str, download: str) -> MissingDataError:
    """Build the error for a data set that is not there.

    Args:
        name: The data set.
        root: Where it was looked for.
        what: What is missing.
        download: What to fetch from where.
    """
    return MissingDataError(f"data set {name!r} is not in {root}: no {what}. {download}")


def incomplete(name: str, root: Path, what: str, download: str) -> UserError:
    """Build the error for a data set of which a part is there and a part is not; see :func:`missing`."""
    return UserError(f"data set {name!r} is incomplete in {root}: no {what}. {download}")


def folders(root: Path, names: Sequence[str]) -> tuple[Path, ...]:
    """Return the folders in which to look: the usual ones below a root that exist, then the root itself."""
    return (*(root / name for name in names if (root / name).is_dir()), root)


def find_file(places: Sequence[Path], names: Sequence[str]) -> Path | None:
    """Return the first file of one of the names, folder by folder, or None."""
    for place in places:
        for name in names:
            if (place / name).is_file():
                return place / name
    return None


def find_archives(places: Sequence[Path], pattern: str) -> tuple[Path, ...]:
    """Return the files of a pattern, folder by folder."""
    return tuple(path for place in places for path in sorted(place.glob(pattern)) if path.is_file())


def find_all(places: Sequence[Path], *alternatives: Sequence[str]) -> Path | None:
    """Return the first file of the first alternative all of which is there, by names alone.

    Args:
        places: Folders to look in.
        alternatives: Patterns of files or folders; every pattern of one alternative must match in some place.
    """
    for patterns in alternatives:
        found = [next((path for place in places for path in sorted(place.glob(one))), None) for one in patterns]
        if all(path is not None for path in found):
            return found[0]
    return None


def digest_of(chunks: Iterator[bytes] | Sequence[bytes]) -> str:
    """Return the MD5 of some bytes, which is what the publishers of these data sets give."""
    found = hashlib.md5(usedforsecurity=False)
    for chunk in chunks:
        found.update(chunk)
    return found.hexdigest()


def check_sum(path: Path, wanted: str) -> None:
    """Compare the MD5 of a file with the official one.

    Raises:
        UserError: If they differ.
    """
    with open(path, "rb") as file:
        got = digest_of(iter(lambda: file.read(_CHUNK), b""))
    if got != wanted:
        raise wrong_sum(str(path), got, wanted)


def wrong_sum(name: str, got: str, wanted: str) -> UserError:
    """Build the error for a file that is not the official one."""
    return UserError(f"{name} has MD5 {got}, wanted {wanted}: it is damaged or another file; download it again")


def check_size(path: Path, wanted: int) -> None:
    """Compare the size of a file with the official one.

    Raises:
        UserError: If they differ.
    """
    if (got := path.stat().st_size) != wanted:
        raise UserError(f"{path} has {got:,} bytes, wanted {wanted:,}: it is incomplete or another file")


def read_members(path: Path, wanted: Sequence[str]) -> dict[str, bytes]:
    """Read files out of a tar archive, compressed or not.

    Args:
        path: The archive.
        wanted: Names of the files, without folders.

    Returns:
        Contents by name, of those that are there.

    Raises:
        UserError: If the archive is damaged.
    """
    found: dict[str, bytes] = {}
    with open_tar(path) as archive:
        for member in archive:
            name = member.name.rpartition("/")[2]
            if member.isfile() and name in wanted and (file := archive.extractfile(member)) is not None:
                found[name] = file.read()
    return found


@contextmanager
def open_tar(path: Path) -> Iterator[tarfile.TarFile]:
    """Open a tar archive; damage found while it is read is reported under its name.

    Raises:
        UserError: If it is none, or damaged.
    """
    try:
        with tarfile.open(path) as archive:
            yield archive
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise UserError(f"{path} is not an intact tar archive: {error}; download it again") from error
