"""Cached generation by the transformers library at our size: what ``benchmark sampler`` compares with."""

from collections.abc import Callable

import torch

TOKENS = 64
"""Codes per sequence."""


def hugging_face_sampler(sequences: int) -> Callable[[], None]:
    """Build an untrained GPT-2 of the paper's size: width 128, 2 layers, 4 heads, 1024 codes, cross-attention.

    Args:
        sequences: Sequences generated at once.

    Returns:
        A function that generates ``sequences`` of 64 codes by sampling with the library's key/value cache.
    """
    from transformers import GPT2Config, GPT2LMHeadModel  # slow to import, wanted only here

    config = GPT2Config(
        vocab_size=1025, n_positions=TOKENS + 1, n_embd=128, n_layer=2, n_head=4, n_inner=512, add_cross_attention=True,
        activation_function="relu", bos_token_id=1024, eos_token_id=None, pad_token_id=1024,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).eval()
    begin = torch.full((sequences, 1), 1024, dtype=torch.long)
    memory = torch.zeros(sequences, TOKENS, config.n_embd)

    def generate() -> None:
        with torch.no_grad():
            model.generate(
                begin, encoder_hidden_states=memory, do_sample=True, top_k=0, min_new_tokens=TOKENS,
                max_new_tokens=TOKENS, use_cache=True,
            )  # fmt: skip

    return generate
