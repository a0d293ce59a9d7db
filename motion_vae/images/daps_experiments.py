"""The experiments of the DAPS paper, in the order of listings."""

from motionlex.motion_vae.images.beta_ess_grid import BETA_ESS_GRID
from motionlex.motion_vae.images.bottleneck_sweep import BOTTLENECK_SWEEP, BOTTLENECK_SWEEP_CIFAR
from motionlex.motion_vae.images.code_usage import CODE_USAGE, CODE_USAGE_CIFAR
from motionlex.motion_vae.images.daps_tables import TABLE1, TABLE1_CIFAR, TABLE1_IMAGENET, TABLE2, TABLE2_CIFAR
from motionlex.motion_vae.images.label_samples import LABEL_SAMPLES
from motionlex.motion_vae.images.overview import OVERVIEW, OVERVIEW_CIFAR
from motionlex.motion_vae.images.overview_memory import OVERVIEW_IMAGENET
from motionlex.motion_vae.images.prior_draws import PRIOR_SAMPLES
from motionlex.motion_vae.images.value_samples import VALUE_SAMPLES

DAPS_EXPERIMENTS = (
    TABLE1,
    TABLE1_CIFAR,
    TABLE1_IMAGENET,
    TABLE2,
    TABLE2_CIFAR,
    BOTTLENECK_SWEEP,
    BOTTLENECK_SWEEP_CIFAR,
    BETA_ESS_GRID,
    VALUE_SAMPLES,
    CODE_USAGE,
    CODE_USAGE_CIFAR,
    OVERVIEW,
    OVERVIEW_CIFAR,
    OVERVIEW_IMAGENET,
    PRIOR_SAMPLES,
    LABEL_SAMPLES,
)
