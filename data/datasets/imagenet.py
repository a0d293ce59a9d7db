"""ImageNet (ILSVRC 2012; Russakovsky et al. 2015) at 256 pixels: class folders or webdataset shards; and an excerpt.

Training images are random resized crops, mirrored every other time; held-out images are the largest square in the
middle. Both are scaled to 256 x 256. The DAPS paper says "randomly crop and flip" and no more.

The official set holds grey pictures and print colours among its 1,281,167, which everybody converts. Therefore grey
pictures are converted in a training split of exactly that size (and its validation split), and refused elsewhere.

The excerpt is any zip of pictures named by class, ``n01440764_tench.jpg``; a tenth is held out, every tenth picture in
order of names. No result on it is one on ImageNet.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from motionlex.data.errors import UserError
from motionlex.data.images.class_folders import Listing, read_class_folders, read_class_zip, read_shards
from motionlex.data.images.collection import StoredImages
from motionlex.data.images.dataset import ImageData, ImageDataset
from motionlex.data.images.files import find_all, find_archives, folders, incomplete, missing
from motionlex.data.images.stores import ZipStore
from motionlex.data.images.transforms import RandomResizedCrop, ShortSide

SIZE = 256
OFFICIAL_IMAGES = 1_281_167
"""Training images of the official set."""
DOWNLOADED = "ILSVRC2012_img_"
"""Beginning of the official archives, which are no shards."""
THREADS = 4
"""Pictures decoded at once."""
EXCERPT_PATTERN = "[iI]mage[nN]et*.zip"
"""Of names of the excerpt."""
EVERY = 10
"""One in so many pictures of the excerpt is held out."""
DOWNLOAD = (
    "Get ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar from https://image-net.org/download.php (after signing "
    "up) and unpack them into its sub-folder imagenet as train/CLASS/*.JPEG and val/CLASS/*.JPEG; or put webdataset "
    "shards there, *train*.tar and *val*.tar (also in sub-folders and behind links), with .jpg and .cls"
)
EXCERPT_DOWNLOAD = (
    "Put a zip of colour pictures there, named imagenet*.zip, with members CLASS_anything.jpg or CLASS/anything.jpg"
)
_FOLDERS = ("imagenet", "ImageNet", "ILSVRC2012", "ILSVRC/Data/CLS-LOC")


def load(root: Path | None) -> ImageData:
    """Index class folders or shards; pictures are decoded when they are read.

    Raises:
        UserError: If a split is missing or malformed; names the folder or file.
    """
    assert root is not None, "ImageNet is read from a folder"
    places = folders(root, _FOLDERS)
    for place in places:
        if (place / "train").is_dir() and not find_shards(place, "train"):
            train = read_class_folders(place / "train")
            held_out = next((place / name for name in ("val", "validation", "test") if (place / name).is_dir()), None)
            if held_out is None:
                raise incomplete("imagenet", place, "folder val beside train", DOWNLOAD)
            return _data("imagenet", "ImageNet-256", train, read_class_folders(held_out), str(held_out))
    for place in places:
        shards, other = find_shards(place, "train"), find_shards(place, "val")
        if shards and not other:
            raise incomplete("imagenet", place, "shard *val*.tar", DOWNLOAD)
        if shards:
            return _data(
                "imagenet", "ImageNet-256", *_numbered(read_shards(shards), read_shards(other)), str(other[0].parent)
            )
    raise missing("imagenet", root, "folder train, nor shard *train*.tar", DOWNLOAD)


def find_shards(place: Path, split: str) -> list[Path]:
    """Return the tar files of a split below a folder, links followed, in order of their names."""
    pattern = f"*{split}*.tar"
    below = [folder for folder in sorted(place.iterdir()) if folder.is_dir()]
    found = [*place.glob(pattern), *(path for folder in below for path in folder.glob(pattern))]
    packed = [path for end in (".gz", ".zst", ".xz") for path in place.glob(pattern + end)]
    files = [path for path in (*found, *packed) if path.is_file() and not path.name.startswith(DOWNLOADED)]
    return sorted(files, key=lambda path: path.name)


def look(root: Path) -> Path | None:
    """Find class folders or shards of both splits; how complete they are is seen when they are loaded."""
    for place in folders(root, _FOLDERS):
        held_out = any((place / name).is_dir() for name in ("val", "validation", "test"))
        shards = find_shards(place, "train")
        if shards and find_shards(place, "val"):
            return shards[0]
        if not shards and held_out and (place / "train").is_dir():
            return place / "train"
    return None


def load_excerpt(root: Path | None) -> ImageData:
    """Index a zip of pictures.

    Raises:
        UserError: If it is missing, damaged, or holds fewer than ten pictures.
    """
    assert root is not None, "the excerpt is read from a folder"
    found = find_archives(folders(root, _FOLDERS), EXCERPT_PATTERN)
    if not found:
        raise missing("imagenet_excerpt", root, "imagenet*.zip", EXCERPT_DOWNLOAD)
    listed = read_class_zip(found[0])
    if len(listed.store) < EVERY:
        raise UserError(f"{found[0]} holds {len(listed.store)} pictures, wanted at least {EVERY}")
    held = np.arange(len(listed.store)) % EVERY == EVERY - 1
    train, test = (
        Listing(
            ZipStore(found[0], [listed.store.members[row] for row in np.flatnonzero(rows)]),
            listed.labels[rows],
            listed.classes,
        )
        for rows in (~held, held)
    )
    return _data("imagenet_excerpt", "ImageNet excerpt", train, test, str(found[0]))


def _numbered(train: Listing, test: Listing) -> tuple[Listing, Listing]:
    """Give both splits the longer list of class numbers."""
    classes = max(train.classes, test.classes, key=len)
    return train._replace(classes=classes), test._replace(classes=classes)


def _data(name: str, title: str, train: Listing, test: Listing, where: str) -> ImageData:
    if train.classes != test.classes:
        odd = sorted(set(train.classes) ^ set(test.classes))
        raise UserError(f"{where}: classes differ from those of the training split, first {odd[0]!r} of {len(odd)}")
    grey = len(train.store) == OFFICIAL_IMAGES
    crop = RandomResizedCrop(SIZE)
    return ImageData(
        name=name,
        title=title,
        train=StoredImages(train.store, train.labels, ShortSide(SIZE), augmentation=crop, grey=grey, threads=THREADS),
        test=StoredImages(test.store, test.labels, ShortSide(SIZE), grey=grey, threads=THREADS),
        classes=train.classes,
    )


DATASET = (
    ImageDataset(
        name="imagenet",
        description="ImageNet, class folders or webdataset shards (colour images, 256 x 256)",
        load=load,
        download=DOWNLOAD,
        look=look,
    ),
    ImageDataset(
        name="imagenet_excerpt",
        description="A zip of pictures named by class (256 x 256); results on it are no results on ImageNet",
        load=load_excerpt,
        download=EXCERPT_DOWNLOAD,
        look=lambda root: find_all(folders(root, _FOLDERS), [EXCERPT_PATTERN]),
    ),
)
