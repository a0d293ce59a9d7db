"""The low-level policy: observation -> action, its normaliser and its frozen code embedding inside."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
import torch
from jaxtyping import Float
from torch import Tensor, nn

from motionlex.data.errors import UserError
from motionlex.data.storage import write_bytes, write_json
from motionlex.envs.task_config import TaskConfig
from motionlex.motion_vae import distributed
from motionlex.motion_vae.registry import PlainValue, from_plain

POLICY_FILE, WEIGHTS_FILE = "policy.json", "weights.safetensors"
CLIP = 8.0
"""Largest normalised observation."""


@dataclass(frozen=True, kw_only=True)
class PolicyShape:
    """Sizes of the networks."""

    observation: int
    """Numbers the policy sees; with codes, the first ``tokens`` are code indices."""
    critic_observation: int
    """Numbers the critic sees: the policy's, then privileged ones."""
    actions: int
    """Number of motors."""
    action_limit: float
    """Bound of every action."""
    hidden: tuple[int, ...] = (256, 256)
    """Widths of actor and critic (separate networks)."""
    tokens: int = 0
    """Codes at the start of the observation; 0 for goals without codes."""
    vocabulary: int = 0
    """Number of code values."""
    code_width: int = 0
    """Width of the frozen code embedding."""
    channels: int = 16
    """Output channels of the convolution over the codes."""
    initial_std: float = 0.5
    """Initial standard deviation of the actions."""


class Normaliser(nn.Module):
    """Running mean and variance of observations (buffers, hence saved with the weights); output clipped to +-8."""

    mean: Tensor
    variance: Tensor
    count: Tensor

    def __init__(self, size: int) -> None:
        """Start as the identity."""
        super().__init__()
        self.register_buffer("mean", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("variance", torch.ones(size, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    def forward(self, x: Float[Tensor, "batch feature"]) -> Float[Tensor, "batch feature"]:
        """Standardise and clip."""
        scale = torch.rsqrt(self.variance + 1e-4).float()
        return ((x - self.mean.float()) * scale).clamp(-CLIP, CLIP)

    @torch.no_grad()
    def update(self, x: Float[Tensor, "batch feature"]) -> None:
        """Fold a batch in by Chan's parallel formula; under torchrun the batches of all ranks, equally long."""
        x, ranks = x.double(), distributed.world_size()
        rows = float(len(x) * ranks)
        mean = distributed.synchronised_sum(x.mean(0)) / ranks
        variance = distributed.synchronised_sum((x - mean).square().mean(0)) / ranks
        total = self.count + rows
        delta = mean - self.mean
        within = self.variance * self.count + variance * rows + delta**2 * self.count * rows / total
        self.mean += delta * rows / total
        self.variance.copy_(within / total)
        self.count.copy_(total)


def _mlp(inputs: int, hidden: tuple[int, ...], outputs: int, last_gain: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in hidden:
        linear = nn.Linear(inputs, width)
        nn.init.orthogonal_(linear.weight, 2.0**0.5)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ELU()]
        inputs = width
    last = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(last.weight, last_gain)
    nn.init.zeros_(last.bias)
    return nn.Sequential(*layers, last)


KERNEL, STRIDE, PADDING = 8, 4, 2
"""Of the convolution over the codes, in tokens."""


class CodeFeatures(nn.Module):
    """Frozen code embedding followed by one convolution over the tokens (DAPS, appendix K).

    The embedding is frozen, so that a tap of the convolution is a table with one row per code: the layer looks up and
    adds ``KERNEL`` rows instead of multiplying. While it learns, rows of a batch that show the same segment (control
    steps of one segment do) are computed once.
    """

    embedding: Tensor

    def __init__(self, vocabulary: int, width: int, channels: int) -> None:
        """Make the layer; the embedding is filled by :meth:`LowLevelPolicy.set_codebook` or a loaded file."""
        super().__init__()
        self.register_buffer("embedding", torch.zeros(vocabulary, width))
        self.convolution = nn.Conv1d(width, channels, kernel_size=KERNEL, stride=STRIDE, padding=PADDING)

    def forward(self, codes: Float[Tensor, "batch token"]) -> Float[Tensor, "batch feature"]:
        """Embed and convolve; indices arrive as floats inside the observation."""
        if not (torch.is_grad_enabled() and codes.device.type == "cpu"):
            return self._convolved(codes)
        # Sorting numbers is cheaper than sorting rows; should two rows ever share a number, nothing is saved.
        weights = torch.sin(torch.arange(1.0, codes.shape[1] + 1.0, dtype=torch.float64))
        numbers, place = torch.unique(codes.double() @ weights, return_inverse=True)
        first = torch.empty(len(numbers), dtype=torch.long)
        first[place] = torch.arange(len(codes))
        different = codes[first]
        return self._convolved(different)[place] if torch.equal(different[place], codes) else self._convolved(codes)

    def _convolved(self, codes: Float[Tensor, "batch token"]) -> Float[Tensor, "batch feature"]:
        vocabulary, channels = len(self.embedding), self.convolution.out_channels
        taps = torch.einsum("vi,oik->kvo", self.embedding, self.convolution.weight).float()
        nothing = taps.new_zeros(1, channels)  # beyond both ends
        table = torch.cat((taps.reshape(-1, channels), nothing))
        shown = nn.functional.pad(codes.long(), (PADDING, PADDING), value=-1).unfold(1, KERNEL, STRIDE)
        tap = vocabulary * torch.arange(KERNEL, device=codes.device)
        rows = torch.where(shown < 0, KERNEL * vocabulary, shown + tap)
        added = nn.functional.embedding_bag(rows.reshape(-1, KERNEL), table, mode="sum") + self.convolution.bias
        return nn.functional.elu(added.view(len(codes), -1, channels).transpose(1, 2)).flatten(1)


class LowLevelPolicy(nn.Module):
    """Gaussian policy with separate critic; ``act`` is what the robot runs."""

    def __init__(self, shape: PolicyShape, task: TaskConfig) -> None:
        """Make untrained networks; weights come from torch's global generator.

        Args:
            shape: Sizes.
            task: What the policy is for; saved with it, since gains, scales and rates are part of its meaning.
        """
        super().__init__()
        self.shape = shape
        self.task = task
        features = shape.observation - shape.tokens
        self.normaliser = Normaliser(shape.critic_observation - shape.tokens)
        self.codes: CodeFeatures | None = None
        self.critic_codes: CodeFeatures | None = None
        if shape.tokens:
            self.codes = CodeFeatures(shape.vocabulary, shape.code_width, shape.channels)
            with torch.no_grad():
                features += self.codes(torch.zeros(1, shape.tokens)).shape[1]
        privileged = shape.critic_observation > shape.observation
        self.actor = _mlp(features, shape.hidden, shape.actions, 0.01)
        # A critic that sees the reference itself needs no codes; otherwise it sees what the actor sees.
        self._critic_start = shape.observation - shape.tokens if privileged else 0
        inputs = shape.critic_observation - shape.observation if privileged else features
        if shape.tokens and not privileged:
            self.critic_codes = CodeFeatures(shape.vocabulary, shape.code_width, shape.channels)
        self.critic = _mlp(inputs, shape.hidden, 1, 1.0)
        self.log_std = nn.Parameter(torch.full((shape.actions,), float(np.log(shape.initial_std))))

    def set_codebook(self, codebook: Float[Tensor, "code feature"]) -> None:
        """Copy the autoencoder's code embedding, scaled to unit variance; it is never trained here."""
        scaled = codebook.detach().float() / codebook.detach().float().std().clamp_min(1e-6)
        for module in (self.codes, self.critic_codes):
            if module is not None:
                module.embedding.copy_(scaled)

    def _split(self, observation: Float[Tensor, "batch feature"]) -> tuple[Tensor, Tensor]:
        tokens = self.shape.tokens
        codes, numbers = observation[:, :tokens], observation[:, tokens:]
        missing = self.normaliser.mean.shape[0] - numbers.shape[1]
        if missing:  # at run time nobody gives the privileged part; the actor does not look at it
            numbers = nn.functional.pad(numbers, (0, missing))
        return codes, self.normaliser(numbers)

    def mean(self, observation: Float[Tensor, "batch feature"]) -> Float[Tensor, "batch action"]:
        """Return the mean action, not yet clipped, as float32.

        PPO computes it without autocast where there is little noise: rounding the mean by d between acting and the
        update looks like a divergence of d^2 / (2 std^2), in bf16 0.0003 nat at a deviation of 0.35, 0.006 at 0.12.
        """
        codes, numbers = self._split(observation)
        seen = numbers[:, : self.shape.observation - self.shape.tokens]
        return self.actor(seen if self.codes is None else torch.cat((self.codes(codes), seen), dim=1)).float()

    def value(self, observation: Float[Tensor, "batch feature"]) -> Float[Tensor, " batch"]:
        """Return the critic's value."""
        codes, numbers = self._split(observation)
        seen = numbers[:, self._critic_start :]
        if self.critic_codes is not None:
            seen = torch.cat((self.critic_codes(codes), seen), dim=1)
        return self.critic(seen)[:, 0].float()

    def update_normaliser(self, observation: Float[Tensor, "batch feature"]) -> None:
        """Fold collected observations into the running statistics."""
        self.normaliser.update(observation[:, self.shape.tokens :])

    @torch.no_grad()
    def act(self, observation: Float[np.ndarray, "env feature"]) -> Float[np.ndarray, "env action"]:
        """Return the deterministic, bounded action for observations (as float64)."""
        x = torch.as_tensor(observation, dtype=torch.float32, device=self.log_std.device)
        limit = self.shape.action_limit
        return self.mean(x).clamp(-limit, limit).cpu().numpy().astype(np.float64)

    def save(self, folder: Path) -> None:
        """Write ``policy.json`` (shape and task) and ``weights.safetensors`` (normaliser inside) into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / POLICY_FILE, {"shape": asdict(self.shape), "task": asdict(self.task)})
        tensors = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}
        write_bytes(
            folder / WEIGHTS_FILE, safetensors.torch.save(tensors, metadata={"format": "motionlex-low-level-1"})
        )

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> LowLevelPolicy:
        """Read a policy for use, without gradients.

        Raises:
            UserError: If files are missing or damaged, or do not fit each other.
        """
        folder = Path(folder)
        plain = read_plain(folder / POLICY_FILE)
        try:
            shape = from_plain(PolicyShape, plain["shape"])
            task = from_plain(TaskConfig, plain["task"])
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{folder / POLICY_FILE} is damaged: {error}") from error
        policy = cls(shape, task)
        try:
            policy.load_state_dict(read_weights(folder / WEIGHTS_FILE))
        except RuntimeError as error:
            raise UserError(f"{folder / WEIGHTS_FILE} does not fit {POLICY_FILE}: {error}") from error
        return policy.to(device).eval().requires_grad_(False)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        UserError: If it is missing or damaged.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing")
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, ValueError) as error:
        raise UserError(f"{path} is damaged: {error}") from error


def read_plain(path: Path) -> Mapping[str, PlainValue]:
    """Read a JSON object whose lists become tuples, as the dataclasses hold them.

    Raises:
        UserError: If it is missing or damaged.
    """
    try:
        values = _tuples(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise UserError(f"{path} is missing") from None
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} is damaged: it holds no JSON object")
    return values


def _tuples(value: object) -> object:
    if isinstance(value, list):
        return tuple(_tuples(item) for item in value)
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return value
