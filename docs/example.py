"""Words and a desired path from Python, without a window.

Run it by ``python docs/example.py [BUNDLE]``.
Prints what was understood, where the robot went and how far it was from its path, after physics.
"""

from __future__ import annotations

import sys

import numpy as np

from motionlex.controllers.com_path import ComPath
from motionlex.controllers.stack import Stack


def walk_a_bend(bundle: str = "builtin") -> float:
    """Wave, then walk 2 m ahead and bend to the left.

    Args:
        bundle: Folder of a bundle, or ``builtin``.

    Returns:
        Mean distance of the centre of mass from its path while it was followed [m].
    """
    stack = Stack.from_bundle(bundle, seed=0)

    given = stack.command("wave to the audience")
    print(f"{given.text!r} is nearest to {given.action} (similarity {given.similarity:.2f})")
    for _ in range(round(3 * stack.hz)):
        stack.step()

    # Times [s], places [m] and headings [rad] from here and now on: x is ahead, y to the left.
    time = np.linspace(0.0, 8.0, 81)
    turned = 0.25 * np.maximum(time - 4.0, 0.0)
    ahead = 0.5 * np.minimum(time, 4.0) + 2.0 * np.sin(turned)
    path = ComPath(time=time, xy=np.stack([ahead, 2.0 * (1.0 - np.cos(turned))], axis=1), yaw=turned)
    stack.command("walk forward", com_path=path)

    errors = []
    for _ in range(round(8 * stack.hz)):
        state = stack.step()
        assert stack.path is not None
        wanted, _ = stack.path.at(np.array([state.time]))
        errors.append(np.linalg.norm(stack.com - stack.start_com - wanted[0]))
        if state.event is not None:
            print(f"{state.time:.2f} s: {state.event}")

    x, y = stack.com - stack.start_com
    print(
        f"after {stack.time:.1f} s the robot is at ({x:.2f}, {y:.2f}) m, turned to the left by {stack.heading:.2f} rad"
    )
    print(f"codes of the last segment: {state.codes[:8]} ...")
    return float(np.mean(errors))


if __name__ == "__main__":
    print(f"mean distance from the path: {walk_a_bend(*sys.argv[1:2]):.2f} m")
