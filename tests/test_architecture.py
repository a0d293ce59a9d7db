"""The house's import arrows and packaging list, read from the syntax trees."""

import ast
import importlib
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = {"data": set(), "motion_vae": {"data"}, "envs": {"data"}, "controllers": {"data", "motion_vae", "envs"}}
ROOMS["scripts"] = {"data", "motion_vae", "envs", "controllers"}
ALLOWED_LIBRARIES = {
    "mujoco": {"data", "envs"},
    "mink": {"data"},
    "transformers": {"controllers"},
    "stable_baselines3": {"envs", "controllers"},
    "loco_mujoco": {"envs"},
    "viser": {"envs"},
    "warp": {"envs"},
    "mujoco_warp": {"envs"},
    "rsl_rl": {"envs", "controllers"},
}


def _modules():
    return [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]


def _imports(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module, node


@pytest.mark.parametrize("path", _modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_follow_the_arrows(path):
    room = path.relative_to(ROOT).parts[0]
    for name, _ in _imports(path):
        top, *rest = name.split(".")
        if top == "motionlex":
            target = rest[0]
            assert target == room or target in ROOMS[room], f"{room} must not import {name}"
        assert top not in ROOMS, f"{path} imports {name} around the motionlex root"
        if top in ALLOWED_LIBRARIES:
            assert room in ALLOWED_LIBRARIES[top], f"{room} must not import {name}"


def test_the_core_never_imports_the_images():
    for path in (ROOT / "motion_vae").rglob("*.py"):
        if "images" not in path.relative_to(ROOT).parts:
            assert not any(n.startswith("motionlex.motion_vae.images") for n, _ in _imports(path)), path


def test_every_folder_with_code_is_a_listed_package():
    tomllib = pytest.importorskip("tomllib", reason="tomllib needs Python 3.11")
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    on_disk = {
        "motionlex." + ".".join(init.parent.relative_to(ROOT).parts)
        for room in ROOMS
        for init in (ROOT / room).rglob("__init__.py")
    }
    with_code = {"motionlex." + ".".join(path.parent.relative_to(ROOT).parts) for path in _modules()}
    assert set(setup["packages"]) == on_disk == with_code
    assert setup["package-dir"] == {name: "/".join(name.split(".")[1:]) for name in setup["packages"]}


def test_nothing_seeds_globally():
    """Only inside torch's fork_rng, which restores the global state, may weights be initialised from a seed."""
    globals_ = {"torch", "np.random", "numpy.random", "random", "torch.random", "torch.cuda"}
    for path in _modules():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        forked = {
            id(inner)
            for block in ast.walk(tree)
            if isinstance(block, ast.With) and any("fork_rng" in ast.unparse(item) for item in block.items)
            for inner in ast.walk(block)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and id(node) not in forked:
                seeds = node.func.attr in {"manual_seed", "seed", "manual_seed_all"}
                assert not (seeds and ast.unparse(node.func.value) in globals_), f"{path}: {ast.unparse(node)}"


def test_a_wrong_shape_is_refused_at_run_time():
    import numpy as np

    quaternion = importlib.import_module("motionlex.data.quaternion")
    with pytest.raises(Exception, match=r"(?i)type-check error|did not match|violates"):
        quaternion.conjugate(np.zeros((5, 3)))


def test_only_listed_commands_and_helpers_live_in_scripts():
    main = importlib.import_module("motionlex.scripts.main")
    for name, summary in main.available_commands().items():
        assert summary, f"{name} has no summary line"
        source = ast.parse((ROOT / "scripts" / f"{name.replace('-', '_')}.py").read_text(encoding="utf-8"))
        assert any(isinstance(n, ast.FunctionDef) and n.name == "main" for n in source.body), name


def test_importing_a_room_is_quick_and_silent():
    import subprocess

    code = (
        "import sys, motionlex.scripts.main; print([m for m in ('torch','mujoco','transformers') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]" and not result.stderr
