"""Somebody who watches a robot whose time runs by itself, and an encoder that takes its own."""

import threading
import time


class Watcher:
    """A viewer that remembers what it was shown; ``on_draw`` is called with itself at every control step."""

    def __init__(self, on_draw=lambda watcher: None):
        self.times, self.told, self.controls, self.closed, self.wishes = [], [], [], False, []
        self.on_draw, self.threads = on_draw, set()

    def draw(self, state):
        self.threads.add(threading.current_thread().name)
        if state is None:  # put somewhere
            return
        self.times.append(state.time)
        self.on_draw(self)

    def tell(self, text):
        self.told.append(text)

    def show_controls(self, *, paused, speed):
        self.controls.append((paused, speed))

    def obey(self, session):
        while self.wishes:
            self.wishes.pop(0)(session)

    def close(self):
        self.closed = True


class SlowEncoder:
    """Embeds some words only when it may; remembers which thread embedded what."""

    def __init__(self, encode, *slow):
        self.encode, self.slow, self.may = encode, slow, threading.Event()
        self.threads = {}

    def __call__(self, texts):
        self.threads[texts[0]] = threading.current_thread().name
        if texts[0] in self.slow:
            assert self.may.wait(30)
        return self.encode(texts)


def patiently(true, seconds=30.0):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.005)
