"""Every data set with its bottleneck, by name; ``tiny`` is for 8 x 8 digits in tests."""

from collections.abc import Mapping

from motionlex.motion_vae.contract import OptimisationConfig
from motionlex.motion_vae.domain import NetworkConfig
from motionlex.motion_vae.images.domain import ImageDomain
from motionlex.motion_vae.images.setting import ImageSetting
from motionlex.motion_vae.images.settings_bottlenecks import CIFAR10_4, CIFAR10_16, MNIST_4, with_patches
from motionlex.motion_vae.images.settings_daps import (
    BERNOULLI,
    CIFAR10,
    CIFAR10_BETA1,
    IMAGENET256,
    MNIST,
    MNIST_BETA1,
)
from motionlex.motion_vae.images.settings_others import (
    CELEBA64_RRVQ,
    CELEBA128_GM_VQ,
    CIFAR10_GM_VQ,
    CIFAR10_RRVQ,
    CIFAR10_RRVQ32,
    MNIST_TUTORIAL,
    SVHN_RRVQ,
    SVHN_RRVQ32,
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
        "levels": (4, 4),
        "reconstruction": "likelihood",
        "likelihood_form": "likelihood",
    },
    methods={"rrvq": {"grid_tokens": (16, 4, 1)}, "spatial_vae": {"grid_tokens": (16,)}},
    optimisation=OptimisationConfig(batch=64, steps=1000, learning_rate=2e-3),
    base="small",
)

SETTINGS: Mapping[str, ImageSetting] = {
    "mnist": MNIST,
    "mnist_4": MNIST_4,
    "mnist_beta1": MNIST_BETA1,
    "mnist_tutorial": MNIST_TUTORIAL,
    "cifar10": CIFAR10,
    "cifar10_16": CIFAR10_16,
    "cifar10_4": CIFAR10_4,
    "cifar10_beta1": CIFAR10_BETA1,
    "cifar10_gm_vq": CIFAR10_GM_VQ,
    "cifar10_rrvq32": CIFAR10_RRVQ32,
    "cifar10_rrvq": CIFAR10_RRVQ,
    "svhn_rrvq32": SVHN_RRVQ32,
    "svhn_rrvq": SVHN_RRVQ,
    "celeba64_rrvq": CELEBA64_RRVQ,
    "celeba128_gm_vq": CELEBA128_GM_VQ,
    "imagenet256": IMAGENET256,
    "tiny": TINY,
    "tiny_4": with_patches(TINY, (4, 4)),
}
