"""What the shipped bundle does with held-out captions and desired paths, in processes of their own."""

import numpy as np
import torch

from motionlex.controllers.bundle import builtin_bundle, bundle_encoder, load_bundle
from motionlex.controllers.evaluation_paths import arc_path, follow_path
from motionlex.controllers.evaluation_rollouts import Stacks, perform
from motionlex.controllers.evaluation_scores import Jury
from motionlex.controllers.motion_classifier import fit_classifier
from motionlex.data.captions import held_out_captions
from motionlex.data.datasets import load_dataset
from motionlex.data.robots import get_robot

PROMPT_S, PATH_S = 3.0, 5.0
SPEED_MPS, TURNS = 0.6, (0.0, 0.3, -0.3)


def stacks():
    torch.set_num_threads(1)
    bundle = load_bundle(builtin_bundle())
    return Stacks(bundle=bundle, encode=bundle_encoder(bundle).encode)


def recognised(robots=None):
    """Command one held-out caption of every action; (action, what the last 2 s of the simulated states show)."""
    robots = robots or stacks()
    judge = fit_classifier(load_dataset("builtin", None, hz=robots.bundle.meta.hz).train)
    jury = Jury(judge=judge, robot=get_robot("h1"))
    return [
        (action, jury.recognise(perform(robots.make(number), action, held_out_captions(action)[0], PROMPT_S).take))
        for number, action in enumerate(judge.labels)
    ]


def path_errors(robots=None):
    """Lead the robot without words along two straight paths and four arcs; mean distance of each [m], and falls."""
    robots = robots or stacks()
    errors, falls = [], 0
    for number in range(6):
        stack = robots.make(2000 + number)
        part = follow_path(stack, arc_path(SPEED_MPS, TURNS[number % 3], PATH_S), None, PATH_S)
        errors.append(float(np.linalg.norm(part.measured_xy - part.wanted_xy, axis=1).mean()))
        falls += stack.fell
    return errors, falls
