"""Fashion-MNIST: MNIST's layout with clothes (Xiao, Rasul and Vollgraf 2017; MIT)."""

from __future__ import annotations

from motionlex.data.images.idx import IdxSet

FASHION_MNIST = IdxSet(
    name="fashion_mnist",
    title="Fashion-MNIST",
    classes=(
        "T-shirt/top",
        "trouser",
        "pullover",
        "dress",
        "coat",
        "sandal",
        "shirt",
        "sneaker",
        "bag",
        "ankle boot",
    ),
    folders=("fashion_mnist", "fashion-mnist", "FashionMNIST/raw", "FashionMNIST"),
    archives="[fF]ashion*.t*gz",
    download=(
        "Download train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, t10k-images-idx3-ubyte.gz and "
        "t10k-labels-idx1-ubyte.gz from http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/ (or Debian's "
        "package dataset-fashion-mnist) into its sub-folder fashion_mnist"
    ),
    sums={
        "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
        "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
        "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
    },
    counts={"train": 60_000, "test": 10_000},
)
DATASET = FASHION_MNIST.dataset("Fashion-MNIST, idx files (70,000 grey images of 28 x 28; MIT)")
