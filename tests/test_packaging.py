"""The wheel carries every package and its data, and its commands run away from the checkout."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # a copy: building in the checkout would leave, and reuse, a stale build folder
    kept_out = shutil.ignore_patterns(".git", ".venv", "build", "runs", "demo", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, source, ignore=kept_out)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(source)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return next(folder.glob("motionlex-*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The wheel's contents alone in a folder that comes first on the path."""
    site = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    return site


def _run(installed, *arguments):
    code = (
        "import sys; from motionlex.scripts import main; assert sys.argv.pop(1) in main.__file__; sys.exit(main.main())"
    )
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    return subprocess.run(
        [sys.executable, "-c", code, str(installed), *arguments],
        cwd=installed,
        env=environment,
        capture_output=True,
        text=True,
    )


def test_wheel_holds_only_the_motionlex_root(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {
        "motionlex",
        next(n for n in names if "dist-info" in n).split("/")[0],
    }
    assert "motionlex/data/robots/assets/h1.xml" in names
    for seed in range(3):
        assert f"motionlex/controllers/evaluators/builtin/seed_{seed}/weights.safetensors" in names
    assert not any("tests" in name for name in names)


def test_console_scripts_are_the_promised_ones(wheel):
    archive = zipfile.ZipFile(wheel)
    text = archive.read(next(n for n in archive.namelist() if n.endswith("entry_points.txt"))).decode()
    assert {line.split(" = ")[0] for line in text.splitlines() if " = " in line} == {
        "motionlex",
        "train_motion_vae",
        "train_lowlevel",
    }


def test_commands_run_from_the_wheel(installed):
    result = _run(installed, "doctor", "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout.splitlines()[-1])["packages"]["mujoco"]


def test_the_shipped_bundle_runs_from_the_wheel(installed):
    result = _run(installed, "simulate", "stand still", "--seconds", "0.5", "--viewer", "none", "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout.splitlines()[-1])["commands"][0]["text"] == "stand still"


def test_an_unknown_command_or_flag_is_one_line_and_exit_code_2(installed):
    for arguments in (("docter",), ("doctor", "--nope")):
        result = _run(installed, *arguments)
        assert result.returncode == 2 and "Traceback" not in result.stderr


def test_a_reader_that_leaves_early_gets_no_traceback():
    """As in ``motionlex doctor | head -1``: the reading end is closed before anything is printed."""
    command = [sys.executable, "-m", "motionlex.scripts.main", "doctor"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait() == 0
