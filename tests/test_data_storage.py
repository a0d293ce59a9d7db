"""Files are whole or absent; the cache never stands in the way."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from motionlex.data.errors import UserError
from motionlex.data.storage import (
    atomic_file,
    cache_folder,
    cached_arrays,
    content_key,
    file_sha256,
    read_npz,
    write_bytes,
    write_json,
    write_npz,
)


def test_sha256_equals_the_published_vector(tmp_path):
    write_bytes(tmp_path / "abc", b"abc")  # FIPS 180-2, appendix B.1
    assert file_sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_content_key_sees_types_shapes_and_borders():
    parts = [("ab", "c"), ("a", "bc"), ("abc",), (b"abc",), (1,), (1.0,), ("1",)]
    parts += [(np.zeros(4),), (np.zeros((2, 2)),), (np.zeros(8, np.float32),), (np.zeros(4), 0)]
    keys = [content_key(*p) for p in parts]
    assert len(set(keys)) == len(keys)
    assert content_key(np.arange(6).reshape(2, 3).T) == content_key(np.arange(6).reshape(2, 3).T.copy())


def test_npz_is_what_numpy_reads_and_equal_arrays_give_equal_files(tmp_path):
    arrays = {"a": np.arange(6.0).reshape(2, 3), "b": np.array(["left", "right"]), "c": np.array(3)}
    write_npz(tmp_path / "deep" / "x.npz", arrays)
    write_npz(tmp_path / "y.npz", arrays)
    assert file_sha256(tmp_path / "deep" / "x.npz") == file_sha256(tmp_path / "y.npz")
    with np.load(tmp_path / "y.npz") as found:
        for name, array in arrays.items():
            np.testing.assert_array_equal(found[name], array)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["deep", "y.npz"]
    with pytest.raises(ValueError, match="allow_pickle"):
        write_npz(tmp_path / "z.npz", {"o": np.array([None])})
    assert not (tmp_path / "z.npz").exists()


def test_a_failure_keeps_the_old_file_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "weights"
    write_bytes(path, b"old")
    with pytest.raises(KeyboardInterrupt), atomic_file(path) as file:
        file.write(b"half of the ne")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_one_error_with_the_file_name(tmp_path):
    """A process whose files may not grow beyond 64 KiB meets the same failure as a full disk."""
    code = f"""
import resource, sys, numpy as np
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
from pathlib import Path
from motionlex.data.storage import write_npz
try:
    write_npz(Path({str(tmp_path / "big.npz")!r}), {{"x": np.zeros(100_000)}})
except OSError as error:
    print(error.filename, error.strerror)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith(f"{tmp_path / 'big.npz'} cannot write:") and not done.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_place_is_one_error_with_the_file_name(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot write") as caught:
        write_json(tmp_path / "file" / "meta.json", {"a": 1})
    assert caught.value.filename == str(tmp_path / "file" / "meta.json")


def test_damaged_npz_is_refused(tmp_path):
    path = tmp_path / "x.npz"
    write_npz(path, {"x": np.arange(1000.0)})
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"x\.npz is not an intact npz"):
        read_npz(path)
    path.write_bytes(content[:200])
    with pytest.raises(UserError, match="not an intact npz"):
        read_npz(path)
    with pytest.raises(UserError, match="no such file"):
        read_npz(tmp_path / "none.npz")


def test_cache_computes_once_and_again_after_damage(tmp_path, monkeypatch):
    monkeypatch.setenv("MOTIONLEX_CACHE", str(tmp_path))
    calls = []

    def make():
        calls.append(1)
        return {"x": np.full(500, float(len(calls)))}

    assert cached_arrays("a/b:1", make)["x"][0] == cached_arrays("a/b:1", make)["x"][0] == 1.0
    assert cached_arrays("a_b_1", make)["x"][0] == 2.0  # same readable part, another key
    assert len(calls) == 2 and len(list(tmp_path.iterdir())) == 2
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:100])
    assert cached_arrays("a/b:1", make)["x"][0] == 3.0


def test_a_cache_that_cannot_be_written_is_a_warning(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MOTIONLEX_CACHE", str(tmp_path / "file"))
    with caplog.at_level(logging.WARNING):
        assert cached_arrays("k", lambda: {"x": np.ones(3)})["x"].sum() == 3
    assert "going on without" in caplog.text


def test_cache_folder_follows_the_variables(monkeypatch):
    monkeypatch.setenv("MOTIONLEX_CACHE", "/somewhere")
    assert cache_folder() == Path("/somewhere")
    monkeypatch.delenv("MOTIONLEX_CACHE")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_folder() == Path("/xdg/motionlex")


def test_import_touches_no_file(tmp_path):
    environment = {**os.environ, "MOTIONLEX_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-c", "import motionlex.data.storage"]
    subprocess.run(command, env=environment, check=True, timeout=60)
    assert not (tmp_path / "cache").exists()
