"""Image data sets from tiny files in the official layouts, and from what goes wrong with them."""

import gzip
import os
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from image_files import picture, rng, tar, write
from scipy.io import savemat

from motionlex.data.datasets import available_datasets, cifar10, load_dataset, svhn
from motionlex.data.datasets.fashion_mnist import FASHION_MNIST
from motionlex.data.datasets.mnist import MNIST
from motionlex.data.errors import UserError
from motionlex.data.images.dataset import available_image_datasets, get_image_dataset, load_image_dataset
from motionlex.data.images.files import digest_of
from motionlex.data.images.idx import FILES, IdxSet, parse_idx

ROOT = os.environ.get("MOTIONLEX_IMAGES")


real = pytest.mark.skipif(not ROOT, reason="MOTIONLEX_IMAGES names no folder")


COUNTS = {"train": 5, "test": 2}


def idx(array):
    """The format, written out: two zeros, type 8, the number of axes, their lengths as big-endian integers."""
    header = bytes([0, 0, 8, array.ndim]) + b"".join(length.to_bytes(4, "big") for length in array.shape)
    return header + array.astype(np.uint8).tobytes()


def idx_files():
    """Four small files by name, and the arrays in them."""
    arrays, draw = {}, rng()
    for split, (images, labels) in FILES.items():
        arrays[images] = draw.integers(0, 256, (COUNTS[split], 28, 28))
        arrays[labels] = draw.integers(0, 10, COUNTS[split])
    return {name: idx(array) for name, array in arrays.items()}, arrays


def small(official: IdxSet):
    """The same set with the sums and counts of the small files."""
    contents, _ = idx_files()
    return replace(official, sums={name: digest_of([c]) for name, c in contents.items()}, counts=COUNTS)


def test_motions_and_images_are_listed_apart():
    motions, images = available_datasets(), available_image_datasets()
    assert {"builtin", "lafan1", "loco_mujoco"} <= set(motions) and not set(motions) & set(images)
    wanted = {
        "mnist",
        "fashion_mnist",
        "cifar10",
        "cifar10_jpeg",
        "svhn",
        "celeba64",
        "celeba128",
        "imagenet",
        "digits",
    }
    assert wanted <= set(images)
    with pytest.raises(UserError, match=r"unknown data set 'mnist'.*Available: builtin"):
        load_dataset("mnist", None, hz=50.0)
    with pytest.raises(UserError, match=r"unknown image data set 'cifar'.*Did you mean 'cifar10'.*svhn"):
        load_image_dataset("cifar")


@pytest.mark.parametrize("name", [n for n in available_image_datasets() if get_image_dataset(n).download])
def test_a_missing_set_says_what_to_get_and_where(name, tmp_path, monkeypatch):
    monkeypatch.delenv("MOTIONLEX_IMAGES", raising=False)
    with pytest.raises(UserError, match=r"needs a folder: give --data-root PATH or set MOTIONLEX_IMAGES. \w+"):
        load_image_dataset(name)
    monkeypatch.setenv("MOTIONLEX_IMAGES", str(tmp_path / "none"))
    with pytest.raises(UserError, match=r"no such folder: .*none\. \w+"):
        load_image_dataset(name)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file is a file; wanted the folder"):
        load_image_dataset(name, tmp_path / "file")
    download = get_image_dataset(name).download
    with pytest.raises(UserError) as caught:
        load_image_dataset(name, tmp_path)
    assert f"{name!r} is not in {tmp_path}: no " in str(caught.value) and str(caught.value).endswith(download)


@pytest.mark.parametrize("layout", ["plain", "gzipped", "sub-folder", "archive", "gzipped in archive"])
@pytest.mark.parametrize("official", [MNIST, FASHION_MNIST], ids=lambda s: s.name)
def test_idx_files_in_every_packing(layout, official, tmp_path):
    contents, arrays = idx_files()
    packed = {f"{name}.gz": gzip.compress(content) for name, content in contents.items()}
    archive = "fashion.tar.gz" if official is FASHION_MNIST else "mnist_idx.tar.gz"
    if layout == "archive":
        tar(tmp_path / archive, {f"some/folder/{name}": c for name, c in contents.items()})
    elif layout == "gzipped in archive":
        tar(tmp_path / archive, packed)
    elif layout == "sub-folder":
        write(tmp_path / official.name, packed)
        write(tmp_path, {name: b"of another set" for name in contents})
    else:
        write(tmp_path, packed if layout == "gzipped" else contents)
    data = small(official).load(tmp_path)
    for split, images in (("train", data.train), ("test", data.test)):
        pixels, labels = (arrays[name] for name in FILES[split])
        assert images.shape == (28, 28, 1) and images.labels.tolist() == labels.tolist()
        assert np.array_equal(images.read(np.array([1, 0]))[..., 0], pixels[[1, 0]])
    assert data.train.digest() != data.test.digest()


def test_the_archive_of_one_set_is_not_taken_for_the_other(tmp_path):
    tar(tmp_path / "mnist_idx.tar.gz", idx_files()[0])
    with pytest.raises(UserError, match="'fashion_mnist' is not in"):
        small(FASHION_MNIST).load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c[:-1] + bytes([c[-1] ^ 1]), r"has MD5 [0-9a-f]{32}, wanted [0-9a-f]{32}"),
        (lambda c: c[:-1], r"has 3,919 values for an array \(5, 28, 28\)"),
        (lambda c: c + b"x", "has 3,921 values"),
        (lambda c: b"\x00\x00\x0d" + c[3:], "is no idx file of bytes: it begins with 00000d03"),
        (lambda c: b"", "it begins with nothing"),
        (lambda c: c[:9], "it is incomplete or damaged"),
        (lambda c: idx(np.zeros((4, 28, 28))), r"holds an array \(4, 28, 28\), wanted \(5, 28, 28\)"),
    ],
)
def test_damaged_idx_files_are_named(change, message, tmp_path):
    contents = idx_files()[0]
    contents["train-images-idx3-ubyte"] = change(contents["train-images-idx3-ubyte"])
    with pytest.raises(UserError, match=f"train-images-idx3-ubyte.*{message}"):
        small(MNIST).load(write(tmp_path, contents))


def test_a_cut_gzip_or_archive_is_named(tmp_path):
    contents = {f"{name}.gz": gzip.compress(content) for name, content in idx_files()[0].items()}
    contents["t10k-labels-idx1-ubyte.gz"] = contents["t10k-labels-idx1-ubyte.gz"][:-6]
    with pytest.raises(UserError, match=r"t10k-labels-idx1-ubyte\.gz is not an intact gzip file"):
        small(MNIST).load(write(tmp_path / "a", contents))
    whole = tar(tmp_path / "mnist.tar.gz", idx_files()[0]).read_bytes()
    (tmp_path / "mnist.tar.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"mnist\.tar\.gz is not an intact tar archive"):
        small(MNIST).load(tmp_path)


def test_idx_axes_are_read_in_order():
    array = rng().integers(0, 256, (3, 2, 5))
    assert np.array_equal(parse_idx(idx(array), "x"), array)


def cifar_batches(per_batch=10):
    """Six files in the layout of the binary version, with every class once, and the pixels by file."""
    contents, pixels, draw = {}, {}, rng(1)
    for name in (*cifar10.BATCHES["train"], *cifar10.BATCHES["test"]):
        pixels[name] = draw.integers(0, 256, (per_batch, 32, 32, 3))
        rows = [
            bytes([i % 10]) + pixels[name][i].transpose(2, 0, 1).astype(np.uint8).tobytes() for i in range(per_batch)
        ]
        contents[name] = b"".join(rows)
    return contents, pixels


@pytest.mark.parametrize("packed", [False, True])
def test_cifar_in_its_binary_version(packed, tmp_path):
    contents, pixels = cifar_batches()
    total = ""
    if packed:
        path = tar(tmp_path / cifar10.ARCHIVE, {f"cifar-10-batches-bin/{n}": c for n, c in contents.items()})
        total = digest_of([path.read_bytes()])
    else:
        write(tmp_path / "cifar-10-batches-bin", contents)
    data = cifar10.load(tmp_path, 10, total)
    assert len(data.train) == 50 and len(data.test) == 10 and data.shape == (32, 32, 3)
    assert np.array_equal(data.train.read(np.array([23]))[0], pixels["data_batch_3.bin"][3])
    assert np.array_equal(data.test.read(np.arange(10)), pixels["test_batch.bin"])
    assert data.test.labels.tolist() == list(range(10))


def test_cifar_is_refused_when_pickled_damaged_or_doubled(tmp_path):
    write(tmp_path / "cifar-10-batches-py", {"data_batch_1": pickle.dumps({})})
    with pytest.raises(UserError, match=r"data_batch_1 is the pickled version .* Download cifar-10-binary"):
        cifar10.load(tmp_path, 10)
    tar(tmp_path / cifar10.ARCHIVE, cifar_batches()[0])
    with pytest.raises(UserError, match=r"cifar-10-binary\.tar\.gz has MD5"):
        cifar10.load(tmp_path, 10)
    contents, _ = cifar_batches()
    folder = write(tmp_path / "bin", contents)
    for change, message in (
        (contents["test_batch.bin"][:-1], r"test_batch\.bin has 30,729 bytes, wanted 30,730"),
        (b"\x0b" + contents["test_batch.bin"][1:], r"test_batch\.bin, image 0: class 11, wanted 0 to 9"),
        (b"\x01" + contents["test_batch.bin"][1:], "the test split .* wanted equal numbers"),
    ):
        write(folder, {"test_batch.bin": change})
        with pytest.raises(UserError, match=message):
            cifar10.load(folder, 10)


def jpeg_arrays(files):
    lengths = [len(content) for content in files]
    return {
        "blob": np.frombuffer(b"".join(files), np.uint8),
        "offsets": np.concatenate(([0], np.cumsum(lengths))),
        "labels": np.arange(len(files)) % 10,
        "is_test": np.arange(len(files)) % 3 == 2,
    }


def test_the_jpeg_variant_is_decoded_when_read(tmp_path):
    colours = [(10 * i, 200, 255 - 20 * i) for i in range(6)]
    arrays = jpeg_arrays([picture(32, 32, colour) for colour in colours])
    np.savez(tmp_path / "cifar10_jpegs_6.npz", **arrays)
    data = load_image_dataset("cifar10_jpeg", tmp_path)
    assert data.title == "CIFAR-10 (JPEG)" and (len(data.train), len(data.test)) == (4, 2)
    assert [data.train.read(np.array([i]))[0, 5, 7].tolist() for i in range(4)] == [
        list(colours[i]) for i in (0, 1, 3, 4)
    ]
    assert data.test.labels.tolist() == [2, 5]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (picture(32, 32, 80, mode="L"), r"jpegs\.npz \(picture 1\) is a grey image \(mode L\) in a colour set"),
        (picture(32, 32)[:60], r"jpegs\.npz \(picture 1\) is not an intact image"),
        (b"no picture", r"jpegs\.npz \(picture 1\) is no image \(10 bytes\)"),
        (picture(32, 31), r"jpegs\.npz \(picture 1\) has 32 x 31 pixels, wanted 32 x 32"),
    ],
)
def test_bad_pictures_are_named(bad, message, tmp_path):
    np.savez(tmp_path / "cifar10_jpegs.npz", **jpeg_arrays([picture(32, 32), bad, picture(32, 32)]))
    data = load_image_dataset("cifar10_jpeg", tmp_path)
    data.train.read(np.array([0]))
    with pytest.raises(UserError, match=message):
        data.train.read(np.array([0, 1]))


def test_a_jpeg_variant_that_does_not_fit_together_is_refused(tmp_path):
    arrays = jpeg_arrays([picture(32, 32)] * 3)
    path = tmp_path / "cifar10_jpegs.npz"
    np.savez(path, **{**arrays, "labels": np.arange(2)})
    with pytest.raises(UserError, match="do not fit together"):
        load_image_dataset("cifar10_jpeg", tmp_path)
    np.savez(path, blob=arrays["blob"], offsets=arrays["offsets"], labels=arrays["labels"])
    with pytest.raises(UserError, match="has no array 'is_test'"):
        load_image_dataset("cifar10_jpeg", tmp_path)


def test_pickled_objects_are_refused_in_our_own_words(tmp_path):
    """numpy's message advises to load them all the same, which runs whatever code is in them."""
    path = tmp_path / "cifar10_jpegs.npz"
    for content in ("objects", "pickle", "cut"):
        if content == "objects":
            np.savez(path, blob=np.array([{}, None], dtype=object))
        else:
            path.write_bytes(pickle.dumps({}) if content == "pickle" else path.read_bytes()[:40])
        with pytest.raises(UserError, match=r"cifar10_jpegs\.npz is not an intact npz of plain arrays") as caught:
            load_image_dataset("cifar10_jpeg", tmp_path)
        assert "allow_pickle" not in str(caught.value) and "trust" not in str(caught.value)


def svhn_files(folder, labels=(10, 1, 9)):
    arrays = {}
    for split, name in svhn.FILES.items():
        arrays[split] = rng(len(split)).integers(0, 256, (32, 32, 3, len(labels)), dtype=np.uint8)
        savemat(folder / name, {"X": arrays[split], "y": np.array(labels, np.uint8)[:, None]})
    sums = {split: digest_of([(folder / name).read_bytes()]) for split, name in svhn.FILES.items()}
    return arrays, sums


def test_svhn_counts_ten_as_the_digit_zero(tmp_path):
    arrays, sums = svhn_files(tmp_path)
    counts = {"train": 3, "test": 3}
    data = svhn.load(tmp_path, counts, sums)
    assert data.train.labels.tolist() == [0, 1, 9] and data.shape == (32, 32, 3)
    assert np.array_equal(data.test.read(np.array([2]))[0], arrays["test"][..., 2])
    with pytest.raises(UserError, match=r"train_32x32\.mat has MD5"):
        svhn.load(tmp_path)
    with pytest.raises(UserError, match=r"train_32x32\.mat holds 3 images, wanted 73,257"):
        svhn.load(tmp_path, sums=sums)
    (tmp_path / "train_32x32.mat").write_bytes(b"MATLAB 5.0 MAT-file, or rather not" * 9)
    with pytest.raises(UserError, match=r"train_32x32\.mat is not an intact MATLAB file"):
        svhn.read_mat(tmp_path / "train_32x32.mat")
    savemat(tmp_path / "test_32x32.mat", {"digitStruct": np.zeros(3)})
    with pytest.raises(UserError, match="full-number format"):
        svhn.read_mat(tmp_path / "test_32x32.mat")


def test_the_fallbacks_need_no_files(monkeypatch):
    monkeypatch.delenv("MOTIONLEX_IMAGES", raising=False)
    digits = load_image_dataset("digits")
    assert (len(digits.train) + len(digits.test), digits.shape) == (1797, (8, 8, 1))
    assert np.bincount(digits.train.labels).min() > 120 and digits.train.read(np.arange(1438)).max() == 255
    photographs = load_image_dataset("photographs")
    assert photographs.shape == (32, 32, 3) and len(photographs.train) > 1000 and len(photographs.test) > 200
    train = {tile.tobytes() for tile in photographs.train.read(np.arange(len(photographs.train)))}
    assert not any(tile.tobytes() in train for tile in photographs.test.read(np.arange(len(photographs.test))))


@real
def test_real_files_are_the_official_ones():
    root = Path(ROOT)
    for name, counts, of_class in (("mnist", (60_000, 10_000), 5923), ("cifar10_jpeg", (50_000, 10_000), 5000)):
        try:
            data = load_image_dataset(name, root)
        except UserError as error:
            pytest.skip(str(error))
        assert (len(data.train), len(data.test)) == counts and (data.train.labels == 0).sum() == of_class
        assert data.test.read(np.array([0, 9999])).shape == (2, *data.shape)
