"""Captions: enough, disjoint, and the obvious prompts where training sees them."""

import pytest

from motionlex.data.captions import CAPTIONS, held_out_captions, training_captions
from motionlex.data.errors import UserError

BUILTIN = (
    "stand walk_slow walk_forward walk_fast jog walk_backward sidestep_left sidestep_right turn_left turn_right "
    "walk_turn_left walk_turn_right march squat bow wave box dance_sway dance_arms hop"
).split()
LAFAN = "walk run sprint dance fight fall_and_get_up fight_and_sports jump".split()


def _plain(caption):
    return " ".join("".join(c for c in caption.lower() if c.isalnum() or c == " ").split())


def test_every_label_has_captions():
    assert set(CAPTIONS) == {*BUILTIN, *LAFAN}


@pytest.mark.parametrize("label", [*BUILTIN, *LAFAN])
def test_twelve_captions_of_which_three_or_more_are_held_out(label):
    training, held_out = training_captions(label), held_out_captions(label)
    assert len(training) >= 12 and len(held_out) >= 3
    assert CAPTIONS[label] == (*training, *held_out)
    assert all(c == c.strip() and len(c) >= 3 and not any(i.isdigit() for i in c) for c in CAPTIONS[label])


def test_no_caption_appears_twice_whatever_its_case_and_marks():
    everything = [_plain(caption) for captions in CAPTIONS.values() for caption in captions]
    assert len(set(everything)) == len(everything)


@pytest.mark.parametrize(
    ("prompt", "label"),
    [
        ("stand still", "stand"),
        ("walk forward", "walk_forward"),
        ("turn left", "turn_left"),
        ("turn right", "turn_right"),
        ("wave", "wave"),
        ("walk backwards", "walk_backward"),
        ("squat", "squat"),
        ("run", "run"),
        ("jump", "jump"),
    ],
)
def test_obvious_prompts_are_trained_on(prompt, label):
    assert prompt in training_captions(label)


def test_unknown_label_names_the_nearest():
    with pytest.raises(UserError, match="Did you mean 'walk_forward'"):
        training_captions("walk_forwad")


def test_table_cannot_be_changed():
    with pytest.raises(TypeError):
        CAPTIONS["stand"] = ()
