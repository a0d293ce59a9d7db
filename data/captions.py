"""What people type: captions of every action, written for this project, split into training and held-out ones.

The first caption of every action is its most obvious prompt and always a training caption; held-out captions are
never trained on and measure whether paraphrases are understood. No caption belongs to two actions.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from motionlex.data.errors import unknown_name

_TRAINING: dict[str, str] = {
    "stand": (
        "stand still | stand | stop | stay where you are | do not move | hold still | stand upright without moving "
        "| wait here | freeze | remain standing | stop walking and stand | keep standing in place | halt | just "
        "stand there quietly"
    ),
    "walk_slow": (
        "walk slowly | walk forward slowly | stroll ahead | take slow steps forward | go forward at a slow pace | "
        "walk ahead without hurry | slow walk | move forward gently | amble forward | creep ahead with small steps "
        "| walk at a leisurely pace | go straight on, slowly"
    ),
    "walk_forward": (
        "walk forward | walk forwards | walk ahead | go forward | move forward | walk straight ahead | go straight "
        "on | walk ahead at a normal pace | take some steps forward | walk at a normal speed | keep walking forward "
        "| step forward and keep going | walk in a straight line | head straight forward | advance at walking speed"
    ),
    "walk_fast": (
        "walk fast | walk forward quickly | walk briskly | hurry forward on foot | walk faster | power walk | "
        "stride forward quickly | go forward at a fast walking pace | walk ahead with long quick steps | march off "
        "in a hurry | speed up your walk | rapid walk straight ahead"
    ),
    "jog": (
        "jog forward | jog | run slowly | go for a light run | trot ahead | jog straight ahead | run at an easy "
        "pace | jog along | start jogging | a gentle run forward | move at a jogging pace | trot forward lightly"
    ),
    "walk_backward": (
        "walk backward | walk backwards | go back | step back | move backward | back up | walk in reverse | take "
        "some steps backwards | reverse slowly | retreat while facing forward | back away | go backwards without "
        "turning around"
    ),
    "sidestep_left": (
        "sidestep left | step to the left | sidestep to the left | move sideways to the left | shuffle left | go "
        "sideways left | side step leftward | walk sideways to your left | slide over to the left | strafe left | "
        "take side steps to the left | move left without turning"
    ),
    "sidestep_right": (
        "sidestep right | step to the right | sidestep to the right | move sideways to the right | shuffle right | "
        "go sideways right | side step rightward | walk sideways to your right | slide over to the right | strafe "
        "right | take side steps to the right | move right without turning"
    ),
    "turn_left": (
        "turn left | turn to the left | turn left on the spot | rotate left in place | spin to the left | rotate "
        "counterclockwise | turn around to the left | pivot left | face left | turn anticlockwise where you stand | "
        "make a left turn in place | look to your left by turning around | swivel left without walking"
    ),
    "turn_right": (
        "turn right | turn to the right | turn right on the spot | rotate right in place | spin to the right | "
        "rotate clockwise | turn around to the right | pivot right | face right | turn clockwise where you stand | "
        "make a right turn in place | look to your right by turning around | swivel right without walking"
    ),
    "walk_turn_left": (
        "walk in a curve to the left | walk and turn left | walk forward while turning left | walk in a left circle "
        "| curve left as you walk | walk around a bend to the left | keep walking and bear left | walk a left-hand "
        "arc | veer left while walking | walk in a circle counterclockwise | go forward and drift around to the "
        "left | steer left while you walk"
    ),
    "walk_turn_right": (
        "walk in a curve to the right | walk and turn right | walk forward while turning right | walk in a right "
        "circle | curve right as you walk | walk around a bend to the right | keep walking and bear right | walk a "
        "right-hand arc | veer right while walking | walk in a circle clockwise | go forward and drift around to "
        "the right | steer right while you walk"
    ),
    "march": (
        "march in place | march | march on the spot | lift your knees high in place | step in place | high knees on "
        "the spot | stamp your feet in place | walk on the spot | march like a soldier | raise your knees one after "
        "the other | tread on the spot | parade step without moving forward"
    ),
    "squat": (
        "squat | do a squat | squat down | squat down and stand up again | bend your knees deeply | crouch and rise "
        "| do some squats | lower your body by bending the knees | go down into a squat | knee bends | crouch down "
        "| sink down and come back up"
    ),
    "bow": (
        "bow | take a bow | bow down politely | bend forward | bow to the audience | lean forward in a bow | make a "
        "bow | bend your upper body forward | greet by bowing | bow respectfully | bow and straighten up again | "
        "tip your torso forward"
    ),
    "wave": (
        "wave | wave your hand | wave hello | wave goodbye | greet someone by waving | raise your arm and wave | "
        "say hello with your hand | wave at the camera | give a friendly wave | lift a hand and wave it | wave to "
        "the people | signal with your hand"
    ),
    "box": (
        "box | throw punches | punch | do some boxing | shadow boxing | punch the air | throw jabs with both fists "
        "| box with your fists | hit a punching bag | jab left and right | practise boxing | punch in front of you"
    ),
    "dance_sway": (
        "dance | dance by swaying your hips | sway to the music | sway from side to side | swing your hips | do a "
        "slow swaying dance | groove gently | rock from one foot to the other | dance with your hips | move your "
        "hips to the beat | shift your weight left and right to the rhythm | sway and groove in place"
    ),
    "dance_arms": (
        "dance with your arms | dance and swing your arms | move your arms to the music | wave both arms in a dance "
        "| do a dance with arm movements | dance with raised arms | swing your arms to the rhythm | arm dance | "
        "dance with both arms up and down | make dancing moves with the arms | party dance with arms in the air | "
        "disco dance with your arms"
    ),
    "hop": (
        "hop | hop in place | hop on the spot | small jumps in place | bounce up and down | hop up and down | do "
        "little hops | jump lightly on both feet | hop with both legs | skip up and down on the spot | spring up a "
        "little | make a small hop"
    ),
    "walk": (
        "walk | walk around | go for a walk | walk about the room | wander around | take a walk | walk here and "
        "there | walk like a person | roam around on foot | pace around the place | walk naturally in different "
        "directions | keep on walking about"
    ),
    "run": (
        "run | run around | run forward | start running | go for a run | run about the field | run at a steady "
        "speed | keep running | run across the room | run in different directions | a person runs | run along"
    ),
    "sprint": (
        "sprint | sprint forward | run as fast as you can | dash ahead | run at full speed | make a sprint | race "
        "forward | run flat out | bolt ahead | do a fast dash | charge forward at top speed | sprint to the finish "
        "line"
    ),
    "dance": (
        "dance freely | perform a dance | dance around | do a lively dance routine | dance with your whole body | "
        "show me some dance moves | dance across the floor | dance to the song | do a choreography | a person is "
        "dancing | dance energetically | dance with turns and steps"
    ),
    "fight": (
        "fight | fight an opponent | fight with kicks and punches | defend yourself | attack with your fists and "
        "feet | get into a fighting stance and strike | do martial arts | kick and punch | spar with someone | "
        "fight hand to hand | block and strike back | combat moves"
    ),
    "fall_and_get_up": (
        "fall down and get up | fall and stand up again | fall over | drop to the floor and rise | get up from the "
        "ground | collapse and get back on your feet | stand up after falling | tumble and recover | lie down and "
        "get up | fall to the ground, then stand | trip, fall and get up | get back up off the floor"
    ),
    "fight_and_sports": (
        "fight and do sports | mix fighting with sports | play sports | do sports moves | throw a ball and fight | "
        "athletic moves and fighting | do some sports exercises with kicks | play ball and box a little | swing a "
        "bat | sporty fighting moves | kick a football and punch | practise different sports"
    ),
    "jump": (
        "jump | jump up | jump high | jump around | leap into the air | do several jumps | jump forward | take a "
        "big leap | jump over something | leap ahead | jump as high as you can | a person jumps"
    ),
}

_HELD_OUT: dict[str, str] = {
    "stand": "please stand in place | stop moving | be still | stay put",
    "walk_slow": "walk very slowly | a slow stroll forward | walk ahead at low speed | go ahead slowly",
    "walk_forward": "please walk forward | start walking ahead | walk straight | go ahead on foot",
    "walk_fast": "walk quickly | walk at high speed | brisk walk forward | hurry up and walk",
    "jog": "go jogging | jog ahead at a relaxed pace | slow running | do a light jog",
    "walk_backward": "walk back | move back | step backwards | walk in the backward direction",
    "sidestep_left": "step sideways to the left | sidestep towards your left | shuffle to the left | left side steps",
    "sidestep_right": (
        "step sideways to the right | sidestep towards your right | shuffle to the right | right side steps"
    ),
    "turn_left": "rotate to the left | please turn left | turn your body left | spin left in place",
    "turn_right": "rotate to the right | please turn right | turn your body right | spin right in place",
    "walk_turn_left": (
        "walk along a curve to the left | turn left while walking | walk in a leftward arc | circle to the left "
        "while walking"
    ),
    "walk_turn_right": (
        "walk along a curve to the right | turn right while walking | walk in a rightward arc | circle to the right "
        "while walking"
    ),
    "march": "marching on the spot | march in place with high knees | lift your knees up and down in place",
    "squat": "perform a squat | squat and get up | do deep knee bends | go into a deep crouch",
    "bow": "please bow | do a polite bow | bow forward | lean over in a respectful bow",
    "wave": "wave with one hand | please wave hello | wave your arm at me | greet me with a wave",
    "box": "start boxing | throw some punches | punch with both hands | do shadow boxing",
    "dance_sway": "dance and sway your hips | sway your body side to side | swing your hips to the music",
    "dance_arms": "dance moving your arms | swing both arms in a dance | dance with arms raised up",
    "hop": "do a hop | hop a little on the spot | make small hops | bounce on both feet",
    "walk": "walk around the room | have a walk | wander about on foot | a person walks around",
    "run": "go running | run around the room | a person is running | run at a constant speed",
    "sprint": "sprint at full speed | run very fast | dash forward | sprint as fast as possible",
    "dance": "do a dance performance | dance with lots of energy | show a dance | dance around the floor",
    "fight": "fight with someone | kick and punch an opponent | do a martial arts fight | attack and defend",
    "fall_and_get_up": "fall down, then get up again | fall on the floor and stand up | rise after a fall",
    "fight_and_sports": "do sports and fighting | play some sports | fighting and athletic moves",
    "jump": "make a jump | jump into the air | do a high jump | leap up high",
}


def _listed(text: str) -> tuple[str, ...]:
    return tuple(caption.strip() for caption in text.split("|"))


CAPTIONS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {label: (*_listed(_TRAINING[label]), *_listed(_HELD_OUT[label])) for label in _TRAINING}
)
"""Every caption of every action label, training captions first."""


WALKS = frozenset({"walk_slow", "walk_forward", "walk_fast", "walk_turn_left", "walk_turn_right"})
"""Actions that differ in speed and turning alone: where a path says these, their captions say the same."""


def training_captions(label: str) -> tuple[str, ...]:
    """Return the captions to train on; the first is the most obvious prompt.

    Raises:
        UserError: If there is no such label.
    """
    return _of(_TRAINING, label)


def held_out_captions(label: str) -> tuple[str, ...]:
    """Return the paraphrases that are only for evaluation.

    Raises:
        UserError: If there is no such label.
    """
    return _of(_HELD_OUT, label)


def _of(captions: dict[str, str], label: str) -> tuple[str, ...]:
    if label not in captions:
        raise unknown_name("action label", label, captions, "data/captions.py")
    return _listed(captions[label])
