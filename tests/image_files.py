"""Pictures and archives that tests write."""

import io
import tarfile

import numpy as np
from PIL import Image


def rng(seed=0):
    return np.random.default_rng(seed)


def write(folder, contents):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return folder


def tar(path, contents, mode="w:gz"):
    with tarfile.open(path, mode) as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def picture(width=40, height=30, colour=(200, 40, 90), kind="PNG", mode="RGB"):
    file = io.BytesIO()
    Image.new(mode, (width, height), colour).save(file, kind)
    return file.getvalue()
