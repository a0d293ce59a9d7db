"""What is heard: how much of it is remembered."""

import pytest
import torch

from motionlex.controllers.bundle import load_bundle
from motionlex.controllers.hearing import REMEMBERED, Hearing
from motionlex.controllers.stack import Stack


@pytest.fixture(scope="module")
def bundle(tiny_bundle):
    return load_bundle(tiny_bundle)


def test_the_texts_heard_last_are_remembered_and_no_more(bundle, toy_encode):
    """By the definition of a memory of the last 256: the oldest of 257 is embedded anew, the others are not."""
    encoded = []

    def encode(texts):
        encoded.extend(texts)
        return toy_encode(texts)

    hearing = Hearing(bundle, encode, -1.0)
    first = hearing.embed("number 0")
    texts = [f"number {number}" for number in range(REMEMBERED)]
    for text in (*texts, *texts):
        hearing.embed(text)
    assert encoded == texts
    assert torch.equal(hearing.embed("number 0"), first) and torch.equal(first, toy_encode(["number 0"])[0])
    hearing.embed("one more")  # which "number 1" makes room for: nothing has asked for it for longer
    encoded.clear()
    for text in ("number 0", "number 2", "one more", "number 1"):
        hearing.embed(text)
    assert encoded == ["number 1"]
    assert hearing._embed.cache_info().currsize == REMEMBERED


def test_a_simulation_leaves_no_file_of_what_it_was_told(bundle, monkeypatch, tmp_path):
    """With the packaged encoder, under words that it has not heard before."""
    from motionlex.controllers.text import TextEncoder

    monkeypatch.setenv("MOTIONLEX_CACHE", str(tmp_path))
    stack = Stack(bundle)
    for number in range(3):
        stack.command(f"make me {number} coffees")
    stack.command("wave")
    # "stand still", which is done instead of what is not understood, and "wave" are captions.
    assert len(list(tmp_path.iterdir())) == 2
    assert torch.equal(stack.hearing.embed("wave"), TextEncoder().encode(["wave"])[0])
