"""The layer over the codes adds rows of tables: it must be torch's convolution of the embedded codes, gradients too."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from motionlex.controllers.low_level_policy import CodeFeatures


@pytest.fixture
def layer():
    torch.manual_seed(0)
    features = CodeFeatures(vocabulary=11, width=5, channels=3)
    features.embedding.copy_(torch.randn(11, 5))
    return features.double()


def convolved(layer: CodeFeatures, codes: torch.Tensor) -> torch.Tensor:
    convolution = layer.convolution
    embedded = layer.embedding[codes.long()].transpose(1, 2)
    out = nn.functional.conv1d(embedded, convolution.weight, convolution.bias, stride=4, padding=2)
    return nn.functional.elu(out).flatten(1)


@pytest.mark.parametrize("segments", [1, 7, 40])
@pytest.mark.parametrize("learning", [True, False])
def test_it_is_the_convolution_of_the_embedded_codes(layer, segments, learning):
    codes = torch.randint(0, 11, (segments, 64)).float()[torch.randint(0, segments, (40,))]
    with torch.set_grad_enabled(learning):
        found = layer(codes)
    assert found.shape == (40, 16 * 3)
    torch.testing.assert_close(found.double(), convolved(layer, codes), atol=1e-5, rtol=1e-5)  # tables are float32


def test_gradients_are_those_of_the_convolution(layer):
    codes = torch.randint(0, 11, (6, 64)).float()[torch.randint(0, 6, (40,))]
    weight = torch.randn(40, 48)
    gradients = []
    for output in (layer(codes), convolved(layer, codes)):
        layer.zero_grad()
        (output * weight).sum().backward()
        gradients.append([parameter.grad.clone() for parameter in layer.convolution.parameters()])
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_rows_that_share_a_sum_by_accident_are_kept_apart(layer, monkeypatch):
    """With all weights of the sum zero, every row looks the same."""
    monkeypatch.setattr(torch, "sin", torch.zeros_like)
    codes = torch.randint(0, 11, (9, 64)).float()
    torch.testing.assert_close(layer(codes).double(), convolved(layer, codes), atol=1e-5, rtol=1e-5)
