"""Jobs of an image experiment on the machines of a Ray cluster, or on the cores of this one."""

import logging
import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from motionlex.data.errors import UserError
from motionlex.motion_vae.images.jobs import Job

logger = logging.getLogger(__name__)
LOCAL = "local"
"""Address that starts Ray on this machine and ends it with the command."""
_ANSWER_S = 10.0
"""Time that a cluster has to answer [s]."""
_HANDED_ON = ("MOTIONLEX_IMAGES", "MOTIONLEX_CACHE", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


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
    _check_answers(address)
    variables = {"OMP_NUM_THREADS": "1", **{name: os.environ[name] for name in _HANDED_ON if name in os.environ}}
    try:
        ray.init(
            address=LOCAL if address == LOCAL else address,
            runtime_env={"env_vars": variables},
            include_dashboard=False if address == LOCAL else None,
            logging_level=logging.WARNING,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UserError(f"--ray {address}: no cluster answers there: {error}") from error
    needs = {"num_cpus": 1, "num_gpus": 1 if device.startswith("cuda") else 0}
    work = ray.remote(max_retries=2, **needs)(_work)
    names = {work.remote(job, folder.absolute(), device): job.name for folder, job in jobs.items()}
    try:
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
        if place.port is not None:
            socket.create_connection((place.hostname or "", place.port), timeout=_ANSWER_S).close()
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

    waiting: Sequence[object] = list(names)
    failed: dict[str, RayError] = {}
    while waiting:
        (done, *_), waiting = ray.wait(waiting)
        try:
            ray.get(done)
        except RayError as error:
            failed[names[done]] = error
        logger.info(
            f"{total - len(waiting)} of {total} jobs: {names[done]}{' failed' if names[done] in failed else ''}"
        )
    if failed:
        first, error = next(iter(failed.items()))
        cause = getattr(error, "cause", None) or error
        raise UserError(f"{len(failed)} of {total} jobs failed: {', '.join(failed)}; {first}: {cause}")
