"""The low-level policy as an ONNX graph: normaliser, code embedding, networks and control law in one file.

The graph is written node by node rather than traced: it needs only the package ``onnx``, keeps the names of the parts,
and its bytes depend on the policy alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from motionlex.controllers.export_card import (
    JOINT_POSITION,
    ObservationPart,
    command_part,
    motor_output,
    observation_parts,
)
from motionlex.controllers.low_level_policy import CLIP, CodeFeatures, LowLevelPolicy
from motionlex.data.robots import Robot
from motionlex.motion_vae.registry import PlainValue

OPSET, IR_VERSION = 17, 8
"""Old enough for runtimes on robots (2022), new enough for every operator used."""
Attribute = int | float | Sequence[int]


class _Graph:
    """Nodes and constants in the making; every method returns the name of its value."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, name: str, value: np.ndarray | torch.Tensor) -> str:
        array = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else value
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def number(self, name: str, value: float) -> str:
        return self.constant(name, np.array(value, dtype=np.float32))

    def add(
        self, operator: str, inputs: Sequence[str], name: str, attributes: Mapping[str, Attribute] | None = None
    ) -> str:
        self.nodes.append(helper.make_node(operator, list(inputs), [name], name=name, **dict(attributes or {})))
        return name


def policy_model(policy: LowLevelPolicy, robot: Robot, card: Mapping[str, PlainValue]) -> onnx.ModelProto:
    """Write a policy as one ONNX model.

    Inputs: ``codes`` (int64, batch x token; goal latent only) and ``observation`` (float32, batch x feature). Outputs:
    ``action``, clipped to its limit, and ``target`` [rad] or ``torque`` [N m], both float32, batch x joint.

    Args:
        policy: The policy; its critic is left out.
        robot: Whose default pose and torque limits the outputs use.
        card: Metadata; every value is stored as JSON.

    Returns:
        A checked model.
    """
    graph, shape = _Graph(), policy.shape
    numbers = shape.observation - shape.tokens
    inputs = [helper.make_tensor_value_info("observation", TensorProto.FLOAT, ["batch", numbers])]
    seen = _normalise(graph, policy, numbers)
    if policy.codes is not None:
        inputs.insert(0, helper.make_tensor_value_info("codes", TensorProto.INT64, ["batch", shape.tokens]))
        features = _code_features(graph, policy.codes)
        seen = graph.add("Concat", (features, seen), "features", {"axis": 1})
    mean = _network(graph, policy.actor, seen)
    low, high = graph.number("action.low", -shape.action_limit), graph.number("action.high", shape.action_limit)
    graph.add("Clip", (mean, low, high), "action")
    output = _motors(graph, policy, robot)
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", shape.actions]) for name in ("action", output)
    ]
    body = helper.make_graph(graph.nodes, f"motionlex_{policy.task.goal}_policy", inputs, outputs, graph.constants)
    opset = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(body, opset_imports=opset, ir_version=IR_VERSION, producer_name="motionlex")
    model.doc_string = f"{card['control_law']}. How to run it and what the numbers mean: metadata_props, JSON values."
    helper.set_model_props(model, {name: json.dumps(value) for name, value in card.items()})
    onnx.checker.check_model(model, full_check=True)
    return model


def _normalise(graph: _Graph, policy: LowLevelPolicy, numbers: int) -> str:
    """Standardise and clip as the policy does; the critic's part of the statistics is left out."""
    normaliser = policy.normaliser
    mean = graph.constant("normaliser.mean", normaliser.mean[:numbers].float())
    scale = graph.constant("normaliser.scale", torch.rsqrt(normaliser.variance[:numbers] + 1e-4).float())
    low, high = graph.number("normaliser.low", -CLIP), graph.number("normaliser.high", CLIP)
    centred = graph.add("Sub", ("observation", mean), "centred")
    return graph.add("Clip", (graph.add("Mul", (centred, scale), "standardised"), low, high), "normalised")


def _code_features(graph: _Graph, module: CodeFeatures) -> str:
    """Look the codes up in the frozen embedding and convolve over the tokens."""
    convolution = module.convolution
    table = graph.constant("codes.embedding", module.embedding)
    weight = graph.constant("codes.convolution.weight", convolution.weight)
    assert convolution.bias is not None and isinstance(convolution.padding, tuple)
    bias = graph.constant("codes.convolution.bias", convolution.bias)
    embedded = graph.add("Gather", (table, "codes"), "embedded", {"axis": 0})
    channels = graph.add("Transpose", (embedded,), "embedded_channels", {"perm": [0, 2, 1]})
    shape = {
        "kernel_shape": list(convolution.kernel_size),
        "strides": list(convolution.stride),
        "pads": [*convolution.padding, *convolution.padding],
    }
    convolved = graph.add("Conv", (channels, weight, bias), "convolved", shape)
    return graph.add("Flatten", (graph.add("Elu", (convolved,), "convolved_elu"),), "code_features", {"axis": 1})


def _network(graph: _Graph, network: nn.Sequential, value: str) -> str:
    for index, layer in enumerate(network):
        name = f"actor.{index}"
        if isinstance(layer, nn.Linear):
            weight, bias = (graph.constant(f"{name}.{part}", getattr(layer, part)) for part in ("weight", "bias"))
            value = graph.add("Gemm", (value, weight, bias), name, {"transB": 1})
        else:
            assert isinstance(layer, nn.ELU), f"no ONNX form of {type(layer).__name__} yet"
            value = graph.add("Elu", (value,), name, {"alpha": float(layer.alpha)})
    return value


def _motors(graph: _Graph, policy: LowLevelPolicy, robot: Robot) -> str:
    """Turn the action into servo targets or torques; a residual target's command stands in the observation."""
    task, output = policy.task, motor_output(policy.task)
    if task.control == "torque":
        limit = graph.constant("torque_limit", robot.torque_limit.astype(np.float32))
        return graph.add("Mul", ("action", limit), output)
    if task.goal == "latent":
        scale = graph.number("action_scale", task.absolute_scale)
        centre = graph.constant("default_pose", robot.default_pose.astype(np.float32))
    else:
        scale = graph.number("action_scale", task.residual_scale)
        parts = {part.name: part for part in observation_parts(task, robot)}
        measured = _slice(graph, parts[JOINT_POSITION])
        error = _slice(graph, parts[command_part(task.ahead[0], "joint_error")])
        centre = graph.add("Add", (measured, error), "command_joints")
    return graph.add("Add", (centre, graph.add("Mul", ("action", scale), "scaled_action")), output)


def _slice(graph: _Graph, part: ObservationPart) -> str:
    start, stop, axis = (
        graph.constant(f"{part.name}.{name}", np.array([value], dtype=np.int64))
        for name, value in (("start", part.start), ("stop", part.start + part.size), ("axis", 1))
    )
    return graph.add("Slice", ("observation", start, stop, axis), part.name)
