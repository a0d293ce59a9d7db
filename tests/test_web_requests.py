"""What the page asks for: cleaned, limited and queued, without a browser."""

import threading
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from motionlex.controllers.web_requests import (
    CAPACITY,
    Pause,
    Push,
    RateLimit,
    Requests,
    Reset,
    Say,
    Speed,
    Steer,
    clean_prompt,
)
from motionlex.data.errors import UserError
from motionlex.envs.web_panel import PUSHES, Listener


class Clock:
    """Time that moves by hand."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("walk forward", "walk forward"),
        ("  walk\t\nforward\r\n", "walk forward"),
        ("wa\x00lk\x1b[31m forward\x7f", "walk[31m forward"),  # an escape sequence loses what makes it one
        ("\u202ewalk\u200b forward\ufeff", "walk forward"),  # reversed direction, zero width, byte order mark
        ("walk \ud800forward", "walk forward"),  # half of a character
        ("走る 🤖", "走る 🤖"),
        ("$(rm -rf ~); DROP TABLE robots; ../../etc/passwd", "$(rm -rf ~); DROP TABLE robots; ../../etc/passwd"),
        ("x" * 300, "x" * 300),
    ],
)
def test_a_prompt_keeps_its_words_and_nothing_else(typed, meant):
    assert clean_prompt(typed) == meant


@pytest.mark.parametrize("typed", ["", "   ", "\x00\x1b", "\u200b \u200b", "x" * 301, "walk " * 2000])
def test_a_prompt_of_nothing_or_too_much_is_refused(typed):
    with pytest.raises(UserError, match=r"300|empty"):
        clean_prompt(typed)


@given(st.text(max_size=320))
def test_any_prompt_becomes_visible_words_or_is_refused(typed):
    try:
        words = clean_prompt(typed)
    except UserError:
        assert len(typed) > 300 or not any(
            unicodedata.category(c)[0] != "C" and not c.isspace() for c in typed
        )  # too long, or nothing to see
        return
    assert 0 < len(words) <= 300 and words == " ".join(words.split())
    assert not any(unicodedata.category(c).startswith("C") for c in words)
    assert clean_prompt(words) == words


def test_requests_are_let_through_as_often_as_a_count_by_hand_says():
    clock, rng = Clock(), np.random.default_rng(0)
    limit = RateLimit(gap_s=0.25, per_minute=20, clock=clock)
    taken = []  # (time, client) of every request that got through
    for _ in range(2000):
        clock.now += float(rng.exponential(0.15))
        client = int(rng.integers(3))
        minute = sum(when > clock.now - 60.0 for when, _ in taken)
        latest = max((when for when, who in taken if who == client), default=-np.inf)
        wanted = minute < 20 and latest <= clock.now - 0.25
        assert (limit.refusal(client) is None) == wanted
        if wanted:
            taken.append((clock.now, client))
    assert 80 <= len(taken) <= 120  # 20 in each of the five minutes


def test_who_asks_too_often_is_told_which_rule():
    clock = Clock()
    limit = RateLimit(gap_s=0.25, per_minute=2, clock=clock)
    assert limit.refusal(1) is None and "0.25 s" in limit.refusal(1)
    assert limit.refusal(2) is None  # another browser has a gap of its own
    clock.now += 1.0
    assert "2 requests in a minute" in limit.refusal(3)


def test_two_browsers_are_heard_in_the_order_of_their_requests():
    clock = Clock()
    requests = Requests(RateLimit(clock=clock))
    assert isinstance(requests, Listener)
    assert requests.say(" walk  forward ", 1) is None
    assert requests.say("wave", 2) is None
    assert "too soon" in requests.say("jog", 2)
    clock.now += 0.3
    assert requests.push(0.6, 0.0, 1) is None and requests.reset(2) is None
    assert requests.take() == [
        Say(text="walk forward", client=1), Say(text="wave", client=2), Push(forward=0.6, left=0.0), Reset(),
    ]  # fmt: skip
    assert requests.take() == []


def test_of_sliders_only_the_last_value_waits():
    requests = Requests()
    for step in range(500):
        requests.speed(step / 100.0)
        requests.steer((step / 1000.0, 0.0, 0.0))
        requests.pause(step % 2 == 0)
    assert requests.take() == [Speed(factor=2.0), Steer(velocity=(0.499, 0.0, 0.0)), Pause(paused=False)]
    requests.speed(float("nan"))
    requests.steer((float("inf"), 0.0, 0.0))
    requests.speed(-3.0)
    requests.steer(None)
    assert requests.take() == [Speed(factor=0.0), Steer(velocity=None)]
    requests.speed(1e-300)
    assert requests.take() == [Speed(factor=0.05)]


def test_bad_requests_leave_nothing_behind():
    requests = Requests()
    assert "300" in requests.say("x" * 301, 1) and "empty" in requests.say("\x00", 1)
    assert "at most" in requests.push(float("nan"), 0.0, 1) and "at most" in requests.push(50.0, 0.0, 1)
    assert requests.take() == []
    assert requests.say("wave", 1) is None  # refused ones did not count


def test_pushes_of_the_page_are_allowed():
    requests = Requests(RateLimit(gap_s=0.0))
    assert all(requests.push(*push, 1) is None for push in PUSHES.values())


def test_the_queue_is_bounded_and_takes_from_many_threads():
    requests = Requests(RateLimit(gap_s=0.0, per_minute=10_000))
    refused = []

    def shout(client):
        refused.extend(filter(None, (requests.say(f"word {n}", client) for n in range(50))))

    threads = [threading.Thread(target=shout, args=(client,)) for client in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    taken = requests.take()
    assert len(taken) == CAPACITY and len(refused) == 8 * 50 - CAPACITY and all("busy" in text for text in refused)
    for client in range(8):  # each thread's own requests stay in order
        own = [request.text for request in taken if request.client == client]
        assert own == [f"word {n}" for n in range(len(own))]


def test_who_waits_is_woken():
    requests = Requests()
    assert not requests.wait(0.0)
    later = threading.Timer(0.05, requests.pause, (True,))
    later.start()
    assert requests.wait(30.0) and requests.take() == [Pause(paused=True)]
    later.join()
