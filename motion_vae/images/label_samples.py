"""Label-conditioned samples by a flow on the codes of an autoencoder, judged by a classifier (DAPS, figure 20)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import safetensors.torch
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from motionlex.data.images.collection import Images
from motionlex.data.images.dataset import ImageData
from motionlex.data.images.source import in_order
from motionlex.data.storage import write_bytes
from motionlex.motion_vae.images.classifier import ImageClassifier, fit_classifier, hits
from motionlex.motion_vae.images.code_flow import CodeFlow, CodeFlowConfig, fit_code_flow
from motionlex.motion_vae.images.evaluation import BATCH, tiled
from motionlex.motion_vae.images.jobs import Finished, Options, Result, TrainingJob
from motionlex.motion_vae.images.model_experiments import Row, experiment
from motionlex.motion_vae.images.runs import TrainedImages
from motionlex.motion_vae.images.tables import PSNR, Measure, by_row

CLASSIFIER_STEPS, FLOW_STEPS, SAMPLING_STEPS = 3_000, 10_000, 64
"""Most training steps (never more than those of the autoencoder), and steps from source to data."""
SHOWN = 10
"""Samples of every label in the picture."""
Network = TypeVar("Network", bound=nn.Module)
MEASURES = (
    Measure(key="classifier_accuracy", title="accuracy on test images", digits=3),
    Measure(key="reconstruction_accuracy", title="on reconstructions", digits=3),
    Measure(key="sample_accuracy", title="on samples", digits=3),
    Measure(key="worst_label_accuracy", title="on samples of the worst label", digits=3),
    PSNR,
)


@dataclass(frozen=True, kw_only=True)
class LabelJob(TrainingJob):
    """Train an autoencoder, a classifier and a flow on codes; sample as many images as are held out, with their labels.

    A finished classifier or flow is kept beside the weights, so that a killed job does not train it again.
    """

    def further(self, trained: TrainedImages, data: ImageData, folder: Path) -> Result:
        """Judge samples, and for comparison the held-out images and their reconstructions."""
        model, classes = trained.model, len(data.classes)
        device = next(model.parameters()).device
        steps = self.recipe.steps
        classifier = _kept(
            folder / "classifier.safetensors",
            _built(lambda: ImageClassifier(data.shape[:2], data.shape[2], classes), self.seed).to(device),
            lambda network: fit_classifier(
                network, data.train, trained.preprocessing, steps=min(steps, CLASSIFIER_STEPS), seed=self.seed
            ),
        )
        config = CodeFlowConfig(steps=min(steps, FLOW_STEPS), width=self.recipe.width or CodeFlowConfig.width)
        flow = _kept(
            folder / "flow.safetensors",
            _built(
                lambda: CodeFlow(config, vocabulary=model.vocabulary, tokens=model.tokens, classes=classes), self.seed
            ).to(device),
            lambda network: fit_code_flow(network, *encode_all(trained, data.train, seed=self.seed), seed=self.seed),
        )
        _draw_labels(trained, flow, classes, folder / "label_samples.png", seed=self.seed)
        return judge(trained, classifier, flow, data.test, limit=self.images, seed=self.seed)


@torch.no_grad()
def encode_all(
    trained: TrainedImages, images: Images, *, seed: int
) -> tuple[Int[Tensor, "image token"], Int[Tensor, " image"]]:
    """Draw one code sequence per image, and return them with the labels, on the model's device."""
    device = next(trained.model.parameters()).device
    pixels, draws = torch.Generator().manual_seed(seed), torch.Generator(device=device).manual_seed(seed + 1)
    codes, labels = [], []
    for x, label in in_order(images, trained.preprocessing, batch=BATCH, generator=pixels):
        indices = trained.model.encode(x.to(device), draws).indices
        assert indices is not None
        codes.append(indices)
        labels.append(label.long().to(device))
    return torch.cat(codes), torch.cat(labels)


@torch.no_grad()
def judge(
    trained: TrainedImages, classifier: ImageClassifier, flow: CodeFlow, images: Images, *, limit: int | None, seed: int
) -> dict[str, float | list[float | None]]:
    """Let the classifier judge held-out images, their reconstructions, and samples with the same labels.

    Args:
        trained: The autoencoder.
        classifier: Trained on the training split.
        flow: Trained on codes of the training split.
        images: The held-out split.
        limit: As many of them; None takes all.
        seed: Of all draws.

    Returns:
        Accuracies, those of samples by label too (None for a label that does not occur).
    """
    device = next(trained.model.parameters()).device
    pixels, draws = torch.Generator().manual_seed(seed), torch.Generator(device=device).manual_seed(seed + 2)
    kinds = ("images", "reconstructions", "samples")
    found: dict[str, list[Tensor]] = {kind: [] for kind in kinds}
    labels = []
    for x, label in in_order(images, trained.preprocessing, batch=BATCH, limit=limit, generator=pixels):
        wanted = label.long().to(device)
        labels.append(wanted.cpu())
        coded = trained.model.decode(trained.model.encode(x.to(device), draws)).mean
        sampled = sample_images(trained, flow, wanted, draws)
        for kind, shown in zip(kinds, (x.to(device), coded, sampled)):
            found[kind].append(hits(classifier(trained.preprocessing.to_unit(shown)), wanted).cpu())
    joined = {name: torch.cat(parts) for name, parts in found.items()}
    truth = torch.cat(labels)
    by_label = [
        joined["samples"][truth == label].mean().item() if bool((truth == label).any()) else None
        for label in range(classifier.output.out_features)
    ]
    return {
        "classifier_accuracy": joined["images"].mean().item(),
        "reconstruction_accuracy": joined["reconstructions"].mean().item(),
        "sample_accuracy": joined["samples"].mean().item(),
        "sample_accuracy_by_label": by_label,
        "worst_label_accuracy": min(value for value in by_label if value is not None),
    }


@torch.no_grad()
def sample_images(
    trained: TrainedImages, flow: CodeFlow, labels: Int[Tensor, " image"], generator: torch.Generator
) -> Float[Tensor, "image pixel colour"]:
    """Draw an image for each label: codes from the flow, then the mean of p(x|z)."""
    codes = flow.sample(labels, generator, steps=SAMPLING_STEPS)
    return trained.model.decode_embeddings(trained.model.embed(codes)).mean


def _built(build: Callable[[], Network], seed: int) -> Network:
    """Build a network whose weights depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def _kept(path: Path, network: Network, fit: Callable[[Network], None]) -> Network:
    """Load the weights that are there, else train and write them."""
    if path.is_file():
        network.load_state_dict(safetensors.torch.load_file(path))
        return network.eval()
    fit(network)
    write_bytes(path, safetensors.torch.save({name: value.cpu() for name, value in network.state_dict().items()}))
    return network


def _draw_labels(trained: TrainedImages, flow: CodeFlow, classes: int, path: Path, *, seed: int) -> None:
    """Write a picture with one row of samples per label."""
    from motionlex.motion_vae.figures import save_picture  # matplotlib is slow to import and wanted only here

    device = next(trained.model.parameters()).device
    generator = torch.Generator(device=device).manual_seed(seed)
    labels = torch.arange(classes, device=device).repeat_interleave(SHOWN)
    images = trained.preprocessing.to_unit(sample_images(trained, flow, labels, generator).cpu())
    grid = trained.model.domain.grid
    save_picture(tiled(images, (grid[0], grid[1]), SHOWN), path)


def _draw(options: Options, finished: Sequence[Finished], folder: Path) -> list[Path]:
    """Draw the accuracy on samples of every label, the first seed of each method."""
    from matplotlib.figure import Figure  # slow to import and wanted only here

    from motionlex.motion_vae import figures

    groups = by_row(finished)
    figure = Figure(figsize=(7.0, 3.4), dpi=figures.DPI, layout="constrained")
    axes = figure.add_subplot()
    for place, (name, group) in enumerate(groups.items()):
        values = [np.nan if value is None else value for value in group[0].result["sample_accuracy_by_label"]]
        shift = (place - 0.5 * (len(groups) - 1)) * 0.8 / len(groups)
        axes.bar(np.arange(len(values)) + shift, values, width=0.8 / len(groups), label=name)
    axes.set_xlabel("label")
    axes.set_ylabel("samples that the classifier agrees with")
    axes.set_title(options.title, fontsize=10)
    axes.legend(fontsize=8)
    return [figures.save(figure, folder / "label_accuracy.png")]


LABEL_SAMPLES = experiment(
    "label-samples",
    "DAPS, figure 20: label-conditioned samples by discrete flow matching (MNIST)",
    setting="mnist",
    data="mnist",
    rows=(
        Row(name="DAPS", slug="daps", method="daps"),
        Row(name="VQ-VAE", slug="vqvae", method="vqvae"),
    ),
    measures=MEASURES,
    notes=(
        f"Classifier: a small convolutional network on the training split, at most {CLASSIFIER_STEPS:,} steps; flow: a "
        f"transformer on one code sequence per training image, source all masks, at most {FLOW_STEPS:,} steps, "
        f"{SAMPLING_STEPS} sampling steps; neither has more steps than the autoencoder",
        "As many samples as held-out images, with their labels",
        "The paper shows samples, no numbers: label_samples.png of every job, one row per label",
    ),
    draw=_draw,
    job=LabelJob,
)
