"""One rank of a data-parallel PPO update; tests/test_lowlevel_distributed.py starts it and reads what it leaves."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import torch

from motionlex.controllers.low_level_policy import LowLevelPolicy, PolicyShape
from motionlex.controllers.low_level_state import Progress, RunCallback
from motionlex.controllers.ppo import TrackingPPO
from motionlex.controllers.ppo_config import PPOConfig
from motionlex.envs.batched import BatchedTracking
from motionlex.envs.benchmark import benchmark_task
from motionlex.motion_vae import distributed

SHAPE = PolicyShape(observation=151, critic_observation=151, actions=19, action_limit=4.0, hidden=(16, 16))


def train(seed, updates=3, failure=None):
    """Train on four robots per rank; return everything that ranks must or must not share.

    Where ``failure`` is given this rank's starts fail that often, whatever its robots do.
    """
    ranks = distributed.world_size()
    task = benchmark_task(50.0)
    config = PPOConfig(worlds=4 * ranks, horizon=8, minibatch=16 * ranks, epochs=2, rate_bounds=(1e-6, 1e-2))
    env = BatchedTracking(task, worlds=4, threads=1, generator=np.random.default_rng(seed))
    torch.manual_seed(0)
    policy = LowLevelPolicy(SHAPE, task.config)
    model = TrackingPPO(env, policy, config, torch.Generator().manual_seed(seed), "cpu")
    seen = []
    collect = model.collect_rollouts

    def remember(*arguments, **options):
        going = collect(*arguments, **options)
        seen.append(torch.as_tensor(model.rollout_buffer.observations.copy()).flatten(0, 1))
        if failure is not None:
            env.sampler.failure = np.full_like(env.sampler.failure, failure)
        return going

    model.collect_rollouts = remember
    model.learn(4 * 8 * updates, log_interval=1 << 30)
    env.close()
    return {
        "weights": policy.state_dict(),
        "rate": model.actor_rate,
        "failure": torch.from_numpy(np.array(env.sampler.failure)),
        "observations": torch.cat(seen),
        "steps": model.steps,
    }


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    before = psutil.Process().num_threads()
    with distributed.process_group(torch.device("cpu")):
        rank = distributed.rank()
        apart = train(5 + rank, updates=12, failure=(0.01, 0.2)[rank])
        torch.save({"same": train(5), "own": train(5 + rank), "apart": apart}, folder / f"rank{rank}.pt")
        # Simulations that blew up: two on the first rank, three on the second.
        model = SimpleNamespace(env=SimpleNamespace(diverged=2 + rank), device=torch.device("cpu"))
        callback = RunCallback(folder, {}, Progress(total=1), lambda _: {})
        callback.model = model
        (folder / f"diverged{rank}").write_text(str(callback._diverged()))
    (folder / f"threads{rank}").write_text(str(psutil.Process().num_threads() - before))
