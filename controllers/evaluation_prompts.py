"""Prompt sensitivity: does the simulated robot do what it is told, or what it would do anyway?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from motionlex.controllers.evaluation_rollouts import Stacks, perform
from motionlex.controllers.evaluation_scores import Jury, Value, share
from motionlex.controllers.evaluation_takes import Take
from motionlex.controllers.motion_classifier import confusion
from motionlex.controllers.progress import ProgressLine
from motionlex.controllers.stack_state import StackConfig

FOREIGN = (
    "make me a coffee",
    "play the piano",
    "swim to the other side of the pool",
    "drive the car to the office",
    "write a letter to your mother",
    "climb up the ladder",
    "do a backflip",
    "stand on your hands",
    "crawl under the table",
    "ride a bicycle",
    "open the door with the key",
    "read the newspaper aloud",
    "paint the fence white",
    "what is the capital of France?",
    "tell me a joke about robots",
    "cook spaghetti for four people",
    "sleep until tomorrow morning",
    "solve this equation for x",
    "fly to the moon",
    "knit a woollen pullover",
    "water the flowers in the garden",
    "the weather is nice today",
    "translate this sentence into Japanese",
    "buy two tickets for the theatre",
    "DROP TABLE users; --",
    "rm -rf /home",
    "import numpy as np",
    "lorem ipsum dolor sit amet",
    "geh bitte langsam nach vorne",
    "marche vers la porte",
)
"""Prompts that no library of ours holds: other deeds, questions, code, other languages."""
EMPTY_SEED, SHUFFLED_SEED = 3000, 4000
"""Numbers of the first robots: the codes of other tests are other draws."""


def evaluate_sensitivity(
    jury: Jury, stacks: Stacks, prompts: Sequence[tuple[str, str]], seconds: float
) -> dict[str, Value]:
    """Give the simulated robot other texts than the prompts: those of other actions, none at all, and foreign ones.

    Args:
        jury: Who judges.
        stacks: Makes the robots.
        prompts: Pairs (action, held-out caption).
        seconds: Duration of each [s].
    """
    return {
        "shuffled_text": shuffled_text(jury, stacks, prompts, seconds),
        "empty_text": empty_text(jury, stacks, len(jury.judge.labels), seconds),
        "foreign_text": foreign_text(stacks, [caption for _, caption in prompts]),
    }


def exchange(prompts: Sequence[tuple[str, str]], rng: np.random.Generator) -> list[tuple[str, str, str]]:
    """Give every prompt the caption of another action, each caption once where that is possible.

    A random order is mended by exchanging captions that stayed with their action; where one action has more than half
    of all prompts, a caption of another action is used again.

    Args:
        prompts: Pairs (action, caption).
        rng: Source of the order.

    Returns:
        Triples (action, caption that is given instead, action of that caption); none if there is one action only.
    """
    actions = [action for action, _ in prompts]
    if len(set(actions)) < 2:
        return []
    order = list(rng.permutation(len(prompts)))
    for place, action in enumerate(actions):
        if actions[order[place]] != action:
            continue
        for other in rng.permutation(len(prompts)):
            if actions[order[other]] != action and actions[order[place]] != actions[other]:
                order[place], order[other] = order[other], order[place]
                break
        else:
            order[place] = rng.choice([index for index, name in enumerate(actions) if name != action])
    return [(action, prompts[given][1], prompts[given][0]) for action, given in zip(actions, order, strict=True)]


def shuffled_text(jury: Jury, stacks: Stacks, prompts: Sequence[tuple[str, str]], seconds: float) -> dict[str, Value]:
    """Command the caption of another action in place of each prompt.

    Returns:
        ``accuracy``: share recognised as the prompt's own action, which nobody commanded; a robot that listens is not
        above chance. ``accuracy_of_given``: share recognised as the action that was commanded.
    """
    triples = exchange(prompts, np.random.default_rng(stacks.seed))
    got, fell, progress = [], [], ProgressLine(max(len(triples), 1), "shuffled prompt")
    for number, (_, caption, given) in enumerate(triples):
        done = perform(stacks.make(SHUFFLED_SEED + number), given, caption, seconds)
        got.append(jury.recognise(done.take))
        fell.append(done.fell)
        progress.advance()
    return {
        "accuracy": share([wanted == seen for (wanted, _, _), seen in zip(triples, got, strict=True)]),
        "accuracy_of_given": share([given == seen for (_, _, given), seen in zip(triples, got, strict=True)]),
        "chance": 1.0 / len(jury.judge.labels),
        "falls": sum(fell),
        "prompts": len(triples),
    }


def empty_text(jury: Jury, stacks: Stacks, rollouts: int, seconds: float) -> dict[str, Value]:
    """Let the robot run without any words: the latent policy sees its history alone.

    The stack itself refuses an empty command; here it gets a sentence vector of zeros, which is what the latent policy
    was shown when its text was withheld in training.

    Args:
        jury: Who judges.
        stacks: Makes the robots.
        rollouts: How many, each with codes of its own.
        seconds: Duration of each [s].
    """
    pieces, width = stacks.encode(["stand still"]).shape[1:]

    def silence(texts: Sequence[str]) -> Float[Tensor, "text piece width"]:
        return torch.zeros(len(texts), pieces, width)

    takes: list[Take] = []
    fell, progress = [], ProgressLine(rollouts, "rollout without words")
    for number in range(rollouts):
        stack = stacks.make(EMPTY_SEED + number, encode=silence, config=StackConfig(understood_from=-1.0))
        done = perform(stack, "no words", "no words", seconds)
        takes.append(done.take)
        fell.append(done.fell)
        progress.advance()
    seen = [jury.recognise(take) for take in takes]
    moved = [float(np.linalg.norm(take.clip.qpos[-1, :2] - take.clip.qpos[0, :2])) for take in takes]
    return {
        "recognised": confusion([("no words", action) for action in seen])["no words"],
        "largest_share": max(seen.count(action) for action in set(seen)) / len(seen),
        "falls": sum(fell),
        "rollouts": rollouts,
        "mean_distance_m": float(np.mean(moved)),
    }


def foreign_text(stacks: Stacks, own: Sequence[str]) -> dict[str, Value]:
    """Tell how many prompts that the library does not hold are refused, and how many that it holds.

    Args:
        stacks: Makes the robot that is asked.
        own: Prompts that must be understood.
    """
    stack = stacks.make(0)
    commands = [stack.command(text) for text in FOREIGN]
    obeyed = [{"text": c.text, "action": c.action, "similarity": c.similarity} for c in commands if c.understood]
    return {
        "refused": share([not command.understood for command in commands]),
        "own_refused": share([not stack.command(text).understood for text in own]),
        "threshold": stack.hearing.understood_from,
        "obeyed": obeyed,
    }
