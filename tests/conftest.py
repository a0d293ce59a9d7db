"""Fixtures shared by the tests of the controllers: toy clips and a small, untrained autoencoder."""

import signal
from dataclasses import replace

import numpy as np
import pytest

LABELS = ("stand", "wave")


def toy_clip(name="toy", *, seconds=4.0, hz=50.0, speed=0.0, labels=(), seed=0):
    """Arms swing while the root slides forward at ``speed`` [m/s]: not physical, but smooth and labelled."""
    from motionlex.data.clip import MotionClip
    from motionlex.data.robots import get_robot

    robot = get_robot("h1")
    rng = np.random.default_rng(seed)
    time = np.arange(int(seconds * hz)) / hz
    qpos = np.zeros((len(time), 26))
    qpos[:, 0] = speed * time
    qpos[:, 2] = robot.standing_height
    qpos[:, 3] = 1.0
    phase = rng.uniform(0, 2 * np.pi, 19)
    frequency = rng.uniform(0.4, 1.2, 19)
    qpos[:, 7:] = robot.default_pose + 0.15 * np.sin(2 * np.pi * frequency * time[:, None] + phase)
    return MotionClip(name=name, qpos=qpos, hz=hz, labels=tuple(labels))


@pytest.fixture(scope="session")
def toy_clips():
    """Two labelled clips, the second with a change of label in the middle."""
    from motionlex.data.clip import LabelSpan

    return (
        toy_clip("a", labels=[LabelSpan(start=0, stop=200, label="stand")]),
        toy_clip(
            "b",
            speed=0.5,
            seed=1,
            labels=[LabelSpan(start=0, stop=90, label="stand"), LabelSpan(start=90, stop=200, label="wave")],
        ),
    )


@pytest.fixture
def toy_dataset(toy_clips):
    """What stands in for ``load_dataset``: the toy clips under any name."""
    from motionlex.data.datasets import MotionData

    return lambda name, root, hz: MotionData(name="toy", train=toy_clips, validation=(), hz=hz)


@pytest.fixture(scope="session")
def tiny_vae_run(tmp_path_factory, toy_clips):
    """Run folder of an untrained DAPS autoencoder of width 16 with 8 codes, at 50 Hz."""
    from motionlex.data.kinematics import ForwardKinematics
    from motionlex.data.robots import get_robot
    from motionlex.data.segments import SegmentSource
    from motionlex.motion_vae import checkpoint
    from motionlex.motion_vae.registry import domain_to_plain, get_preset, override, to_plain
    from motionlex.motion_vae.trajectories.domain import TrajectoryDomain

    source = SegmentSource(toy_clips, None, kinematics=ForwardKinematics(get_robot("h1")))
    source.fit()
    preset = override(get_preset("daps", "small"), ("width=16", "heads=2", "layers=1", "vocabulary=8", "samples=4"))
    config = checkpoint.RunConfig(
        method="daps",
        preset="small",
        method_config=to_plain(preset.method),
        optimisation=preset.optimisation,
        domain=domain_to_plain(TrajectoryDomain(features=source.statistics.size)),
        schedule_steps=1,
        data="toy",
        data_root=None,
        seed=0,
    )
    folder = tmp_path_factory.mktemp("runs") / "vae"
    with checkpoint.NewRunFolder(folder) as partial:
        checkpoint.save_config(partial, config)
        checkpoint.save_weights(partial, config.build(), source.statistics)
        checkpoint.write_json(partial / checkpoint.META_FILE, {**checkpoint.provenance(), "steps": 0})
    return folder


@pytest.fixture(scope="session")
def tiny_autoencoder(tiny_vae_run):
    """The autoencoder of ``tiny_vae_run``."""
    from motionlex.motion_vae.checkpoint import load_run

    return load_run(tiny_vae_run)


def toy_embedding(texts):
    """A stand-in for BERT that needs no model: a fixed random unit vector per text."""
    import zlib

    import torch

    rows = [torch.randn(384, generator=torch.Generator().manual_seed(zlib.crc32(t.encode()))) for t in texts]
    return torch.nn.functional.normalize(torch.stack(rows), dim=-1)[:, None]


@pytest.fixture(scope="session")
def toy_encode():
    """Stand-in for ``TextEncoder.encode``."""
    return toy_embedding


class ToyEncoder:
    """Stand-in for ``TextEncoder``."""

    digest = "toy"
    encode = encode_heard = staticmethod(toy_embedding)

    def __init__(self, name: str | None = None) -> None:
        assert name is None
        self.loaded = False

    def load(self) -> None:
        self.loaded = True


@pytest.fixture(scope="session")
def toy_encoder():
    """The class that stands in for ``TextEncoder``."""
    return ToyEncoder


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory, tiny_vae_run, tiny_autoencoder):
    """Folder of a bundle of small, untrained parts: everything runs, nothing walks."""
    import torch

    from motionlex.controllers.bundle import BundleMeta, save_bundle
    from motionlex.controllers.condition_encoder import LatentPolicyConfig
    from motionlex.controllers.latent_policy import LatentPolicy
    from motionlex.controllers.low_level_policy import LowLevelPolicy, PolicyShape
    from motionlex.data.features import SCHEMA_VERSION
    from motionlex.envs.task_config import TaskConfig

    folder = tmp_path_factory.mktemp("parts")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = tiny_autoencoder.model
        shape = LatentPolicyConfig(
            vocabulary=model.vocabulary, features=tiny_autoencoder.statistics.size, width=16, layers=1, heads=2
        )
        latent_policy = LatentPolicy(shape)
        low_level = LowLevelPolicy(
            PolicyShape(observation=151, critic_observation=151, actions=19, action_limit=4.0, hidden=(16, 16)),
            TaskConfig(goal="decoded"),
        )
    for name, part in (("latent_policy", latent_policy), ("low_level", low_level)):
        (folder / name).mkdir()
        part.save(folder / name)
    contents = {
        f"{part}/{path.name}": path.read_bytes()
        for part, run in (("vae", tiny_vae_run), ("latent_policy", None), ("low_level", None))
        for path in (folder / part if run is None else run).iterdir()
        if path.is_file()
    }
    meta = BundleMeta(
        name="tiny", hz=50.0, robot="h1", goal="decoded", control="pd", data="builtin", schema_version=SCHEMA_VERSION
    )
    captions = {label: toy_embedding([label, f"please {label}"])[:, 0] for label in ("stand", "wave", "walk_forward")}
    bundle = tmp_path_factory.mktemp("bundles") / "tiny"
    save_bundle(bundle, meta, contents, captions)
    return bundle


@pytest.fixture
def own_interrupts():
    """Python's handlers of SIGINT and SIGTERM, also where the tests run in the background, which ignores one."""
    own = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in own.items()}
    yield own
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def replay(monkeypatch):
    """A function that puts kinematics in place of physics, see tracking_doubles.py."""
    from tracking_doubles import replaying

    return replaying(monkeypatch)


@pytest.fixture
def fails(tmp_path, monkeypatch, capfd, toy_encoder):
    """Call a command in an empty folder; it must fail as promised. Returns its line."""
    from failing_commands import failing

    monkeypatch.setattr("motionlex.controllers.bundle.TextEncoder", toy_encoder)
    monkeypatch.setenv("MOTIONLEX_CACHE", str(tmp_path / "cache"))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return failing(work, capfd)


@pytest.fixture
def small_training(monkeypatch, toy_dataset):
    """Toy motions behind the name builtin, a recipe of a few hundred steps of PPO, and one thread."""
    from motionlex.controllers import low_level_config, low_level_setup
    from motionlex.controllers.ppo_config import PPOConfig

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(low_level_setup, "load_dataset", toy_dataset)
    base = low_level_config.preset_config
    monkeypatch.setattr(
        low_level_config,
        "preset_config",
        lambda name, goal: replace(
            base(name, goal), hidden=(16, 16), ppo=PPOConfig(worlds=4, horizon=16, minibatch=32, epochs=2)
        ),
    )
