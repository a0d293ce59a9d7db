"""Files that are whole or absent: atomic writes, checksums, and a cache of computed arrays."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import re
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from motionlex.data.errors import UserError

CACHE_VARIABLE = "MOTIONLEX_CACHE"
"""Environment variable that moves the cache folder."""

_log = logging.getLogger(__name__)
_CHUNK = 1 << 20


def cache_folder() -> Path:
    """Return the cache folder (not created): ``MOTIONLEX_CACHE``, else the platform's user cache."""
    if value := os.environ.get(CACHE_VARIABLE):
        return Path(value).expanduser()
    home = Path.home()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = home / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    return base / "motionlex"


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_CHUNK):
            digest.update(block)
    return digest.hexdigest()


def content_key(*parts: str | bytes | int | float | np.ndarray) -> str:
    """Return one SHA-256 over all parts, with their types, shapes and borders.

    Args:
        parts: What the result depends on; arrays count by dtype, shape and bytes.
    """
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            header, body = f"array {part.dtype.str} {part.shape}", np.ascontiguousarray(part).tobytes()
        elif isinstance(part, bytes):
            header, body = "bytes", part
        else:
            header, body = type(part).__name__, repr(part).encode()
        digest.update(f"{header} {len(body)}\n".encode())
        digest.update(body)
    return digest.hexdigest()


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file that appears under its name only when everything was written.

    Writes go to a temporary file in the same folder, which replaces ``path`` on success and is removed on any
    failure, so that a full disk or a kill leaves the old file or none, never half of one.

    Args:
        path: Where the file shall be; its folder is created.

    Raises:
        OSError: On a full or read-only disk; carries ``path`` as its file name.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        temporary = Path(name)
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, f"cannot write: {error.strerror}", str(path)) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically, see ``atomic_file``."""
    with atomic_file(path) as file:
        file.write(content)


def write_json(path: Path, value: Mapping[str, object]) -> None:
    """Write a JSON object atomically, indented, with a final newline."""
    write_bytes(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def finite(value: object) -> object:
    """Replace numbers that JSON cannot carry (NaN, infinities) by null, at any depth."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def write_npz(path: Path, arrays: Mapping[str, np.ndarray], *, compress: bool = False) -> None:
    """Write arrays as npz atomically.

    Args:
        path: The file, name used as it is.
        arrays: By name; object arrays are refused, since they would need pickle.
        compress: Deflate the arrays.
    """
    method = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    with atomic_file(path) as file, zipfile.ZipFile(file, "w", method) as archive:
        for name, array in arrays.items():
            # A fixed date makes equal arrays give equal files, so that checksums can be compared.
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = method
            with archive.open(entry, "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Read every array of an npz; checksums inside the archive are verified.

    Raises:
        UserError: If there is no such file or it is not an intact npz without pickled objects.
    """
    if not path.is_file():
        raise UserError(f"no such file: {path}")
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (zipfile.BadZipFile, ValueError, EOFError, AttributeError, TypeError, KeyError) as error:
        # numpy's own words advise to unpickle what it cannot read.
        raise UserError(
            f"{path} is not an intact npz of plain arrays: it is damaged, another file, or holds Python objects, which "
            "are not read, since unpickling runs code; make or fetch it again"
        ) from error


def cached_arrays(key: str, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return arrays from the cache, or compute and keep them.

    A damaged cache file is computed anew; where the cache cannot be written the result is returned all the same,
    with a warning.

    Args:
        key: Names everything the result depends on (see ``content_key``); a readable beginning becomes part of the
            file name.
        make: Computes the arrays.
    """
    readable = re.sub(r"[^A-Za-z0-9_.-]+", "_", key)[:40]
    path = cache_folder() / f"{readable}-{hashlib.sha256(key.encode()).hexdigest()[:24]}.npz"
    try:
        if path.is_file():
            return read_npz(path)
    except (UserError, OSError) as error:
        _log.warning("cache: %s; computing it again", error)
    arrays = make()
    try:
        write_npz(path, arrays)
    except OSError as error:
        _log.warning("cache: %s: %s; going on without (%s moves the cache)", path, error.strerror, CACHE_VARIABLE)
    return arrays


def _umask() -> int:
    """Return the process's umask, which can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
