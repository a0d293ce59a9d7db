"""The experiments of the DAPS paper beside table 1 on MNIST and the beta-ESS grid, in the order of listings."""

from motionlex.motion_vae.images.bottleneck_sweep import BOTTLENECK_SWEEP, BOTTLENECK_SWEEP_CIFAR
from motionlex.motion_vae.images.code_usage import CODE_USAGE, CODE_USAGE_CIFAR
from motionlex.motion_vae.images.daps_tables import TABLE1, TABLE1_CIFAR, TABLE1_IMAGENET, TABLE2, TABLE2_CIFAR
from motionlex.motion_vae.images.label_samples import LABEL_SAMPLES
from motionlex.motion_vae.images.overview import OVERVIEW, OVERVIEW_CIFAR
from motionlex.motion_vae.images.value_samples import VALUE_SAMPLES

DAPS_EXPERIMENTS = (
    TABLE1,
    TABLE1_CIFAR,
    TABLE1_IMAGENET,
    TABLE2,
    TABLE2_CIFAR,
    BOTTLENECK_SWEEP,
    BOTTLENECK_SWEEP_CIFAR,
    VALUE_SAMPLES,
    CODE_USAGE,
    CODE_USAGE_CIFAR,
    OVERVIEW,
    OVERVIEW_CIFAR,
    LABEL_SAMPLES,
)
