"""What every method costs: parameters, memory of a training step, time per step and per image (DAPS, figures 16 to 18).

Nothing is trained: the models do a few steps at the end of their schedule, on real images, and are timed.
"""

import platform
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from motionlex.data.images.source import ImageSource
from motionlex.data.storage import write_json
from motionlex.motion_vae.allocation import keep_freed_memory
from motionlex.motion_vae.contract import DiscreteAutoencoder
from motionlex.motion_vae.images.daps_tables import NAMES
from motionlex.motion_vae.images.evaluation import EVALUATION_FILE, prior_samples
from motionlex.motion_vae.images.jobs import Experiment, Finished, Options, Report, Result, TrainingJob
from motionlex.motion_vae.images.model_experiments import Row, model_jobs
from motionlex.motion_vae.images.recipes import load_recipe_data, resolve
from motionlex.motion_vae.images.tables import Measure, TableLayout, report_models
from motionlex.motion_vae.measurement import describe_size
from motionlex.motion_vae.timing import best_time, peak_memory_mb
from motionlex.motion_vae.trainer import Trainer, resolve_device

MOST_STEPS, REPEATS, IMAGES = 10, 3, 256
"""Timed steps at most; runs of encoding and sampling, of which the fastest counts; images at once in these."""
MOMENTS = 2
"""Running means that Adam keeps of every parameter's gradient."""
GENERATOR_PARTS = ("generative", "decoder", "from_coordinates")
"""What methods call the networks from codes to images: the second and third are those of FSQ."""
SIZE_MEASURES = (
    Measure(key="recognition_parameters", title="recognition", digits=0),
    Measure(key="generator_parameters", title="generator with codes", digits=0),
    Measure(key="step_memory_mb", title="held by a step [MB]", digits=1),
)
MEASURES = (
    *SIZE_MEASURES,
    Measure(key="peak_gpu_mb", title="GPU peak [MB]", digits=1),
    Measure(key="step_ms", title="step [ms]", digits=1),
    Measure(key="steps_per_minute", title="steps per minute", digits=0),
    Measure(key="encode_ms", title="coded image [ms]", digits=3),
    Measure(key="sample_ms", title="sampled image [ms]", digits=3),
)


class _Kept:
    """What autograd keeps instead of a tensor: lives as long as the graph."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def kept_bytes(forward: Callable[[], Tensor], parameters: Iterable[nn.Parameter]) -> int:
    """Count the memory that autograd keeps from the forward pass for the backward pass.

    Args:
        forward: Returns what would be differentiated.
        parameters: Are not counted: they are there anyway.

    Returns:
        Bytes of all other storages that are kept, each counted once, whatever the number of views of it.
    """
    owned = {parameter.untyped_storage().data_ptr() for parameter in parameters}
    kept: weakref.WeakSet[_Kept] = weakref.WeakSet()

    def keep(tensor: Tensor) -> _Kept:
        kept.add(holder := _Kept(tensor.detach()))
        return holder

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda holder: holder.tensor):
        result = forward()
    storages = [holder.tensor.untyped_storage() for holder in kept]  # those of graphs that were dropped are gone
    sizes = {storage.data_ptr(): storage.nbytes() for storage in storages}
    del result
    return sum(size for address, size in sizes.items() if address not in owned)


def network_sizes(model: DiscreteAutoencoder) -> tuple[int, int]:
    """Count parameters on the way from images to codes (with DAPS's temperature), and from codes to images."""
    size = describe_size(model)
    parts = cast("dict[str, int]", size["parameters_by_part"])
    generator = sum(parts.get(name, 0) for name in GENERATOR_PARTS)
    return cast("int", size["parameters"]) - generator, generator


def describe_machine(device: torch.device) -> str:
    """Name what was measured on: the GPU, or the processor's kind with the number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"CPU ({platform.machine()}), {threads} thread{'s' if threads > 1 else ''}"


@dataclass(frozen=True, kw_only=True)
class CostJob(TrainingJob):
    """Measure one model instead of training it."""

    def run(self, folder: Path, device: str) -> None:
        """Do a few steps, and code and sample some images."""
        data = load_recipe_data(self.recipe)
        preprocessing, config = resolve(self.recipe, data)
        chosen = resolve_device(device)
        keep_freed_memory(chosen)  # as training does
        source = ImageSource(data.train, preprocessing, seed=self.seed)
        trainer = Trainer(
            config.build(), source, config.optimisation, schedule_steps=config.schedule_steps, seed=self.seed,
            device=chosen,
        )  # fmt: skip
        trainer.steps = config.schedule_steps  # past any warm start, at the last beta
        write_json(
            folder / EVALUATION_FILE,
            {
                "method": self.recipe.method,
                "setting": self.recipe.setting,
                "data": self.recipe.data,
                "batch": config.optimisation.batch,
                "seed": self.seed,
                "images": IMAGES if self.images is None else min(IMAGES, self.images),
                "steps": min(self.recipe.steps, MOST_STEPS),
                "machine": describe_machine(chosen),
                **_sizes(trainer),
                **self._times(trainer, chosen),
            },
        )

    def _times(self, trainer: Trainer, device: torch.device) -> Result:
        count = IMAGES if self.images is None else min(IMAGES, self.images)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        step = best_time(trainer.step, min(self.recipe.steps, MOST_STEPS), device)
        peak = peak_memory_mb(device) if device.type == "cuda" else None
        model = trainer.model.eval()
        x = trainer.sampler.sample(count, trainer.data_generator).to(device)
        with torch.no_grad():
            coded = best_time(lambda: model.encode(x, trainer.model_generator), REPEATS, device)
            sampled = best_time(lambda: prior_samples(model, count, trainer.model_generator), REPEATS, device)
        return {
            "peak_gpu_mb": peak,
            "step_ms": 1e3 * step,
            "steps_per_minute": 60.0 / step,
            "encode_ms": 1e3 * coded / count,
            "sample_ms": 1e3 * sampled / count,
        }


def _sizes(trainer: Trainer) -> Result:
    """Parameters of both networks, and what weights, gradients, moments and the graph of a loss take."""
    model = trainer.model
    x = trainer.sampler.sample(trainer.config.batch, trainer.data_generator).to(trainer.device)
    kept = kept_bytes(lambda: model.loss(x, trainer.model_generator, progress=1.0).total, model.parameters())
    return held_by_step(model, float(kept))


def held_by_step(model: DiscreteAutoencoder, kept: float) -> Result:
    """Count parameters, and add up the memory of a training step with Adam.

    Args:
        model: Its weights count with their gradients and two moments each.
        kept: Bytes that the graph of a batch keeps.
    """
    recognition, generator = network_sizes(model)
    weights = sum(parameter.nbytes for parameter in model.parameters() if parameter.requires_grad)
    return {
        **describe_size(model),
        "recognition_parameters": recognition,
        "generator_parameters": generator,
        "kept_mb": kept / 1e6,
        "step_memory_mb": ((2 + MOMENTS) * weights + kept) / 1e6,
    }


ROWS = tuple(Row(name=name, slug=method, method=method) for method, name in NAMES.items())
NOTES = (
    "Held by a step: weights, gradients, Adam's two moments, and all that automatic differentiation keeps of the first "
    "objective of a batch; the same on every device. GPU peak: the most that torch had allocated; '-' on a CPU",
    "Times are of the fastest run; a step is one batch with its update, at the end of the schedule",
    "Untrained weights. The paper shows bars, no numbers; its authors' modules for DAPS count 156,480 and 267,344 "
    "(MNIST), 1,060,992 and 257,958 (CIFAR-10)",
)


def report_costs(layout: TableLayout, options: Options, finished: Sequence[Finished], folder: Path) -> Report:
    """Lay the table out, with what it was measured on."""
    machines = sorted({str(one.result["machine"]) for one in finished})
    notes = (f"Measured on {'; '.join(machines)}, PyTorch {torch.__version__}", *layout.notes)
    return report_models(replace(layout, notes=notes), options, finished, folder)


def _overview(name: str, title: str, setting: str) -> Experiment:
    summary = f"DAPS, figures 16 to 18: parameters, memory and speed ({title})"
    layout = TableLayout(title=summary, measures=MEASURES, paper={}, paper_data=setting, notes=NOTES, held_out=False)
    return Experiment(
        name=name,
        summary=summary,
        data=setting,
        jobs=partial(model_jobs, ROWS, setting, False, CostJob),
        report=partial(report_costs, layout),
    )


OVERVIEW = _overview("overview", "MNIST", "mnist")
OVERVIEW_CIFAR = _overview("overview-cifar", "CIFAR-10", "cifar10")
