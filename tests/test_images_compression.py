"""Levels of an RRVQ-VAE, bytes of codes and of JPEG files, and what they come to in one command on built-in images."""

import io
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from motionlex.data.images.dataset import load_image_dataset
from motionlex.motion_vae.images.code_lengths import (
    decoded,
    jpeg_images,
    nearest,
    pack_codes,
    packed_bytes,
    scan_start,
    unpack_codes,
)
from motionlex.motion_vae.images.levels import decode_levels, level_bits, most_probable_codes
from motionlex.motion_vae.images.presets import image_preset
from motionlex.motion_vae.images.rate_distortion import as_bytes, coded_bytes, compress, unit_pixels
from motionlex.motion_vae.registry import build_model, override
from motionlex.scripts.benchmark_images import main


def untrained(*changes):
    """A small model whose codes differ from image to image."""
    preset, domain = image_preset("rrvq", "tiny")
    preset = override(preset, ("ladder.width=16", "ladder.blocks=1", "embedding_width=8", *changes))
    return build_model("rrvq", preset.method, domain, seed=0).eval().requires_grad_(False)


def pictures(count, size=8, colours=1, seed=0):
    return torch.rand(count, size * size, colours, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def photographs():
    """Two tiles as (32, 32, 3) bytes."""
    return load_image_dataset("photographs").test.read(np.array([30, 200]))


@pytest.mark.parametrize(
    ("count", "vocabulary", "size"), [(341, 256, 341), (21, 16, 11), (1, 16, 1), (5, 3, 1), (6, 3, 2)]
)
def test_codes_are_packed_into_as_few_bytes_as_hold_them(count, vocabulary, size):
    """341 bytes of a byte each; 84 bits; 4 bits; 3^5 = 243 < 256 < 729 = 3^6."""
    codes = np.random.default_rng(0).integers(vocabulary, size=count).tolist()
    packed = pack_codes(codes, vocabulary)
    assert len(packed) == packed_bytes(count, vocabulary) == size
    assert unpack_codes(packed, count, vocabulary) == codes
    assert unpack_codes(pack_codes([vocabulary - 1] * count, vocabulary), count, vocabulary) == [vocabulary - 1] * count


def test_the_information_of_all_levels_is_that_of_the_encoder_and_of_the_sampler():
    """Both add log p up on paths of their own; 21 tokens of 16 codes, so float32 leaves about 1e-5 bits."""
    model = untrained("top_prior=learned")
    for codes in (
        model.encode(pictures(5), torch.Generator().manual_seed(1)),
        model.sample_prior(5, torch.Generator().manual_seed(2)),
    ):
        bits = level_bits(model, codes.indices)
        assert bits.shape == (5, 3) and (bits > 0).all()
        assert torch.allclose(bits.sum(dim=1), -codes.log_prior / math.log(2.0), atol=1e-3)
    uniform = level_bits(untrained(), codes.indices)[:, 0]
    assert uniform.tolist() == [4.0] * 5  # one token of 16 equally probable codes on top


def test_levels_left_out_do_not_matter_and_all_levels_are_the_decoder():
    model = untrained()
    codes = model.encode(pictures(4), torch.Generator().manual_seed(0)).indices
    other = codes.clone()
    other[:, 5:] = (other[:, 5:] + 3) % 16  # 1 + 4 tokens are the two coarsest levels
    assert torch.equal(decode_levels(model, codes, 2).mean, decode_levels(model, other, 2).mean)
    assert not torch.equal(decode_levels(model, codes, 3).mean, decode_levels(model, other, 3).mean)
    everything = model.decode_embeddings(model.embed(codes)).mean
    assert torch.allclose(decode_levels(model, codes, 3).mean, everything, atol=1e-6)
    with pytest.raises(AssertionError, match="1 to 3"):
        decode_levels(model, codes, 0)


def test_without_variances_the_most_probable_code_is_the_nearest():
    model = untrained("grid_tokens=16", "variances=unit")
    x = pictures(6)
    embedded = model.ladder.posterior(0, None, model.ladder.bottom_up(x)[0])
    wanted = torch.cdist(embedded.double(), model.means[0].double()).argmin(dim=-1)
    assert torch.equal(most_probable_codes(model, x), wanted)


def test_a_coder_of_two_bits_more_in_whole_bytes():
    assert coded_bytes(torch.tensor([0.0, 6.0, 6.01, 14.0, 2728.0])).tolist() == [1, 1, 2, 2, 342]


@pytest.mark.parametrize("colours", [1, 3])
def test_a_scan_and_the_header_of_another_image_make_the_file(photographs, colours):
    """So nothing of the image is in what is not counted: its header is that of any image of the quality."""
    first, second = (jpeg_images(pixels[..., :colours], optimise=False) for pixels in photographs)
    assert len(first) == (190 if colours == 3 else 95)
    for ours, other in list(zip(first, second))[::9]:
        assert (ours.quality, ours.subsampling) == (other.quality, other.subsampling)
        joined = other.content[: scan_start(other.content)] + ours.scan + b"\xff\xd9"
        assert joined == ours.content and ours.scan != other.scan
        assert np.array_equal(decoded(joined), decoded(ours.content))


def test_sizes_are_those_of_files_that_decode_again(photographs, tmp_path):
    pixels = torch.from_numpy(photographs[0]).flatten(0, 1).float() / 255.0
    found = compress(pixels, (32, 32))
    for count, (files, sizes) in found.items():
        place = nearest(files, sizes, 400)
        assert min(abs(size - 400) for size in sizes) == abs(sizes[place] - 400)
        path = tmp_path / f"{count}.jpg"
        path.write_bytes(files[place].content)
        with Image.open(path) as picture:
            assert picture.format == "JPEG" and picture.size == (32, 32)
            again = np.asarray(picture)
        assert sizes[place] == (path.stat().st_size if count == "file" else len(files[place].scan) + 1)
        assert np.array_equal(np.rint(255.0 * unit_pixels(files[place])[0].numpy()).reshape(32, 32, 3), again)
    best = found["scan"][0][94]  # quality 95 without subsampling is near the original, quality 1 is not
    error = (unit_pixels(best)[0] - pixels).square().mean().sqrt()
    assert error < 0.02 < (unit_pixels(found["scan"][0][0])[0] - pixels).square().mean().sqrt()


def test_of_equally_near_files_the_better_one_is_taken(photographs):
    files = jpeg_images(photographs[0], optimise=False)[:3]
    assert nearest(files, [10, 20, 20], 19) == 2 and nearest(files, [10, 20, 24], 22) == 2


def test_a_decoder_gives_bytes():
    assert as_bytes(torch.tensor([[[-0.1], [0.5], [1.2]]])).flatten().tolist() == pytest.approx([0.0, 128 / 255, 1.0])


def test_compression_from_one_command(tmp_path, capsys):
    """After 200 steps on digits every further level that is decoded lowers the error, and costs bytes."""
    flags = ("--data", "digits", "--steps", "200", "--batch", "32", "--width", "16", "--images", "24")
    assert main(["rrvq-compression", *flags, "--out", str(tmp_path), "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    rates = result["table"]["rates"]
    model = rates["model"]
    assert rates["raw_bytes"] == 64 and [point["fixed_bytes"] for point in model] == [1.0, 3.0, 11.0]
    psnr, coded = ([point[key] for point in model] for key in ("psnr_db", "coded_bytes"))
    assert coded[0] < coded[1] < coded[2] and psnr[0] < psnr[1] < psnr[2] and psnr[2] > psnr[0] + 0.5, (psnr, coded)
    assert {(p["near"], p["counted"]) for p in rates["jpeg"]} == {
        (near, counted) for near in ("fixed", "coded") for counted in ("scan", "file")
    }
    for point in rates["jpeg"]:  # a header alone is longer than the model's 11 bytes
        size = point[f"{point['counted']}_bytes"]
        assert size > 100 if point["counted"] == "file" else size < 20
    assert rates["curve"][0]["psnr_db"] < rates["curve"][-1]["psnr_db"]
    with Image.open(io.BytesIO((tmp_path / "jobs/rrvq_seed0/compressed.png").read_bytes())) as picture:
        assert picture.size == (16 * 10, 4 * 10)
    text = (tmp_path / "table.md").read_text()
    assert "### Bytes of an image (64 uncompressed)" in text and "| JPEG, whole file, nearest" in text
    assert any(file.endswith("rate_distortion.png") for file in result["files"])
