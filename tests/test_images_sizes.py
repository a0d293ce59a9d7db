"""Sizes of the networks of the papers, layer by layer: the arithmetic of every architecture is written out here."""

import pytest
import torch

from motionlex.motion_vae.images.presets import image_preset
from motionlex.motion_vae.registry import build_model


def built(method, setting):
    """A model without storage: only shapes matter."""
    preset, shape = image_preset(method, setting)
    with torch.device("meta"):
        return build_model(method, preset.method, shape, seed=0)


def counted(module, *, frozen=False):
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad != frozen)


def dense(inputs, outputs, *, bias=True):
    return inputs * outputs + outputs * bias


def conv(inputs, outputs, side):
    """Square kernel with biases."""
    return inputs * outputs * side * side + outputs


def normed(inputs, outputs, side):
    """The same with a length per output channel (weight normalisation)."""
    return conv(inputs, outputs, side) + outputs


def test_the_tutorial_is_784_512_256_4x8_256_512_784():
    """The published layers, a head from 8 features to 8 logits (72), and one-hot codes that are not trained (64)."""
    model = built("reinforce", "mnist_tutorial")
    encoder = dense(784, 512) + dense(512, 256) + dense(256, 4 * 8)
    decoder = dense(4 * 8, 256) + dense(256, 512) + dense(512, 784)
    assert (encoder, decoder, encoder + decoder) == (541_472, 542_224, 1_083_696)
    assert counted(model) == encoder + decoder + dense(8, 8) == 1_083_768
    assert counted(model, frozen=True) == 8 * 8


def transformer(width, blocks, ratio):
    """Pre-norm blocks with attention without biases, and a norm at the end."""
    norm, attention = 2 * width, 4 * width * width
    mlp = dense(width, ratio * width) + dense(ratio * width, width)
    return blocks * (2 * norm + attention + mlp) + norm


def test_vq_vae_and_fsq_on_mnist():
    """2 x 4 patches of 14 x 8 pixels, two blocks of width 64 and ratio 7, the decoder of DAPS (64, 256 hidden)."""
    recognition = dense(14 * 8, 64) + transformer(64, 2, 7)
    decoder = dense(8 * 64, 64) + dense(64, 256) + dense(256, 784)
    assert counted(built("vqvae", "mnist")) == recognition + 256 * 64 + decoder == 423_696
    coordinates = dense(64, 3) + dense(3, 64)  # of three levels, and back
    assert counted(built("fsq", "mnist")) == recognition + coordinates + decoder == 407_763


def test_vq_vae_and_fsq_on_cifar():
    """8 x 8 patches of 4 x 4 pixels, four blocks of width 128 and ratio 6; the decoder is DAPS's, tested elsewhere."""
    recognition = dense(4 * 4 * 3, 128) + transformer(128, 4, 6)
    vqvae, fsq = built("vqvae", "cifar10"), built("fsq", "cifar10")
    assert counted(vqvae.encoder) == counted(fsq.encoder) == recognition
    assert counted(vqvae) - recognition == 257_958
    assert counted(fsq) - recognition == 257_958 - 512 * 128 + dense(128, 3) + dense(3, 128)


def residual(channels):
    """3 x 3 and 1 x 1 convolutions, each with scales and shifts of a normalisation."""
    return conv(channels, channels, 3) + conv(channels, channels, 1) + 4 * channels


@pytest.mark.parametrize(
    ("setting", "channels", "total"), [("cifar10_gm_vq", (32, 64), 386_243), ("celeba128_gm_vq", (16, 32, 64), None)]
)
def test_gm_vq_is_a_pair_of_convolutional_networks(setting, channels, total):
    """Every halving is a 4 x 4 kernel of stride 2; two residual blocks of 64 on the grid of tokens; 1,024 codes of 64;
    the head gives means and precisions of 64 values."""
    halvings = list(zip((3, *channels), channels))
    encoder = sum(conv(i, o, 4) + 2 * o for i, o in halvings) + conv(64, 64, 3) + 2 * residual(64) + conv(64, 64, 1)
    doublings = list(zip(reversed(channels), (*reversed(channels[:-1]), 3)))
    decoder = conv(64, 64, 3) + 2 * residual(64) + sum(conv(i, o, 4) for i, o in doublings) + 2 * sum(channels[:-1])
    model = built("gm_vq", setting)
    assert counted(model) == encoder + dense(64, 2 * 64) + 1024 * 64 + decoder
    assert total is None or counted(model) == total


def test_rrvq_with_five_layers():
    """Width 128; 4 residual blocks per layer and backbone, of which one changes the grid, and 4 in every ladder."""
    width, layers = 128, 5
    three, four = normed(width, width, 3), normed(width, width, 4)
    block, resizing = 2 * three, four + three
    ends = normed(3, width, 4) + normed(width, 3, 4)
    backbone = (layers - 1) * (resizing + 3 * block) + 4 * block
    straps, ladders = (layers - 1) * (4 * block + four), layers * (4 * block + three)
    codebooks = layers * 2 * 256 * width  # means and variances
    scale = 1  # of the logistic
    assert counted(built("rrvq", "cifar10_rrvq")) == ends + 2 * (backbone + straps + ladders) + codebooks + scale
    assert counted(built("rrvq", "cifar10_rrvq")) == 37_921_543


def test_rrvq_with_thirty_two_layers():
    """Width 256, codes of 32; one block per layer, three of which change the grid; ladders of one convolution."""
    width, code, layers, changes = 256, 32, 32, 3
    block = 2 * normed(width, width, 3)
    resizing = normed(width, width, 4) + normed(width, width, 3)
    backbone = (layers - changes) * block + changes * resizing
    to_codes = (layers - 1 - changes) * normed(width, code, 3) + changes * normed(width, code, 4)
    straps, up, down = 2 * to_codes, layers * normed(width, code, 3), layers * normed(code, width, 3)
    ends, codebooks = normed(3, width, 4) + normed(width, 3, 4), layers * 2 * 256 * code
    assert counted(built("rrvq", "cifar10_rrvq32")) == ends + 2 * backbone + straps + up + down + codebooks + 1
    gaussian = built("spatial_vae", "cifar10_rrvq32")  # mean and deviation where RRVQ has one embedding, no codebooks
    twice = 2 * (straps + up)
    assert counted(gaussian) == ends + 2 * backbone + twice + down + 1
