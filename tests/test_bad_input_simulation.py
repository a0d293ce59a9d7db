"""A user's mistakes around the running robot: commands, scripts, paths, bundles, odd texts."""

import io
import json
import shutil

import pytest

SIMULATION = [
    (("",), "empty command"),
    (("walk:-3",), "must be in (0, 3600]"),
    (("\udcff walk",), "its bytes are not UTF-8"),
    (("--seconds", "1e9", "walk"), "--seconds must be"),
    (("--seconds", "nan", "walk"), "--seconds must be"),
    (("--seed", "-1", "walk"), "--seed must be"),
    (("--temperature", "nan", "walk"), "temperature nan"),
    (("--guidance", "inf", "walk"), "guidance inf"),
    (("--top-p", "1.5", "walk"), "top-p 1.5"),
    (("--viewer", "telly", "walk"), "invalid choice 'telly'"),
    (("--video", "film.txt", "walk"), "ends in .mp4"),
    (("--video", "nowhere/film.mp4", "walk"), "there is no folder nowhere"),
    (("--record", "/proc/x.npz", "walk"), "/proc/x.npz cannot be written"),
    (("--record", "", "walk"), "--record is empty"),
    (("--com-path", "", "walk"), "--com-path is empty"),
    (("--bundle", "", "walk"), "bundle is empty"),
    (("--bundle", "nowhere", "walk"), "no bundle at nowhere"),
    ((), "say what the robot should do"),
    ((":pusch 1 0",), "unknown command ':pusch'. Did you mean :push?"),
    ((":push 1",), "wanted :push VX VY, got '1'"),
    ((":push nan 0",), ":push: VX must be at least -5 and at most 5, got nan"),
    ((":push 1e300 0",), ":push: VX must be at least -5"),
    ((":com 1 0 inf",), ":com: YAW_RATE must be"),
    ((":com off now",), "wanted :com VX VY YAW_RATE, got 'off now'"),
    ((":seed 1.5", "walk"), "wanted a whole number"),
    ((":save x.csv", "walk"), "ends in .npz"),
    ((":save nowhere/x.npz", "walk"), "there is no folder nowhere"),
    ((":bundle nowhere", "walk"), "no bundle at nowhere"),
    ((":bundle builtin", "walk", "--video", "film.mp4"), "another bundle needs other files"),
    (("--gif", "film.mp4", "walk"), "ends in .gif"),
    (("--gif", "film.gif", "walk:61"), "61 s of commands are more than 60 s"),
    (("--gif", "nowhere/film.gif", "walk"), "there is no folder nowhere"),
    (("--record", "f.csv", "walk"), "ends in .npz"),
    (("--script", "nowhere.txt"), "nowhere.txt is no file"),
    (("--script", "."), ". is a folder"),
    (("--script", "nowhere.txt", "walk"), "give one of them"),
    (("--script", ""), "--script is empty"),
    (("--top-k", "-1", "walk"), "top-k -1"),
    (("--path-guidance", "nan", "walk"), "guidance 1.0 and nan"),
    (("--viewer", "web", "--web-host", "example.invalid", "walk"), "example.invalid"),
    (("--viewer", "web", "--web-port", "70000", "walk"), "port"),
]


@pytest.mark.parametrize(("flags", "wanted"), SIMULATION)
def test_simulation(flags, wanted, fails, tiny_bundle, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"")))
    bundle = () if "--bundle" in flags else ("--bundle", tiny_bundle)
    assert wanted in fails("simulate", *bundle, *flags)


SCRIPTS = {
    "binary": (bytes(range(256)), "byte 128 is not UTF-8"),
    "zeros": (b"walk\0:5", "zero bytes"),
    "empty": (b"", "holds no command"),
    "comments": (b"# walk\n\n", "holds no command"),
    "endless": (b"walk\n" * 300_000, "longer than 1000000 bytes"),
    "late mistake": (b"walk:0.1\nwave:nan\n", "the seconds after the colon"),
    "unknown": (b"walk:0.1\n:fly 3\n", "unknown command ':fly'"),
}


@pytest.mark.parametrize("kind", SCRIPTS)
def test_scripts(kind, fails, tiny_bundle, tmp_path, monkeypatch):
    """All of a script is read before anything moves, from a file as from a pipe."""
    content, wanted = SCRIPTS[kind]
    (tmp_path / "script.txt").write_bytes(content)
    line = fails("simulate", "--bundle", tiny_bundle, "--script", tmp_path / "script.txt", "--record", "f.npz")
    assert wanted in line and "script.txt" in line
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
    piped = fails("simulate", "--bundle", tiny_bundle, "--record", "f.npz")
    assert "stdin" in piped and (wanted in piped or "say what the robot should do" in piped)


@pytest.mark.parametrize(
    ("rows", "wanted"),
    [
        ("t,x,y\n0,0,0\n", "wanted the header"),
        ("t_s,x_m,y_m\n0,0,0\n1,nan,0\n", "row 3"),
        ("t_s,x_m,y_m\n1,0,0\n0,1,0\n", "times must increase"),
        ("t_s,x_m,y_m\n0,0,0\n1,1e300,0\n", "row 3"),
        ("t_s,x_m,y_m\n-2,0,0\n1,1,0\n", "row 2: times count from the start, got -2 s"),
    ],
)
def test_paths(rows, wanted, fails, tiny_bundle, tmp_path):
    (tmp_path / "path.csv").write_text(rows)
    assert wanted in fails("simulate", "--bundle", tiny_bundle, "--com-path", tmp_path / "path.csv", "walk")


@pytest.mark.parametrize(
    "name", ["vae/weights.safetensors", "low_level/policy.json", "captions.safetensors", "meta.json"]
)
def test_bundle_with_a_flipped_byte(name, fails, tiny_bundle, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(tiny_bundle, broken)
    content = bytearray((broken / name).read_bytes())
    content[len(content) // 2] ^= 0xFF
    (broken / name).write_bytes(bytes(content))
    assert name in fails("simulate", "--bundle", broken, "walk")
    assert name in fails("stack", broken)
    assert name in fails("benchmark", "loop", "--bundle", broken)


@pytest.mark.parametrize(("key", "value"), [("control", "torque"), ("goal", "latent"), ("hz", 100.0), ("robot", "g1")])
def test_bundle_whose_card_contradicts_its_parts(key, value, fails, tiny_bundle, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(tiny_bundle, broken)
    card = json.loads((broken / "meta.json").read_text())
    (broken / "meta.json").write_text(json.dumps({**card, key: value}))
    fails("simulate", "--bundle", broken, "walk")


ODD = ["walk" * 2500, "\N{DANCER} \N{MAN DANCING}", "\x00\x01\x1b[31m", "a\n\r\t\u2028b", "歩いて", "امشِ إلى الأمام"]
ODD += [
    "$(rm -rf /); `reboot` | cat > /etc/passwd",
    "'; DROP TABLE motions; --",
    "../../etc/passwd",
    "<script>",
    "%s %n",
]


@pytest.mark.parametrize("text", ODD)
def test_odd_texts_are_still_commands(text, tiny_bundle, capsys, monkeypatch, toy_encoder):
    monkeypatch.setattr("motionlex.controllers.bundle.TextEncoder", toy_encoder)
    from motionlex.scripts.simulate import main

    assert main(["--bundle", str(tiny_bundle), "--json", f"{text}:0.04"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["commands"]


def test_full_disk_while_a_video_is_written(fails, tiny_bundle, tmp_path, monkeypatch):
    # the encoder ends without a word when it runs out of space: the film is found too short
    monkeypatch.setattr("imageio_ffmpeg.count_frames_and_secs", lambda path: (1, 0.1))
    video = tmp_path / "film.mp4"
    line = fails("simulate", "--bundle", tiny_bundle, "--video", video, "walk:0.2", progress=True)
    assert f"cannot write the video (is the disk full or read-only?): {video}" in line
    assert not [path for path in tmp_path.iterdir() if "film" in path.name]
