"""People's motion: BVH files against positions worked out by hand, retargeting against the robot's own motion."""

import json
from dataclasses import replace

import mujoco
import numpy as np
import pytest

from motionlex.data.bvh import read_bvh
from motionlex.data.datasets import load_dataset
from motionlex.data.datasets.loco_mujoco import read_npz_clips
from motionlex.data.errors import UserError
from motionlex.data.ground import clearance
from motionlex.data.human_points import HumanPoints, human_points
from motionlex.data.inspection import person_clip, person_points
from motionlex.data.kinematics import ForwardKinematics
from motionlex.data.retarget import retarget
from motionlex.data.robots import get_robot
from motionlex.scripts.prepare_motions import main

ROBOT = get_robot("h1")
TWO_JOINTS = """HIERARCHY
ROOT mixamorig:Hips
{
  OFFSET 0 0 0
  CHANNELS 6 Xposition Yposition Zposition Zrotation Xrotation Yrotation
  JOINT Arm
  {
    OFFSET 0 2 0
    CHANNELS 3 Xrotation Yrotation Zrotation
    End Site
    {
      OFFSET 0 0 3
    }
  }
}
MOTION
Frames: 2
Frame Time: 0.04
10 20 30 0 0 0 0 0 0
10 20 30 90 0 0 90 90 0
"""
CHAINS = {
    "UpLeg": ("Hips", (9.0, -5.0, 0.0)),
    "Leg": ("UpLeg", (0.0, -43.0, 0.0)),
    "Foot": ("Leg", (0.0, -42.0, 0.0)),
    "ToeBase": ("Foot", (0.0, -6.0, 14.0)),
    "Arm": ("Spine", (18.0, 14.0, 0.0)),
    "ForeArm": ("Arm", (28.0, 0.0, 0.0)),
    "Hand": ("ForeArm", (25.0, 0.0, 0.0)),
}
"""A person in centimetres with arms stretched out: parent and offset of the left joints."""


def write(path, text):
    path.write_text(text)
    return path


def test_positions_of_joints_are_those_worked_out_by_hand(tmp_path):
    motion = read_bvh(write(tmp_path / "two.bvh", TWO_JOINTS))
    assert motion.names == ("Hips", "Arm", "Arm end") and motion.hz == pytest.approx(25.0)
    # Second frame: z by 90 degrees takes the arm's (0, 2, 0) to (-2, 0, 0). Then x by 90 and y by 90, each about the
    # axes that the ones before have turned, take (0, 0, 3) to (3, 0, 0) by y, which x leaves alone, and z to (0, 3, 0).
    file_axes = np.array([[[10, 20, 30], [10, 22, 30], [10, 22, 33]], [[10, 20, 30], [8, 20, 30], [8, 23, 30]]], float)
    np.testing.assert_allclose(motion.positions, file_axes[..., [2, 0, 1]], atol=1e-12)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda t: t.replace("MOTION\n", ""), "no line MOTION"),
        (lambda t: t.replace("Frames: 2", "Frames: 3"), "3 frames are announced and 2"),
        (lambda t: t.replace("0 0 0 0 0 0\n", "0 0 0 0 0\n", 1), "line 19: 8 values, wanted 9"),
        (lambda t: t.replace("90 0 0 90", "90 nan 0 90"), "line 20: 'nan' is not a finite number"),
        (lambda t: t.replace("Frame Time: 0.04", "Frame Time: 0"), "frame time of 0"),
        (lambda t: t.replace("Frame Time: 0.04", "Speed: 1"), "wanted 'Frames: N'"),
        (lambda t: t.replace("Frame Time: 0.04", "Frame Time: 1e-320"), "frame time of"),
        (lambda t: t.replace("Frames: 2", "Frames: \u00b2"), "wanted 'Frames: N'"),
        (lambda t: t.replace("Zrotation Xrotation", "Wrotation Xrotation"), "unknown channel 'Wrotation'"),
        (lambda t: t.replace("CHANNELS 3", "CHANNELS 4"), "line 9: 'CHANNELS 4"),
        (lambda t: t.replace("}\n}\nMOTION", "}\nMOTION"), "ends within a joint"),
        (lambda t: "MOTION\nFrames: 2\nFrame Time: 0.04\n1\n1\n", "has none"),
        (lambda t: t, "no joints for the hips"),
    ],
)
def test_a_broken_file_is_one_line_that_names_the_place(tmp_path, capsys, change, match):
    path = write(tmp_path / "bad.bvh", change(TWO_JOINTS))
    assert main([str(path)]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and match in error[0] and "bad.bvh" in error[0]


def test_a_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "x.bvh").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not a text file"):
        read_bvh(tmp_path / "x.bvh")


@pytest.mark.parametrize(
    "change",
    [
        lambda t: "\ufeff" + t,
        lambda t: t.replace("\n", "\r\n").replace("  ", "\t"),
        lambda t: t.replace("Hips\n{", "Hips {").replace("Arm\n  {", "Arm {").replace("}\n}", "} }"),
        lambda t: t.replace("End Site", "end site").replace("Frame Time: ", "Frame time:").replace("MOTION", "Motion"),
    ],
    ids=["byte order mark", "windows and tabs", "braces", "case and blanks"],
)
def test_dialects_of_the_format_mean_the_same(tmp_path, change):
    plain = read_bvh(write(tmp_path / "plain.bvh", TWO_JOINTS))
    (tmp_path / "other.bvh").write_bytes(change(TWO_JOINTS).encode())
    other = read_bvh(tmp_path / "other.bvh")
    assert other.names == plain.names and other.hz == plain.hz
    np.testing.assert_array_equal(other.positions, plain.positions)


def test_an_axis_may_turn_twice_and_names_may_be_in_an_old_encoding(tmp_path):
    text = TWO_JOINTS.replace(
        "CHANNELS 3 Xrotation Yrotation Zrotation", "CHANNELS 4 Xrotation Xrotation Xrotation Yrotation"
    )
    text = (
        text.replace("0 0 0 0 0 0\n", "0 0 0 0 0 0 0\n")
        .replace("90 0 0 90 90 0", "90 0 0 30 30 30 90")
        .replace("Arm", "Bras\u00e9")
    )
    (tmp_path / "old.bvh").write_bytes(text.encode("latin-1"))
    plain, old = read_bvh(write(tmp_path / "plain.bvh", TWO_JOINTS)), read_bvh(tmp_path / "old.bvh")
    assert old.names[1] == "Bras\u00e9"
    np.testing.assert_allclose(old.positions, plain.positions, atol=1e-12)


def points_of(qpos, scale):
    """A person who is built and moves exactly like the robot, in another unit."""
    model = ROBOT.model(control="none")
    data, found = mujoco.MjData(model), {name: [] for name in ("hip", "knee", "ankle", "shoulder", "elbow", "hand")}
    for frame in qpos:
        data.qpos[:] = frame
        mujoco.mj_kinematics(model, data)
        legs = [[data.body(name).xpos.copy() for name in leg] for leg in ROBOT.legs]
        arms = [[*(data.body(name).xpos.copy() for name in arm[:2]), data.site(arm[2]).xpos] for arm in ROBOT.arms]
        for place, (leg, arm) in enumerate((("hip", "shoulder"), ("knee", "elbow"), ("ankle", "hand"))):
            found[leg].append([side[place] for side in legs])
            found[arm].append([np.array(side[place]) for side in arms])
    toes = ForwardKinematics(ROBOT)(qpos).site_pos[:, [ROBOT.sites.index(f"{s}_foot_mimic") for s in ("left", "right")]]
    return HumanPoints(hz=25.0, **{name: scale * np.array(places) for name, places in found.items()}, toe=scale * toes)


@pytest.fixture(scope="module")
def walk():
    clips = load_dataset("builtin", None, hz=25.0).train
    return next(clip for clip in clips if clip.name.startswith("walk_forward")).slice(0, 40).qpos


def test_the_robots_own_motion_comes_back(walk):
    """Not exactly: hips swing with the legs, so that their line is not the pelvis'."""
    found = retarget(points_of(walk, 130.0), ROBOT)
    np.testing.assert_allclose(found[0, :2], 0.0, atol=0.02)
    np.testing.assert_allclose(found[:, 7:], walk[:, 7:], atol=0.07)
    assert np.abs(found[:, 7:] - walk[:, 7:]).mean() < 0.01
    there, here = (ForwardKinematics(ROBOT)(qpos).site_pos for qpos in (found, walk))
    travelled = np.linalg.norm((there - there[:1]) - (here - here[:1]), axis=-1)
    assert travelled.mean() < 0.01 and travelled.max() < 0.03
    assert abs(np.median(clearance(found, ROBOT))) < 0.01


def test_a_robot_without_arms_is_refused(walk):
    with pytest.raises(UserError, match="two legs and two arms"):
        retarget(points_of(walk[:2], 1.0), replace(ROBOT, arms=()))


def test_a_heel_may_be_lifted_to_the_seat():
    """The foot passes the vertical on the way, where its heading turns by half a circle and its pitch comes back."""
    qpos = np.zeros((60, 26))
    qpos[:, 2], qpos[:, 3], qpos[:, 7:] = 1.0, 1.0, ROBOT.default_pose
    bend = np.clip(np.linspace(-1.0, 1.0, 60), 0.0, None)  # half of the time it stands, which tells what level is
    for name, change in (("knee_angle_l", 1.5), ("ankle_angle_l", 0.3)):
        qpos[:, 7 + ROBOT.joint_names.index(name)] += change * bend
    found = retarget(points_of(qpos, 1.0), ROBOT)
    np.testing.assert_allclose(found[:, 7:], qpos[:, 7:], atol=0.03)


def test_the_unit_of_the_recording_and_the_length_of_limbs_do_not_matter(walk):
    person = points_of(walk[:8], 1.0)
    longer = replace(person, hand=person.elbow + 2.0 * (person.hand - person.elbow))
    plain = retarget(person, ROBOT)
    np.testing.assert_allclose(retarget(points_of(walk[:8], 254.0), ROBOT), plain, atol=1e-3)
    np.testing.assert_allclose(retarget(longer, ROBOT), plain, atol=1e-3)


def test_joints_stay_within_their_limits_and_feet_without_toes_are_level(walk):
    person = replace(points_of(walk[:8], 1.0), toe=None)
    lifted = person.hip + np.array([0.0, 0.0, 2.0]) * (person.hip - person.knee)
    found = retarget(replace(person, knee=lifted, ankle=lifted + np.array([-0.5, 0.0, 0.0])), ROBOT)
    assert (found[:, 7:] >= ROBOT.lower - 1e-6).all() and (found[:, 7:] <= ROBOT.upper + 1e-6).all()
    level = ForwardKinematics(ROBOT)(retarget(person, ROBOT)).site_rot[:, ROBOT.sites.index("left_foot_mimic")]
    assert np.abs(level[:, 2, 0]).max() < 0.1  # the foot's forward axis hardly rises or falls


def person_file(path, frames=40, names=None, turned=False):
    """A person who walks ahead: thighs swing, shins bend back, arms hang.

    Args:
        path: Where it goes.
        frames: Number of frames.
        names: Other names for joints.
        turned: Whether z points up and x ahead, instead of y and z.
    """
    lines, order = ["HIERARCHY"], []

    def joint(name, offset, depth, kind="JOINT"):
        order.append(name)
        channels = "6 Xposition Yposition Zposition " if kind == "ROOT" else "3 "
        lines.append(f"{kind} {(names or {}).get(name, name)}")
        lines.append("{")
        lines.append("OFFSET " + " ".join(map(str, (offset[2], offset[0], offset[1]) if turned else offset)))
        lines.append(f"CHANNELS {channels}" + " ".join(f"{axis}rotation" for axis in ("XZY" if turned else "ZYX")))
        if name == "Hips":
            joint("Spine", (0, 30, 0), depth + 1)
        below = [
            (side + child, (mirror * x, y, z))
            for child, (parent, (x, y, z)) in CHAINS.items()
            for side, mirror in (("Left", 1), ("Right", -1))
            if name in (parent, side + parent)
        ]
        for child, place in below:
            joint(child, place, depth + 1)
        if name == "Spine" or not below:
            lines.extend(["End Site", "{", "OFFSET 0 5 0", "}"])
        lines.append("}")

    joint("Hips", (0, 0, 0), 0, "ROOT")
    lines += ["MOTION", f"Frames: {frames}", "Frame Time: 0.0333333"]
    for frame in range(frames):
        phase = 2 * np.pi * frame / 20
        angles = {
            "LeftUpLeg": (0, 0, -25 * np.sin(phase)), "RightUpLeg": (0, 0, 25 * np.sin(phase)),
            "LeftLeg": (0, 0, 20 + 15 * np.cos(phase)), "RightLeg": (0, 0, 20 - 15 * np.cos(phase)),
            "LeftArm": (-75, 0, 0), "RightArm": (75, 0, 0), "LeftForeArm": (0, -20, 0), "RightForeArm": (0, 20, 0),
        }  # fmt: skip
        values = [3.0 * frame, 0.0, 96.0] if turned else [0.0, 96.0, 3.0 * frame]
        for name in order:
            values += angles.get(name, (0, 0, 0))
        lines.append(" ".join(f"{value:.5f}" for value in values))
    return write(path, "\n".join(lines) + "\n")


def test_the_command_retargets_a_recording_and_what_it_writes_can_be_read(tmp_path, capsys):
    path = person_file(tmp_path / "walk7_subject1.bvh")
    assert main([str(path), "--out", str(tmp_path / "h1"), "--json", "--check"]) == 0
    captured = capsys.readouterr()
    report = json.loads(captured.out.strip().splitlines()[-1])
    assert "1/1 walk7_subject1.bvh: 40/40 frames" in captured.err and report["labels"] == ["walk"]
    assert report["clips"][0]["preflight"]["prepared"]
    assert report["clips"][0]["range_excess_rad"] <= 1e-6 and report["clips"][0]["verdict"]
    (clip,) = read_npz_clips(tmp_path / "h1" / "walk7_subject1.npz")
    assert clip.duration_s == pytest.approx(39 / 30, abs=0.03)
    # 3 cm per frame at 30 Hz is 0.9 m/s of a person with 85 cm of legs; the robot's have 80 cm.
    speed = (clip.qpos[-1, 0] - clip.qpos[0, 0]) / clip.duration_s
    assert speed == pytest.approx(0.9 * 0.8 / 0.85, rel=0.03) and np.abs(clip.qpos[:, 1]).max() < 0.03
    names = list(ROBOT.joint_names)
    knees, hips = (clip.qpos[:, [7 + names.index(f"{n}_{s}") for s in "lr"]] for n in ("knee_angle", "hip_flexion"))
    # Shins bend by 5 to 35 degrees, thighs swing by 25 to both sides, in opposite phase.
    np.testing.assert_allclose(np.rad2deg(knees.min(0)), 5.0, atol=4.0)
    np.testing.assert_allclose(np.rad2deg(knees.max(0)), 35.0, atol=4.0)
    np.testing.assert_allclose(np.rad2deg(np.ptp(hips, axis=0)), 50.0, atol=5.0)
    assert np.corrcoef(hips[:, 0], hips[:, 1])[0, 1] < -0.95


CMU = {"LeftToeBase": "LeftToeBase"}
LAFAN1 = {f"{side}ToeBase": f"{side}Toe" for side in ("Left", "Right")}
MIXAMO = {f"{side}{name}": f"mixamorig:{side}{name}" for side in ("Left", "Right") for name in CHAINS}
STYLE100 = {
    f"{side}{old}": f"{side}{new}"
    for side in ("Left", "Right")
    for old, new in {
        "UpLeg": "Hip", "Leg": "Knee", "Foot": "Ankle", "ToeBase": "Toe",
        "Arm": "Shoulder", "ForeArm": "Elbow", "Hand": "Wrist",
    }.items()
}  # fmt: skip


@pytest.mark.parametrize("names", [CMU, LAFAN1, MIXAMO, STYLE100], ids=["CMU", "LAFAN1", "Mixamo", "100STYLE"])
def test_joints_are_found_under_the_names_of_well_known_collections(tmp_path, names):
    plain = human_points(read_bvh(person_file(tmp_path / "plain.bvh", frames=3)))
    found = human_points(read_bvh(person_file(tmp_path / "other.bvh", frames=3, names=names)))
    assert found.toe is not None
    for name in ("hip", "knee", "ankle", "toe", "shoulder", "elbow", "hand"):
        np.testing.assert_array_equal(getattr(found, name), getattr(plain, name))


def test_a_file_with_z_up_is_read_by_a_flag_and_suspected_without(tmp_path, caplog):
    plain = human_points(read_bvh(person_file(tmp_path / "plain.bvh", frames=3)))
    path = person_file(tmp_path / "z.bvh", frames=3, turned=True)
    turned = human_points(read_bvh(path, up="z"))
    np.testing.assert_allclose(turned.hand, plain.hand, atol=1e-9)
    np.testing.assert_allclose(turned.knee, plain.knee, atol=1e-9)
    assert not caplog.records
    human_points(read_bvh(path))
    assert "--up z" in caplog.text


def test_a_foot_without_length_says_nothing_about_its_direction(tmp_path):
    text = person_file(tmp_path / "a.bvh", frames=3).read_text()
    short = write(tmp_path / "b.bvh", text.replace("0.0 -6.0 14.0", "0 0 0"))
    assert human_points(read_bvh(short)).toe is None and human_points(read_bvh(tmp_path / "a.bvh")).toe is not None


def test_a_leap_of_the_recording_is_masked(tmp_path):
    """The first frame of many recordings is a pose with stretched arms at the origin."""
    lines = person_file(tmp_path / "a.bvh").read_text().splitlines()
    first = lines.index("Frame Time: 0.0333333") + 1
    lines[first] = " ".join(["300.0", "96.0", "0.0", *["0.0"] * (len(lines[first].split()) - 3)])
    path = write(tmp_path / "leap.bvh", "\n".join(lines))
    clip = person_clip(path, person_points(path), ROBOT)
    assert not clip.valid[:7].any() and clip.valid[7:].all()  # and 0.17 s around it, 6 frames


def test_mistakes_are_found_before_the_slow_part(tmp_path, capsys):
    good, bad, full = person_file(tmp_path / "good.bvh", frames=3), tmp_path / "bad.bvh", tmp_path / "full"
    write(bad, TWO_JOINTS)
    full.mkdir()
    write(full / "x", "")
    for arguments in ([good, bad], [good, "--out", full]):
        assert main([str(argument) for argument in arguments]) == 2
        assert "frames," not in capsys.readouterr().err


def test_fast_recordings_are_thinned_before_the_slow_part(tmp_path):
    text = person_file(tmp_path / "a.bvh", frames=41).read_text()
    fast = write(tmp_path / "fast.bvh", text.replace("Frame Time: 0.0333333", "Frame Time: 0.00833333"))
    assert read_bvh(fast).hz == pytest.approx(120.0, rel=1e-4)
    points = human_points(read_bvh(fast))
    assert points.leg_length == pytest.approx(85.0) and points.toe is not None
    clip = person_clip(fast, person_points(fast), ROBOT)
    assert clip.frames == 21 and clip.hz == pytest.approx(60.0, rel=1e-4)
    for time, stride in (("0.00833334", 2), ("0.01", 2), ("0.0166667", 1), ("0.02", 1)):
        other = write(tmp_path / "other.bvh", text.replace("Frame Time: 0.0333333", f"Frame Time: {time}"))
        assert len(person_points(other).hip) == -(-41 // stride)
