"""MNIST, CIFAR-10 and ImageNet-256 as the DAPS paper compares methods on them: tables 3 to 5, appendices I.1 to I.3.

PPO, Gumbel on ImageNet, the Gaussian VAE and the likelihood (per element) as the reconstruction term of VQ-VAE and FSQ
are from the authors' code. Where nobody ran a method on a data set, the recipe is the data set's, without a published
number behind it.
"""

from dataclasses import replace

from motionlex.motion_vae.contract import OptimisationConfig
from motionlex.motion_vae.domain import NetworkConfig
from motionlex.motion_vae.images.domain import ImageDomain
from motionlex.motion_vae.images.setting import ImageSetting
from motionlex.motion_vae.likelihoods import LikelihoodConfig

BERNOULLI = LikelihoodConfig(family="bernoulli")
# Grids of RRVQ on 32 x 32 pixels (appendices B and F); the others here are ours.
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
        "gumbel": {"learning_rate": 1e-4, "learning_rate_end": 1e-5, "learning_rate_decay": "cosine"},
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
    optimisations={"gumbel": {"learning_rate": 3e-4, "learning_rate_end": 3e-5, "learning_rate_decay": "cosine"}},
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
