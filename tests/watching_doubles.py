"""Somebody who watches a robot whose time runs by itself."""

import threading
import time


class Watcher:
    """A viewer that remembers what it was shown; ``on_draw`` is called with itself at every control step."""

    def __init__(self, on_draw=lambda watcher: None):
        self.times, self.told, self.controls, self.closed, self.wishes = [], [], [], False, []
        self.on_draw, self.threads = on_draw, set()

    def draw(self, state):
        self.threads.add(threading.current_thread().name)
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


def patiently(true, seconds=30.0):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.005)
