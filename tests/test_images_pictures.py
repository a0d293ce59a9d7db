"""Image sets of single pictures as their publishers lay them out: CelebA, ImageNet, shards, zips."""

import io
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from image_files import picture, rng, tar, write
from PIL import Image

from motionlex.data.datasets import celeba, imagenet
from motionlex.data.errors import UserError
from motionlex.data.images.dataset import load_image_dataset
from motionlex.data.images.files import digest_of


def celeba_files(folder, names=("000001.jpg", "000002.jpg", "000003.jpg", "000004.jpg")):
    """Faces of 178 x 218: a square of 140 in the middle is red, the rest blue."""
    face = Image.new("RGB", (178, 218), (0, 0, 255))
    face.paste((255, 0, 0), (19, 39, 159, 179))
    file = io.BytesIO()
    face.save(file, "PNG")
    lines = "".join(f"{name} {split}\n" for name, split in zip(names, (0, 0, 1, 2)))
    write(folder, {celeba.PARTITION: lines.encode()})
    return dict.fromkeys(names, file.getvalue()), celeba.Official(
        images=len(names), partition_sum=digest_of([lines.encode()]), archive_bytes=0
    )


@pytest.mark.parametrize("size", [64, 128])
@pytest.mark.parametrize("packed", [False, True])
def test_celeba_keeps_the_middle_of_every_face(size, packed, tmp_path):
    faces, official = celeba_files(tmp_path / "celeba")
    if packed:
        path = tmp_path / "celeba" / celeba.ARCHIVE
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in faces.items():
                archive.writestr(f"img_align_celeba/{name}", content)
        official = replace(official, archive_bytes=path.stat().st_size)
    else:
        write(tmp_path / "celeba" / "img_align_celeba", faces)
    data = celeba.load(tmp_path, size, official)
    assert [len(split) for split in (data.train, data.validation, data.test)] == [2, 1, 1]
    pixels = data.test.read(np.array([0]))
    assert pixels.shape == (1, size, size, 3) and (pixels == np.array([255, 0, 0])).all()


def test_celeba_says_what_is_missing_or_wrong(tmp_path):
    faces, official = celeba_files(tmp_path)
    with pytest.raises(UserError, match=r"no img_align_celeba or img_align_celeba\.zip"):
        celeba.load(tmp_path, 64, official)
    write(tmp_path / "img_align_celeba", dict(list(faces.items())[:2]))
    with pytest.raises(UserError, match=r"lacks 2 of 4 pictures, first 000003\.jpg"):
        celeba.load(tmp_path, 64, official)
    with pytest.raises(UserError, match=r"list_eval_partition\.txt has MD5"):
        celeba.load(tmp_path, 64)
    with pytest.raises(UserError, match=r"lists 4 pictures, wanted 202,599"):
        write(tmp_path / "img_align_celeba", faces)
        celeba.load(tmp_path, 64, replace(celeba.Official(), partition_sum=official.partition_sum))
    (tmp_path / celeba.PARTITION).write_text("000001.jpg 0\n000002.jpg 3\n")
    with pytest.raises(UserError, match=r"line 2: '000002\.jpg 3', wanted"):
        celeba.read_partition(tmp_path / celeba.PARTITION)
    write(tmp_path / "b", {celeba.ARCHIVE: b"PK", celeba.PARTITION: (f"{next(iter(faces))} 0\n").encode()})
    with pytest.raises(UserError, match=r"img_align_celeba\.zip has 2 bytes, wanted 7"):
        sums = digest_of([(tmp_path / "b" / celeba.PARTITION).read_bytes()])
        celeba.load(tmp_path / "b", 64, celeba.Official(images=1, partition_sum=sums, archive_bytes=7))


def class_folders(root):
    for split in ("train", "val"):
        for label, name in enumerate(("n01", "n02", "n03")):
            colour = (80 * label, 0, 255 if split == "val" else 0)
            write(root / split / name, {f"{i}.JPEG": picture(50, 40, colour) for i in range(2 + label)})
    return root


def test_class_folders(tmp_path):
    root = class_folders(tmp_path / "imagenet")
    write(root, {"ILSVRC2012_img_train.tar": b"the official archive, unpacked and left there"})
    data = load_image_dataset("imagenet", tmp_path)
    assert data.classes == ("n01", "n02", "n03") and data.shape == (256, 256, 3)
    assert data.train.labels.tolist() == [0, 0, 1, 1, 1, 2, 2, 2, 2]
    assert data.test.read(np.array([4]))[0, 100, 200].tolist() == [80, 0, 255]
    first, again, other = (data.train.read(np.array([8]), torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    assert np.array_equal(first, again) and first.shape == other.shape == (1, 256, 256, 3)


def test_threads_change_nothing(tmp_path):
    """Every picture is its own gradient, so that crops and places would show."""
    for i in range(6):
        file = io.BytesIO()
        Image.fromarray(np.tile(np.arange(60, dtype=np.uint8)[:, None, None] * (i % 3 + 1), (1, 50, 3))).save(
            file, "PNG"
        )
        for split in ("train", "val"):
            write(tmp_path / split / f"n{i}", {"a.png": file.getvalue()})
    train = load_image_dataset("imagenet", tmp_path).train
    found = []
    for threads in (1, 3):
        train.threads = threads
        found.append(train.read(np.array([5, 0, 3, 3]), torch.Generator().manual_seed(2)))
    assert np.array_equal(*found) and not np.array_equal(found[0][2], found[0][3])


def test_class_folders_that_are_not_right_are_named(tmp_path):
    root = class_folders(tmp_path)
    write(root / "train" / "n04" / "deeper", {"notes.txt": b"", "._x.jpg": b""})
    with pytest.raises(UserError, match="n04 is a class folder without a picture"):
        load_image_dataset("imagenet", root)
    write(root / "train" / "n04" / "deeper", {"x.png": picture()})
    with pytest.raises(UserError, match=r"val: classes differ .* first 'n04' of 1"):
        load_image_dataset("imagenet", root)
    for name in ("n01", "n02", "n03"):
        (root / "val" / name).rename(tmp_path / f"old {name}")
    write(root / "val", {"a.jpg": b"", "b.jpg": b""})
    with pytest.raises(UserError, match=r"val has no class folders \(it holds 2 pictures of no class"):
        load_image_dataset("imagenet", root)
    (root / "val").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="no folder val beside train"):
        load_image_dataset("imagenet", root)


def test_a_grey_picture_among_class_folders_is_named_and_official_ones_are_converted(tmp_path, monkeypatch):
    root = class_folders(tmp_path)
    write(root / "train" / "n02", {"grey.png": picture(9, 9, 120, mode="L")})
    data = load_image_dataset("imagenet", root)
    row = np.array([data.train.store.files.index("n02/grey.png")])
    with pytest.raises(UserError, match=r"n02/grey\.png is a grey image"):
        data.train.read(row)
    monkeypatch.setattr(imagenet, "OFFICIAL_IMAGES", len(data.train))
    assert (load_image_dataset("imagenet", root).train.read(row) == 120).all()


def test_shards_are_read_at_their_place(tmp_path):
    """Two shards in folders of their own, one behind a link, as on two disks."""
    colours = [(i * 20, 255 - i * 20, 7) for i in range(8)]
    for number, folder in enumerate(("one", "elsewhere/two")):
        contents = {}
        for i in range(4 * number, 4 * number + 4):
            contents[f"{i:04d}.jpg"] = picture(30, 30, colours[i])
            contents[f"{i:04d}.cls"] = str(i % 3).encode()
            contents[f"{i:04d}.json"] = b"{}"
        (tmp_path / folder).mkdir(parents=True)
        tar(tmp_path / folder / f"set-train-{number:06d}.tar", contents, "w")
        tar(tmp_path / folder / f"set-val-{number:06d}.tar", dict(list(contents.items())[:3]), "w")
    (tmp_path / "two").symlink_to(tmp_path / "elsewhere" / "two")
    data = load_image_dataset("imagenet", tmp_path)
    assert data.train.labels.tolist() == [i % 3 for i in range(8)] and len(data.test) == 2
    assert data.classes == ("0", "1", "2")
    found = data.test.read(np.array([1]))
    assert found[0, 9, 9].tolist() == list(colours[4])
    assert [data.train.store.read(i) for i in range(8)] == [picture(30, 30, colour) for colour in colours]


def test_shards_that_are_not_right_are_named(tmp_path):
    good = {"0.jpg": picture(), "0.cls": b"1"}
    tar(tmp_path / "val.tar", good, "w")
    tar(tmp_path / "train.tar.gz", good)
    with pytest.raises(UserError, match=r"train\.tar\.gz is compressed"):
        load_image_dataset("imagenet", tmp_path)
    (tmp_path / "train.tar.gz").unlink()
    tar(tmp_path / "train.tar", {**good, "1.jpg": picture()}, "w")
    with pytest.raises(UserError, match=r"train\.tar: picture 1 has no label 1\.cls"):
        load_image_dataset("imagenet", tmp_path)
    tar(tmp_path / "train.tar", {**good, "0.cls": b"cat"}, "w")
    with pytest.raises(UserError, match=r"train\.tar: 0\.cls: b'cat' is no class number"):
        load_image_dataset("imagenet", tmp_path)
    whole = tar(tmp_path / "train.tar", {"0.cls": b"1", "0.jpg": rng().bytes(20_000)}, "w").read_bytes()
    (tmp_path / "train.tar").write_bytes(whole[:9000])
    with pytest.raises(UserError, match=r"train\.tar is not an intact tar archive"):
        load_image_dataset("imagenet", tmp_path)


def test_a_field_behind_the_first_dot_is_no_picture(tmp_path):
    """webdataset's rule: 0.seg.png is the field seg.png of sample 0, whatever comes first in the file."""
    image, mask = picture(30, 30, (200, 40, 90)), picture(30, 30, (0, 0, 1))
    orders = (("png", "seg.png", "cls"), ("seg.png", "cls", "PNG"))
    contents = {"png": image, "PNG": image, "seg.png": mask, "cls": b"3"}
    for number, fields in enumerate(orders):
        tar(tmp_path / f"train-{number}.tar", {f"a/{number}.{field}": contents[field] for field in fields}, "w")
    tar(tmp_path / "val.tar", {"0.jpg": image, "0.cls": b"3"}, "w")
    data = load_image_dataset("imagenet", tmp_path)
    assert data.train.labels.tolist() == [3, 3] and [data.train.store.read(row) for row in (0, 1)] == [image, image]


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ({"0.png": picture(), "0.jpg": picture(), "0.cls": b"1"}, "sample 0 has two pictures, the second is 0.jpg"),
        ({"0.seg.png": picture(), "0.cls": b"1"}, "label 0.cls has no picture 0.jpg or the like (1 such)"),
        ({"0.seg.png": picture()}, "has shards without pictures: train.tar"),
    ],
)
def test_samples_without_one_plain_picture_are_named(contents, message, tmp_path):
    tar(tmp_path / "val.tar", {"0.jpg": picture(), "0.cls": b"1"}, "w")
    tar(tmp_path / "train.tar", contents, "w")
    with pytest.raises(UserError) as caught:
        load_image_dataset("imagenet", tmp_path)
    assert str(tmp_path) in str(caught.value) and message in str(caught.value)


def test_a_zip_named_by_class_is_an_excerpt(tmp_path):
    with zipfile.ZipFile(tmp_path / "imagenet_sample.zip", "w") as archive:
        for i in reversed(range(20)):
            archive.writestr(f"n{i // 2:03d}_thing_{i}.png", picture(60, 20, (i * 12, 0, 0)))
        archive.writestr("__MACOSX/._n000.png", b"junk")
    data = load_image_dataset("imagenet_excerpt", tmp_path)
    assert (len(data.train), len(data.test), len(data.classes)) == (18, 2, 10)
    assert data.test.labels.tolist() == [4, 9] and data.title == "ImageNet excerpt"
    # n004_thing_8 and n004_thing_9 are the ninth and tenth by name
    assert data.test.read(np.array([0]))[0, 0, 0].tolist() == [9 * 12, 0, 0]
    content = bytearray((tmp_path / "imagenet_sample.zip").read_bytes())
    content[60] ^= 0xFF
    (tmp_path / "imagenet_sample.zip").write_bytes(bytes(content))
    with pytest.raises(UserError, match=r"imagenet_sample\.zip: n009_thing_19\.png is not intact"):
        load_image_dataset("imagenet_excerpt", tmp_path).test.read(np.array([1]))
    (tmp_path / "imagenet_sample.zip").write_bytes(b"PK")
    with pytest.raises(UserError, match="is not an intact zip file"):
        load_image_dataset("imagenet_excerpt", tmp_path)
