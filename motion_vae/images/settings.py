"""Data sets with their bottlenecks: what each asks of every method, and what the papers give for one method alone.

Numbers are those of DAPS, tables 3 to 5 and appendices I.1 to I.3 (mnist, cifar10, imagenet256, and the beta = 1 rows),
of papers/002, section 5.1 (cifar10_gm_vq, celeba128_gm_vq), of papers/003, appendices B, C and F (cifar10_rrvq5 and
cifar10_rrvq32; SVHN takes the same) and of the tutorial (mnist_tutorial). PPO, Gumbel on ImageNet, the Gaussian VAE and
the likelihood (per element) as the reconstruction term of VQ-VAE and FSQ are from the DAPS authors' code. Where nobody
ran a method on a data set, the recipe is the data set's, without a published number behind it. ``tiny`` is
for 8 x 8 digits in tests.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from motionlex.motion_vae.contract import OptimisationConfig
from motionlex.motion_vae.domain import NetworkConfig
from motionlex.motion_vae.images.domain import ImageDomain
from motionlex.motion_vae.likelihoods import LikelihoodConfig
from motionlex.motion_vae.networks.ladder import LadderConfig

Values = Mapping[str, object]
"""Fields of a frozen dataclass, by name."""


@dataclass(frozen=True, kw_only=True)
class ImageSetting:
    """One data set with its bottleneck, as one table of a paper compares methods on it."""

    domain: ImageDomain
    """Size of the images, networks and likelihood."""
    autoregressive: NetworkConfig
    """Networks of methods with an autoregressive posterior."""
    factorised: NetworkConfig
    """Networks of methods whose posterior predicts all codes at once."""
    deterministic: NetworkConfig
    """Networks of methods without a choice of posterior (nearest code, rounding)."""
    values: Values
    """Fields of the method's configuration, set where the method has them."""
    optimisation: OptimisationConfig
    """How methods are trained unless they say otherwise."""
    methods: Mapping[str, Values] = field(default_factory=dict)
    """By method: fields of its configuration that differ."""
    domains: Mapping[str, Values] = field(default_factory=dict)
    """By method: fields of the domain that differ."""
    optimisations: Mapping[str, Values] = field(default_factory=dict)
    """By method: fields of the optimisation that differ."""
    base: str = "paper"
    """Preset for motion that gives all other fields."""


BERNOULLI = LikelihoodConfig(family="bernoulli")
GRIDS_28 = {"rrvq": {"grid_tokens": (196, 49, 1)}, "spatial_vae": {"grid_tokens": (196,)}}
GRIDS_32 = {"rrvq": {"grid_tokens": (256, 64, 16, 4, 1)}, "spatial_vae": {"grid_tokens": (256,)}}
# Grids of papers/003 on 32 x 32 pixels (appendices B and F); the others here are ours.
GRIDS_28 = {"rrvq": {"grid_tokens": (196, 49, 1)}, "spatial_vae": {"grid_tokens": (196,)}}
GRIDS_32 = {"rrvq": {"grid_tokens": (256, 64, 16, 4, 1)}, "spatial_vae": {"grid_tokens": (256,)}}
COLOURS = LikelihoodConfig(family="predicted_gaussian", smallest_variance=0.01, largest_variance=1.0)
CONSTANT = {"temperature_start": 1.0, "temperature_end": 1.0}
HIGH = {"temperature_start": 1.0, "temperature_end": 0.75}
LOW = {"temperature_start": 1.0, "temperature_end": 0.1}
TWO_NUMBERS = {"patch": (28, 28), "padding": (0, 0), "recognition": "mlp", "mlp_encoder": (512,)}
"""The Gaussian VAE on MNIST has one token of two values: as many bits as floats as the 64 of the codes."""

MNIST = ImageSetting(
    domain=ImageDomain(
        height=28,
        width=28,
        channels=1,
        patch=(14, 8),
        padding=(0, 2),
        generator="mlp",
        mlp_decoder=(64, 256),
        likelihood_config=BERNOULLI,
    ),
    autoregressive=NetworkConfig(width=64, layers=1, mlp_ratio=4),
    factorised=NetworkConfig(width=64, layers=2, mlp_ratio=6),
    deterministic=NetworkConfig(width=64, layers=2, mlp_ratio=7),
    values={
        "vocabulary": 256,
        "levels": (8, 6, 5),
        "commitment": 0.25,
        "reconstruction": "likelihood",
        "likelihood_form": "likelihood",
        "samples": 8,
        "ess_target": 0.33,
        "rao_samples": 100,
        "grid_tokens": (4, 1),
        "beta_start": 0.5,
        "beta_end": 0.01,
    },
    optimisation=OptimisationConfig(batch=256, steps=250_000),
    methods={
        **GRIDS_28,
        "daps_na": {"ess_target": 0.5},
        "gumbel": CONSTANT,
        "gumbel_na": LOW,
        "gr_mck": HIGH,
        "gr_mck_na": LOW,
        "ppo": {"beta_start": 1.0},
        "gaussian": {"beta_start": 1.0, "latent_width": 2},
        "spatial_vae": {"grid_tokens": (4,)},
    },
    domains={"gaussian": TWO_NUMBERS},
)

MNIST_BETA1 = replace(
    MNIST,
    values={**MNIST.values, "beta_start": 1.0, "beta_end": 1.0, "ess_target": 0.75},
    methods={
        **GRIDS_28,
        "daps_na": {"ess_target": 0.5},
        "gumbel": HIGH,
        "gumbel_na": LOW,
        "gr_mck": HIGH,
        "gr_mck_na": HIGH,
        "gaussian": {"latent_width": 2},
        "spatial_vae": {"grid_tokens": (4,)},
    },
)

CIFAR10 = ImageSetting(
    domain=ImageDomain(height=32, width=32, channels=3, patch=(4, 4), likelihood_config=COLOURS),
    autoregressive=NetworkConfig(width=128, layers=2, mlp_ratio=4),
    factorised=NetworkConfig(width=128, layers=4, mlp_ratio=6),
    deterministic=NetworkConfig(width=128, layers=4, mlp_ratio=6),
    values={
        "vocabulary": 512,
        "levels": (8, 8, 8),
        "commitment": 0.25,
        "reconstruction": "likelihood",
        "likelihood_form": "likelihood",
        "samples": 8,
        "ess_target": 0.33,
        "rao_samples": 100,
        "grid_tokens": (64,),
        "beta_start": 6.0,
        "beta_end": 0.01,
    },
    optimisation=OptimisationConfig(batch=256, steps=250_000),
    methods={
        **GRIDS_32,
        "gumbel": CONSTANT,
        "gumbel_na": LOW,
        "gr_mck": {**HIGH, "beta_start": 3.0},
        "gr_mck_na": {**LOW, "beta_start": 3.0},
        "ppo": {"beta_start": 0.01},
    },
    optimisations={
        "gumbel": {"learning_rate": 1e-4, "learning_rate_end": 1e-5, "decay": "cosine"},
        "ppo": {"learning_rate": 1e-4},
    },
)

CIFAR10_BETA1 = replace(
    CIFAR10,
    values={**CIFAR10.values, "beta_end": 1.0},
    methods={
        **GRIDS_32,
        "gumbel": HIGH,
        "gumbel_na": LOW,
        "gr_mck": {**HIGH, "beta_start": 3.0},
        "gr_mck_na": {**HIGH, "beta_start": 3.0},
    },
    optimisations={"gumbel": {"learning_rate": 3e-4, "learning_rate_end": 3e-5, "decay": "cosine"}},
)

IMAGENET256 = ImageSetting(
    domain=ImageDomain(height=256, width=256, channels=3, patch=(8, 8), likelihood_config=COLOURS),
    autoregressive=NetworkConfig(width=128, layers=2, mlp_ratio=4),
    factorised=NetworkConfig(width=128, layers=6, mlp_ratio=4),
    deterministic=NetworkConfig(width=128, layers=6, mlp_ratio=4),
    values={
        "vocabulary": 1024,
        "levels": (8, 5, 5, 5),
        "commitment": 0.25,
        "reconstruction": "likelihood",
        "likelihood_form": "likelihood",
        "samples": 8,
        "ess_target": 0.25,
        "rao_samples": 10,
        "grid_tokens": (1024,),
        "beta_start": 50.0,
        "beta_end": 1.0,
    },
    optimisation=OptimisationConfig(batch=64, steps=300_000),
    methods={
        "rrvq": {"grid_tokens": (1024, 256, 64, 16, 4)},
        "spatial_vae": {"grid_tokens": (16384,)},
        "gumbel": HIGH,
        "gumbel_na": LOW,
        "gr_mck": {**HIGH, "beta_start": 10.0},
        "gr_mck_na": {**LOW, "beta_start": 10.0},
    },
    # The paper leaves gumbel out here as unstable; its rate is that of the authors' configuration.
    optimisations={"gumbel": {"learning_rate": 1e-4}, "gr_mck": {"learning_rate": 1e-4}},
)

CIFAR10_RRVQ = ImageSetting(
    domain=replace(CIFAR10.domain, likelihood_config=LikelihoodConfig(family="discretised_logistic")),
    autoregressive=CIFAR10.autoregressive,
    factorised=CIFAR10.factorised,
    deterministic=CIFAR10.deterministic,
    values={**CIFAR10.values, "vocabulary": 256, "beta_start": 1.0, "beta_end": 1.0},
    # 500 epochs of 781 batches; a plateau is 20 epochs. The number of channels of the L = 5 model is not in the paper.
    optimisation=OptimisationConfig(
        batch=64,
        steps=390_500,
        optimiser="adamax",
        learning_rate=8e-4,
        weight_decay=0.0,
        adaptive_clipping=None,
        validation_steps=781,
        plateau_factor=0.8,
        plateau_patience=20,
        plateau_floor=5e-5,
    ),
    methods=GRIDS_32,
)

CIFAR10_GM_VQ = ImageSetting(
    domain=ImageDomain(
        height=32,
        width=32,
        channels=3,
        patch=(4, 4),
        recognition="conv",
        generator="resnet",
        likelihood_config=LikelihoodConfig(family="gaussian"),
    ),
    autoregressive=NetworkConfig(width=64),
    factorised=NetworkConfig(width=64),
    deterministic=NetworkConfig(width=64),
    values={"vocabulary": 1024, "commitment": 0.25, "kmeans_start": True, "grid_tokens": (64,)},
    methods=GRIDS_32,
    # 100 epochs of 195 batches, of which 10 warm up; the cosine's end and the weight decay are not in the paper.
    optimisation=OptimisationConfig(
        batch=256,
        steps=19_500,
        learning_rate=1e-2,
        learning_rate_end=1e-5,
        decay="cosine",
        warm_up=0.1,
        warm_up_from=0.2,
        adaptive_clipping=None,
    ),
)

CELEBA128_GM_VQ = replace(
    CIFAR10_GM_VQ,
    # Patches of 8 pixels are our reading of "a deeper network": the paper gives no sizes.
    domain=replace(CIFAR10_GM_VQ.domain, height=128, width=128, patch=(8, 8)),
    values={**CIFAR10_GM_VQ.values, "grid_tokens": (256,)},
    # 100 epochs of 635 batches (162,770 training images).
    methods={"rrvq": {"grid_tokens": (1024, 256, 64, 16, 4)}, "spatial_vae": {"grid_tokens": (4096,)}},
    optimisation=replace(CIFAR10_GM_VQ.optimisation, steps=63_500, learning_rate=1e-4, learning_rate_end=1e-7),
)

CIFAR10_RRVQ5 = ImageSetting(
    domain=ImageDomain(
        height=32,
        width=32,
        channels=3,
        patch=(2, 2),
        recognition="conv",
        hidden=32,
        likelihood_config=LikelihoodConfig(family="discretised_logistic"),
    ),
    autoregressive=NetworkConfig(width=128),
    factorised=NetworkConfig(width=128),
    deterministic=NetworkConfig(width=128),
    values={
        "vocabulary": 256,
        "levels": (8, 6, 5),
        "reconstruction": "likelihood",
        "likelihood_form": "likelihood",
        "beta_start": 1.0,
        "beta_end": 1.0,
    },
    # 500 epochs of 781 batches; the plateau is that of 20 epochs.
    optimisation=OptimisationConfig(
        batch=64,
        steps=390_500,
        optimiser="adamax",
        learning_rate=8e-4,
        weight_decay=0.0,
        adaptive_clipping=None,
        validation_steps=781,
        plateau_factor=0.8,
        plateau_patience=20,
        plateau_floor=5e-5,
    ),
    methods={
        "rrvq": {
            "grid_tokens": (256, 64, 16, 4, 1),
            "embedding_width": 128,
            "ladder": LadderConfig(width=128, blocks=4, ladder_blocks=4),
        },
        "spatial_vae": {"grid_tokens": (256,), "latent_width": 16, "ladder": LadderConfig(width=32, blocks=2)},
    },
)

DEEP = {
    "grid_tokens": (256,) * 8 + (64,) * 8 + (16,) * 8 + (4,) * 8,
    "ladder": LadderConfig(width=256, blocks=1),
}
CIFAR10_RRVQ32 = replace(
    CIFAR10_RRVQ5,
    methods={"rrvq": {**DEEP, "embedding_width": 32}, "spatial_vae": {**DEEP, "latent_width": 32}},
)

MNIST_TUTORIAL = ImageSetting(
    domain=ImageDomain(
        height=28,
        width=28,
        channels=1,
        patch=(14, 14),
        recognition="mlp",
        generator="mlp",
        mlp_encoder=(512, 256),
        mlp_decoder=(256, 512),
        likelihood_config=BERNOULLI,
    ),
    autoregressive=NetworkConfig(width=8),
    factorised=NetworkConfig(width=8),
    deterministic=NetworkConfig(width=8),
    values={
        "vocabulary": 8,
        "grid_tokens": (4,),
        "levels": (3, 3),
        "commitment": 0.25,
        "reconstruction": "likelihood",
        "likelihood_form": "likelihood",
        "beta_start": 1.0,
        "beta_end": 1.0,
    },
    # 160 epochs of 600 batches.
    optimisation=OptimisationConfig(
        batch=100, steps=96_000, optimiser="adam", learning_rate=5e-4, weight_decay=0.0, adaptive_clipping=None
    ),
    methods={
        "reinforce": {"one_hot": True, "samples": 1, "baseline": "constant", "constant_nats": -125.0},
        "rrvq": {"grid_tokens": (4,)},
        "spatial_vae": {"grid_tokens": (196,)},
    },
)

TINY = ImageSetting(
    domain=ImageDomain(
        height=8,
        width=8,
        channels=1,
        patch=(2, 2),
        hidden=16,
        likelihood_config=BERNOULLI,
    ),
    autoregressive=NetworkConfig(width=32, layers=1),
    factorised=NetworkConfig(width=32, layers=2),
    deterministic=NetworkConfig(width=32, layers=2),
    values={
        "vocabulary": 16,
        "grid_tokens": (16, 4, 1),
        "levels": (4, 4),
        "reconstruction": "likelihood",
        "likelihood_form": "likelihood",
    },
    methods={"rrvq": {"grid_tokens": (16, 4, 1)}, "spatial_vae": {"grid_tokens": (16,)}},
    optimisation=OptimisationConfig(batch=64, steps=1000, learning_rate=2e-3),
    methods={"spatial_vae": {"grid_tokens": (16,)}},
    base="small",
)

SETTINGS: Mapping[str, ImageSetting] = {
    "mnist": MNIST,
    "mnist_beta1": MNIST_BETA1,
    "mnist_tutorial": MNIST_TUTORIAL,
    "cifar10": CIFAR10,
    "cifar10_beta1": CIFAR10_BETA1,
    "cifar10_gm_vq": CIFAR10_GM_VQ,
    "cifar10_rrvq5": CIFAR10_RRVQ5,
    "cifar10_rrvq32": CIFAR10_RRVQ32,
    "cifar10_rrvq": CIFAR10_RRVQ,
    "celeba128_gm_vq": CELEBA128_GM_VQ,
    "imagenet256": IMAGENET256,
    "tiny": TINY,
}
