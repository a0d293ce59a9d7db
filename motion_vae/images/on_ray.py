"""Jobs of an image experiment on the machines of a Ray cluster, or on the cores of this one."""

import logging
import os
import socket
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

from motionlex.data.errors import UserError
from motionlex.motion_vae.images.jobs import Job

logger = logging.getLogger(__name__)
LOCAL = "local"
"""Address that starts Ray on this machine and ends it with the command."""
_ANSWER_S = 10.0
"""Time that a cluster has to answer [s]."""
_CLIENT_PORT = 10_001
"""Where ray:// addresses lead unless they say otherwise."""
_THREADS, _FOLDERS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS"), ("MOTIONLEX_IMAGES", "MOTIONLEX_CACHE")
"""Environment variables that jobs are handed."""


def run_on_ray(jobs: Mapping[Path, Job], device: str, address: str) -> None:
    """Let Ray do jobs, as many at once as there are cores (with a CUDA device: GPUs); returns when all are done.

    The folders must be on a file system that all machines share. A job whose machine dies is tried again and goes on
    from its checkpoint; one that fails does not stop the others.

    Args:
        jobs: What to do, by the folder of each.
        device: Torch device of every job.
        address: ``local``, or a cluster's, e.g. ``auto`` or ``ray://head:10001``.

    Raises:
        UserError: If Ray is not installed or does not answer, when a job fails, and when interrupted.
    """
    try:
        import ray
    except ModuleNotFoundError as error:
        raise UserError(
            "--ray needs the package ray: install motionlex with its extra 'ray', or use --shard"
        ) from error
    _check_answers(os.environ.get("RAY_ADDRESS", address) if address == "auto" else address)
    variables = {"OMP_NUM_THREADS": "1", **{name: os.environ[name] for name in _THREADS if name in os.environ}}
    variables |= {name: os.path.abspath(os.environ[name]) for name in _FOLDERS if name in os.environ}
    try:
        ray.init(
            address=address,
            runtime_env={"env_vars": variables},
            include_dashboard=False if address == LOCAL else None,
            logging_level=logging.WARNING,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UserError(f"--ray {address}: no cluster answers there: {error}") from error
    try:
        gpus = 1 if device.startswith("cuda") else 0
        if gpus > ray.cluster_resources().get("GPU", 0):
            raise UserError(f"--device {device}: Ray has no GPU at {address}")
        work = ray.remote(max_retries=2, num_cpus=1, num_gpus=gpus)(_work)
        own = "cuda" if gpus else device  # a job sees its GPU alone, whatever number it has
        names = {work.remote(job, folder.absolute(), own): job.name for folder, job in jobs.items()}
        _collect(names, len(jobs))
    except KeyboardInterrupt:
        raise UserError("stopped; the same command continues") from None
    finally:
        ray.shutdown()


def _check_answers(address: str) -> None:
    """Refuse an address at which nobody listens: Ray itself would try for minutes.

    Raises:
        UserError: Naming it.
    """
    place = urlsplit(address if "//" in address else f"//{address}")
    try:
        port = place.port or (_CLIENT_PORT if place.scheme == "ray" else None)
        if port is not None:
            socket.create_connection((place.hostname or "", port), timeout=_ANSWER_S).close()
    except (OSError, ValueError) as error:
        raise UserError(f"--ray {address}: no cluster answers there: {error}") from error


def _work(job: Job, folder: Path, device: str) -> None:
    """Do one job, in a process of Ray's."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    job.run(folder, device)


def _collect(names: Mapping[object, str], total: int) -> None:
    """Wait for all jobs, saying which are done.

    Raises:
        UserError: At the end, naming the jobs that failed and why the first did.
    """
    import ray
    from ray.exceptions import RayError

    started = time.monotonic()
    waiting: Sequence[object] = list(names)
    failed: dict[str, RayError] = {}
    while waiting:
        (done, *_), waiting = ray.wait(waiting)
        try:
            ray.get(done)
        except RayError as error:
            failed[names[done]] = error
        finished = total - len(waiting)
        left = timedelta(seconds=round((time.monotonic() - started) / finished * len(waiting)))
        outcome = " failed" if names[done] in failed else ""
        logger.info(f"{finished} of {total} jobs, about {left} left: {names[done]}{outcome}")
    if failed:
        first, error = next(iter(failed.items()))
        cause = getattr(error, "cause", None) or error
        raise UserError(f"{len(failed)} of {total} jobs failed: {', '.join(failed)}; {first}: {cause}")
