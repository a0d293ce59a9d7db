"""What is heard: how much of it is remembered, and on which thread it is embedded."""

import threading

import pytest
import torch
from watching_doubles import SlowEncoder

from motionlex.controllers.bundle import load_bundle
from motionlex.controllers.hearing import REMEMBERED, Hearing
from motionlex.controllers.stack import Stack
from motionlex.data.errors import UserError


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


def test_words_are_embedded_ahead_on_a_thread_that_ends(bundle, toy_encode):
    encode = SlowEncoder(toy_encode, "wave", "jump")
    hearing = Hearing(bundle, encode, -1.0)
    hearing.hear("stand", 0.0)
    assert not hearing.listening and not hearing.ready(" wave ") and not hearing.ready("wave")
    assert hearing.listening
    hearing.hear("stand", 0.0)  # what is known does not wait for it
    encode.may.set()
    assert hearing.ready("wave", wait_s=30.0) and hearing.ready("wave")
    heard = hearing.hear("wave", 1.0)
    assert torch.equal(heard.text, toy_encode(["wave"])[0]) and heard.command.action == "wave"
    assert not hearing.listening
    assert encode.threads["stand"] == "MainThread" and encode.threads["wave"].startswith("hearing")

    encode.may.clear()
    assert not hearing.ready("jump")
    timer = threading.Timer(0.2, encode.may.set)
    timer.start()
    hearing.close()  # waits for what cannot be stopped
    assert encode.may.is_set() and not hearing.listening
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("hearing")]
    assert hearing.hear("jump", 2.0).command.text == "jump"


def test_what_cannot_be_embedded_ahead_is_an_error_when_it_is_heard(bundle, toy_encode):
    def encode(texts):
        if texts[0] == "wave":
            raise UserError("the weights are no readable BERT")
        return toy_encode(texts)

    hearing = Hearing(bundle, encode, -1.0)
    assert hearing.ready("wave", wait_s=30.0)
    with pytest.raises(UserError, match="no readable BERT"):
        hearing.hear("wave", 0.0)
    assert not hearing.listening
    assert hearing.ready("  ")
    with pytest.raises(UserError, match="empty"):
        hearing.hear("  ", 0.0)
    hearing.close()
