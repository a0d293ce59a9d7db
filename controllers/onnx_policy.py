"""An exported policy at run time: what acts is the ONNX file, through onnxruntime, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime
from jaxtyping import Float, Int

from motionlex.controllers.export_card import CARD_FORMAT, motor_output
from motionlex.data.errors import UserError
from motionlex.envs.task_config import TaskConfig
from motionlex.motion_vae.registry import PlainValue, from_plain


class OnnxPolicy:
    """Acts like :class:`motionlex.controllers.low_level_policy.LowLevelPolicy`, from an exported file alone."""

    def __init__(self, path: Path) -> None:
        """Open a file of ``motionlex export``.

        Raises:
            UserError: If there is no such file, it is no ONNX model, or another program wrote it.
        """
        if not path.is_file():
            raise UserError(f"no such file: {path}")
        self._start(path.read_bytes(), str(path))

    @classmethod
    def from_bytes(cls, content: bytes) -> OnnxPolicy:
        """Open the content of such a file."""
        policy = cls.__new__(cls)
        policy._start(content, "the model")
        return policy

    def _start(self, content: bytes, name: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1  # tiny products: more threads only wait
        try:
            self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the library's exceptions derive from nothing narrower
            raise UserError(f"{name} is no ONNX model that onnxruntime can read: {error}") from error
        props = self._session.get_modelmeta().custom_metadata_map
        if json.loads(props.get("format", "null")) != CARD_FORMAT:
            raise UserError(f"{name} was not written by motionlex export: its metadata do not say {CARD_FORMAT}")
        self.card: Mapping[str, PlainValue] = {key: json.loads(text) for key, text in props.items()}
        self.task: TaskConfig = from_plain(TaskConfig, self.card["task"])
        self._output = motor_output(self.task)
        sizes = {entry.name: entry.shape[1] for entry in self._session.get_inputs()}
        self.tokens, self.numbers = int(sizes.get("codes", 0)), int(sizes["observation"])

    def run(
        self, observation: Float[np.ndarray, "env feature"], codes: Int[np.ndarray, "env token"] | None = None
    ) -> tuple[Float[np.ndarray, "env action"], Float[np.ndarray, "env joint"]]:
        """Return the action and what the motors get (target [rad] or torque [N m]).

        Args:
            observation: The numbers of the card's ``observation``.
            codes: Codes of the running segment; goal latent only.
        """
        feed = {"observation": np.ascontiguousarray(observation, dtype=np.float32)}
        if codes is not None:
            feed["codes"] = np.ascontiguousarray(codes, dtype=np.int64)
        action, motors = self._session.run(["action", self._output], feed)
        return action, motors

    def act(self, observation: Float[np.ndarray, "env feature"]) -> Float[np.ndarray, "env action"]:
        """Return actions for the environment's observations, in which codes come first as numbers."""
        numbers = observation[:, self.tokens : self.tokens + self.numbers]
        codes = observation[:, : self.tokens].astype(np.int64) if self.tokens else None
        return self.run(numbers, codes)[0].astype(np.float64)
