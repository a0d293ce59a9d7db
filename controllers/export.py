"""``motionlex export``: a trained low-level policy becomes one ONNX file that was compared with the original."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from motionlex.controllers.bundle import META, builtin_bundle, verify
from motionlex.controllers.export_card import (
    JOINT_POSITION,
    command_part,
    motor_output,
    observation_parts,
    policy_card,
)
from motionlex.controllers.low_level_policy import POLICY_FILE, LowLevelPolicy
from motionlex.controllers.low_level_setup import load_low_level_config
from motionlex.controllers.tracking_rollout import Policy
from motionlex.data.errors import UserError
from motionlex.data.robots import Robot, get_robot
from motionlex.data.storage import file_sha256, write_bytes
from motionlex.envs.task_config import TaskConfig
from motionlex.motion_vae.checkpoint import META_FILE, WEIGHTS_FILE, provenance, read_json
from motionlex.motion_vae.registry import PlainValue

logger = logging.getLogger(__name__)
LOW_LEVEL = "low_level"
TOLERANCE = 1e-5
"""Largest difference from torch, by max(1, magnitude), torques by their limits: roundings of long float32 sums."""
CHECKED_ROWS = 256
"""Random observations of the comparison."""


@dataclass(frozen=True, kw_only=True)
class ExportFlags:
    """Write the low-level policy of a run or a bundle as one ONNX file."""

    onnx: Path
    """File to write; must not exist."""
    json: bool = False
    """Print one JSON object as the last line of stdout."""


@dataclass(frozen=True, kw_only=True)
class FoundPolicy:
    """A policy on disk."""

    folder: Path
    """Folder with its weights."""
    robot: Robot
    """What it drives."""
    autoencoder: Path | None
    """Weights of the autoencoder that its codes come from, where they are at hand."""


def export_policy(target: str | None, flags: ExportFlags) -> dict[str, PlainValue]:
    """Export a policy and compare the file with it.

    Args:
        target: Run of ``train_lowlevel`` or bundle; None takes the built-in bundle.
        flags: Where to.

    Returns:
        ``onnx``, ``bytes``, ``robot``, ``goal``, ``control``, ``hz``, ``inputs`` and ``outputs`` (sizes by name),
        ``checked_with``, ``checked_rows`` and ``largest_difference``.

    Raises:
        UserError: If a package is missing, the target is no policy, the file exists, or it does not compute what the
            policy does.
    """
    if importlib.util.find_spec("onnx") is None:
        raise UserError("motionlex export needs the package onnx: pip install 'motionlex[export]'")
    if flags.onnx.exists():
        raise UserError(f"{flags.onnx} exists: choose another --onnx or remove it")
    found = find_policy(target)
    policy = LowLevelPolicy.load(found.folder)
    content = policy_bytes(policy, found.robot, _source(found))
    backend, difference = compare(content, policy, found.robot)
    write_bytes(flags.onnx, content)
    shape, task = policy.shape, policy.task
    inputs = {"codes": shape.tokens} if shape.tokens else {}
    return {
        "onnx": str(flags.onnx),
        "bytes": len(content),
        "robot": found.robot.name,
        "goal": task.goal,
        "control": task.control,
        "hz": task.hz,
        "inputs": {**inputs, "observation": shape.observation - shape.tokens},
        "outputs": {"action": shape.actions, motor_output(task): shape.actions},
        "checked_with": backend,
        "checked_rows": CHECKED_ROWS,
        "largest_difference": difference,
    }


def find_policy(target: str | None) -> FoundPolicy:
    """Find the low-level policy of a run or a bundle.

    Raises:
        UserError: If the target is neither, or the bundle is damaged.
    """
    if target == "":
        raise UserError("the target is empty: give a run of train_lowlevel or a bundle, or leave it out")
    folder = builtin_bundle() if target in (None, "builtin") else Path(str(target))
    if (folder / META).is_file() and (folder / LOW_LEVEL / POLICY_FILE).is_file():
        meta = verify(folder)
        robot, vae = get_robot(meta.robot), folder / "vae" / WEIGHTS_FILE
        return FoundPolicy(folder=folder / LOW_LEVEL, robot=robot, autoencoder=vae)
    if not (folder / POLICY_FILE).is_file():
        what = f"it has no {POLICY_FILE}" if folder.is_dir() else "there is no such folder"
        raise UserError(f"{folder} is neither a run of train_lowlevel nor a bundle: {what}")
    config = load_low_level_config(folder)
    vae = None if config.vae is None else Path(config.vae) / WEIGHTS_FILE
    known = vae if vae is not None and vae.is_file() else None
    return FoundPolicy(folder=folder, robot=get_robot(config.robot), autoencoder=known)


def exported_policy(path: Path, task: TaskConfig) -> Policy:
    """Open an exported file to act in place of the weights of a run of that task.

    Raises:
        UserError: If onnxruntime is missing, or the file is none of ours or for another task.
    """
    if importlib.util.find_spec("onnxruntime") is None:
        raise UserError("--policy needs the package onnxruntime: pip install 'motionlex[export]'")
    from motionlex.controllers.onnx_policy import OnnxPolicy

    policy = OnnxPolicy(path)
    names = ("goal", "control", "hz", "ahead", "action_limit", "residual_scale", "absolute_scale")
    for name in names:
        got, wanted = getattr(policy.task, name), getattr(task, name)
        if got != wanted:
            raise UserError(f"--policy {path} was exported for {name} {got!r}, the target has {wanted!r}")
    return policy


def policy_bytes(policy: LowLevelPolicy, robot: Robot, source: Mapping[str, PlainValue]) -> bytes:
    """Return the content of the ONNX file of a policy.

    Raises:
        UserError: If the observation is not the one that the card describes.
    """
    from motionlex.controllers.onnx_graph import policy_model

    shape = policy.shape
    described = sum(part.size for part in observation_parts(policy.task, robot))
    if described != shape.observation - shape.tokens or bool(shape.tokens) != (policy.task.goal == "latent"):
        raise UserError(
            f"the policy sees {shape.observation - shape.tokens} numbers and {shape.tokens} codes; goal "
            f"{policy.task.goal!r} on {robot.name} has {described}: it was made by another version or for another robot"
        )
    return policy_model(policy, robot, policy_card(policy, robot, source)).SerializeToString(deterministic=True)


def compare(content: bytes, policy: LowLevelPolicy, robot: Robot) -> tuple[str, float]:
    """Run the file beside the policy on random observations, some of them far beyond the normaliser's clip.

    Args:
        content: The ONNX file.
        policy: What it must compute.
        robot: The robot.

    Returns:
        What ran the file (``onnxruntime``, or onnx's slow reference where that is missing), and the largest difference
        of any output, divided by max(1, its magnitude), for torques by their limit.

    Raises:
        UserError: If the difference is beyond ``TOLERANCE``.
    """
    shape, numbers = policy.shape, policy.shape.observation - policy.shape.tokens
    generator = np.random.default_rng(0)
    spread = np.where(np.arange(CHECKED_ROWS) % 8 == 0, 100.0, 2.0)[:, None]
    mean, variance = (x[:numbers].cpu().numpy() for x in (policy.normaliser.mean, policy.normaliser.variance))
    seen = (mean + spread * np.sqrt(variance + 1e-4) * generator.standard_normal((CHECKED_ROWS, numbers))).astype("f4")
    feed = {"observation": seen}
    if shape.tokens:
        feed["codes"] = generator.integers(shape.vocabulary, size=(CHECKED_ROWS, shape.tokens))
    names = ("action", motor_output(policy.task))
    backend, outputs = _run(content, names, feed)
    whole = np.concatenate((feed["codes"], seen), axis=1) if shape.tokens else seen
    action = policy.act(whole.astype(np.float32))
    full = robot.torque_limit if policy.task.control == "torque" else np.ones(shape.actions)
    wanted = ((action, np.ones(shape.actions)), (motor_signal(policy, robot, seen, action), full))
    ratios = [
        np.abs(got - value) / np.maximum(unit, np.abs(value))
        for got, (value, unit) in zip(outputs, wanted, strict=True)
    ]
    worst = float(np.max(ratios))  # NaN, from weights that are no numbers, stays NaN and is refused
    if not worst <= TOLERANCE:
        raise UserError(f"the exported file differs from the policy by {worst:.2g} ({backend}); nothing was written")
    logger.info("the file equals the policy to %.2g on %d random observations (%s)", worst, CHECKED_ROWS, backend)
    return backend, worst


def motor_signal(
    policy: LowLevelPolicy,
    robot: Robot,
    observation: Float[np.ndarray, "env feature"],
    action: Float[np.ndarray, "env action"],
) -> Float[np.ndarray, "env joint"]:
    """Return what the second output must be, in float64: servo targets [rad] or torques [N m]."""
    task = policy.task
    if task.control == "torque":
        return action * robot.torque_limit
    if task.goal == "latent":
        return robot.default_pose + task.absolute_scale * action
    names = (JOINT_POSITION, command_part(task.ahead[0], "joint_error"))
    parts = (part for part in observation_parts(task, robot) if part.name in names)
    command = sum(observation[:, part.start : part.start + part.size].astype(np.float64) for part in parts)
    return command + task.residual_scale * action


def _run(content: bytes, names: tuple[str, str], feed: Mapping[str, np.ndarray]) -> tuple[str, list[np.ndarray]]:
    if importlib.util.find_spec("onnxruntime") is not None:
        from motionlex.controllers.onnx_policy import OnnxPolicy

        action, motors = OnnxPolicy.from_bytes(content).run(feed["observation"], feed.get("codes"))
        return "onnxruntime", [action, motors]
    from onnx import load_from_string
    from onnx.reference import ReferenceEvaluator

    return "onnx reference", ReferenceEvaluator(load_from_string(content)).run(list(names), dict(feed))


def _source(found: FoundPolicy) -> dict[str, PlainValue]:
    """Collect where a policy comes from; no paths, since the file travels."""
    path = found.folder / META_FILE
    meta = read_json(path) if path.is_file() else {}
    return {
        "commit": meta.get("commit"),
        "seed": meta.get("seed"),
        "steps": meta.get("steps"),
        "weights_sha256": file_sha256(found.folder / WEIGHTS_FILE),
        "autoencoder_sha256": None if found.autoencoder is None else file_sha256(found.autoencoder),
        "exporter": {"commit": provenance()["commit"], "torch": torch.__version__},
    }
