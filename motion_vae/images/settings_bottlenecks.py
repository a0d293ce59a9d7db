"""The data sets of the DAPS paper with fewer tokens: its figures 12 and 13 compare bottlenecks.

The paper gives tokens and codes and nothing else: patches grow here until there are so few, all else stays.
"""

from dataclasses import replace

from motionlex.motion_vae.images.setting import ImageSetting
from motionlex.motion_vae.images.settings_daps import CIFAR10, MNIST


def with_patches(setting: ImageSetting, patch: tuple[int, int]) -> ImageSetting:
    """Change the pixels per token, and with them the number of tokens.

    Args:
        setting: A data set with its bottleneck.
        patch: Rows and columns of pixels per token; must divide the padded image.
    """
    return replace(setting, domain=replace(setting.domain, patch=patch))


MNIST_4 = with_patches(MNIST, (14, 16))
CIFAR10_16 = with_patches(CIFAR10, (8, 8))
CIFAR10_4 = with_patches(CIFAR10, (16, 16))
