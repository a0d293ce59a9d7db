"""What ``motionlex doctor`` says of image data sets: by names of files alone, in one line each."""

import json

import pytest

from motionlex.data.errors import UserError
from motionlex.data.images.dataset import (
    available_image_datasets,
    get_image_dataset,
    image_data_states,
    load_image_dataset,
)
from motionlex.scripts.doctor import main

IDX = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
LAYOUTS = {
    "mnist": [[f"mnist/{name}" for name in IDX], [f"{name}.gz" for name in IDX], ["mnist_idx.tar.gz"]],
    "fashion_mnist": [[f"FashionMNIST/raw/{name}.gz" for name in IDX], ["fashion-mnist.tgz"]],
    "cifar10": [
        ["cifar-10-batches-bin/test_batch.bin", *(f"cifar-10-batches-bin/data_batch_{n}.bin" for n in range(1, 6))],
        ["cifar10/cifar-10-binary.tar.gz"],
    ],
    "cifar10_jpeg": [["cifar10_small_jpeg.npz"]],
    "svhn": [["svhn/train_32x32.mat", "svhn/test_32x32.mat"]],
    "celeba64": [
        ["celeba/img_align_celeba.zip", "celeba/list_eval_partition.txt"],
        ["CelebA/Img/img_align_celeba/000001.jpg", "CelebA/Eval/list_eval_partition.txt"],
    ],
    "imagenet": [
        ["imagenet/train/n01440764/a.JPEG", "imagenet/val/n01440764/b.JPEG"],
        ["imagenet/shards/in-train-000.tar", "imagenet/other/in-val-000.tar"],
    ],
    "imagenet_excerpt": [["imagenet_small.zip"]],
}
LAYOUTS["celeba128"] = LAYOUTS["celeba64"]
"""By data set, the files of every layout that its loader takes."""
CASES = [(name, files) for name, layouts in LAYOUTS.items() for files in layouts]
WITH_FILES = [name for name in available_image_datasets() if get_image_dataset(name).download]


def touch(root, files):
    """Empty files: whoever reads one stumbles."""
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()


@pytest.mark.parametrize(("name", "files"), CASES, ids=lambda case: case if isinstance(case, str) else str(len(case)))
def test_every_layout_is_found_without_reading_it(name, files, tmp_path, monkeypatch):
    monkeypatch.setenv("MOTIONLEX_IMAGES", str(tmp_path))
    for missing in range(len(files)):
        (root := tmp_path / f"without{missing}").mkdir()
        touch(root, [file for place, file in enumerate(files) if place != missing])
        assert get_image_dataset(name).look(root) is None, f"found without {files[missing]}"
    touch(tmp_path, files)
    assert get_image_dataset(name).look(tmp_path).exists()
    assert image_data_states()[name].startswith(f"found: {tmp_path}")
    try:  # the loader gets as far as the contents, which class folders keep for later
        load_image_dataset(name, tmp_path)
    except UserError as error:
        assert "is not in" not in str(error)


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("cifar10", ["data_batch_1", "cifar-10-python.tar.gz"]),
        ("imagenet", ["imagenet/ILSVRC2012_img_train.tar", "imagenet/ILSVRC2012_img_val.tar"]),
        ("svhn", ["extra_32x32.mat"]),
    ],
)
def test_what_the_loader_refuses_is_not_found(name, files, tmp_path):
    touch(tmp_path, files)
    assert get_image_dataset(name).look(tmp_path) is None


@pytest.mark.parametrize("name", WITH_FILES)
def test_a_set_that_is_not_there_says_what_to_download(name, tmp_path, monkeypatch):
    download = get_image_dataset(name).download
    for value, wanted in (
        ("", "not set: MOTIONLEX_IMAGES."),
        (str(tmp_path / "none"), f"not found, no such folder: {tmp_path / 'none'}."),
        (str(tmp_path), f"not found in {tmp_path}."),
    ):
        monkeypatch.setenv("MOTIONLEX_IMAGES", value)
        assert image_data_states()[name] == f"{wanted} {download}"


def test_doctor_lists_every_set_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MOTIONLEX_IMAGES", str(tmp_path))
    touch(tmp_path, LAYOUTS["svhn"][0])
    assert main(["--json"]) == 0
    states = json.loads(capsys.readouterr().out.splitlines()[-1])["image_data"]
    assert set(states) == set(available_image_datasets()) and states["digits"] == "built in"
    assert states["svhn"].startswith("found: ") and states["mnist"].startswith("not found in ")
    assert main([]) == 0
    text = capsys.readouterr().out.splitlines()
    for name, state in states.items():
        assert len([line for line in text if line.strip().startswith(f'"{name}": ') and state in line]) == 1
