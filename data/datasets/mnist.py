"""MNIST: 60,000 and 10,000 handwritten digits of 28 x 28 grey pixels (LeCun, Cortes and Burges 1998)."""

from __future__ import annotations

from motionlex.data.images.idx import IdxSet

MNIST = IdxSet(
    name="mnist",
    title="MNIST",
    classes=tuple("0123456789"),
    folders=("mnist", "MNIST/raw", "MNIST", "mnist_idx"),
    archives="[mM][nN][iI][sS][tT]*.t*gz",
    download=(
        "Download train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, t10k-images-idx3-ubyte.gz and "
        "t10k-labels-idx1-ubyte.gz from https://ossci-datasets.s3.amazonaws.com/mnist/ into its sub-folder mnist"
    ),
    sums={
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    },
    counts={"train": 60_000, "test": 10_000},
)
DATASET = MNIST.dataset("MNIST, idx files, also gzipped or inside a tar.gz (70,000 grey images of 28 x 28)")
