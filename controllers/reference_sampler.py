"""Cached generation by the transformers library at our size: what ``benchmark sampler`` compares with."""

from collections.abc import Callable

import torch

from motionlex.motion_vae.benchmark import SamplerSize


def hugging_face_sampler(size: SamplerSize) -> Callable[[], None]:
    """Build an untrained GPT-2 with cross-attention of a given size.

    Args:
        size: Shape of the network and number of sequences.

    Returns:
        A function that generates the sequences by sampling with the library's key/value cache.
    """
    from transformers import GPT2Config, GPT2LMHeadModel  # slow to import, wanted only here

    begin_code, padding, shape = size.vocabulary, size.vocabulary + 1, size.network
    config = GPT2Config(
        vocab_size=size.vocabulary + 2, n_positions=size.tokens + 1, n_embd=shape.width, n_layer=shape.layers,
        n_head=shape.heads, n_inner=shape.mlp_ratio * shape.width, add_cross_attention=True,
        activation_function="relu", bos_token_id=begin_code, eos_token_id=None, pad_token_id=padding,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).eval().to(size.device)
    begin = torch.full((size.sequences, 1), begin_code, dtype=torch.long, device=size.device)
    memory = torch.zeros(size.sequences, size.tokens, config.n_embd, device=size.device)

    def generate() -> None:
        with torch.no_grad():
            model.generate(
                begin, encoder_hidden_states=memory, do_sample=True, top_k=0, min_new_tokens=size.tokens,
                max_new_tokens=size.tokens, use_cache=True,
            )  # fmt: skip

    return generate
