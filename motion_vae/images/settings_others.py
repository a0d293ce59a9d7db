"""The image experiments of the other papers: GM-VQ (section 5.1), RRVQ, the tutorial."""

from dataclasses import replace

from motionlex.motion_vae.contract import OptimisationConfig
from motionlex.motion_vae.domain import NetworkConfig
from motionlex.motion_vae.images.domain import ImageDomain
from motionlex.motion_vae.images.setting import ImageSetting
from motionlex.motion_vae.images.settings_daps import BERNOULLI, GRIDS_32
from motionlex.motion_vae.likelihoods import LikelihoodConfig
from motionlex.motion_vae.networks.ladder import LadderConfig

CIFAR10_GM_VQ = ImageSetting(
    domain=ImageDomain(
        height=32,
        width=32,
        channels=3,
        patch=(4, 4),
        recognition="conv",
        generator="resnet",
        likelihood_config=LikelihoodConfig(family="gaussian"),
    ),
    autoregressive=NetworkConfig(width=64),
    factorised=NetworkConfig(width=64),
    deterministic=NetworkConfig(width=64),
    values={"vocabulary": 1024, "commitment": 0.25, "kmeans_start": True},
    methods=GRIDS_32,
    # 100 epochs of 195 batches, of which 10 warm up; the cosine's end and the weight decay are not in the paper.
    optimisation=OptimisationConfig(
        batch=256,
        steps=19_500,
        learning_rate=1e-2,
        learning_rate_end=1e-5,
        learning_rate_decay="cosine",
        warm_up=0.1,
        warm_up_from=0.2,
        adaptive_clipping=None,
    ),
)

CELEBA128_GM_VQ = replace(
    CIFAR10_GM_VQ,
    # Patches of 8 pixels are our reading of "a deeper network": the paper gives no sizes.
    domain=replace(CIFAR10_GM_VQ.domain, height=128, width=128, patch=(8, 8)),
    # 100 epochs of 635 batches (162,770 training images).
    methods={"rrvq": {"grid_tokens": (1024, 256, 64, 16, 4)}, "spatial_vae": {"grid_tokens": (4096,)}},
    optimisation=replace(CIFAR10_GM_VQ.optimisation, steps=63_500, learning_rate=1e-4, learning_rate_end=1e-7),
)

RRVQ_BATCH = 64
"""Images per step of all models of RRVQ (appendix C)."""


def rrvq_schedule(images: int, *, epochs: int, patience: int) -> OptimisationConfig:
    """Budget and plateau of RRVQ, which the paper gives in epochs: one validation per epoch.

    Args:
        images: Of the training split; the rest of the last batch is left out.
        epochs: At most, of training.
        patience: Epochs without improvement that are forgiven.
    Source: RRVQ-VAE, appendix C.
    """
    epoch = images // RRVQ_BATCH
    return OptimisationConfig(
        batch=RRVQ_BATCH,
        steps=epochs * epoch,
        optimiser="adamax",
        learning_rate=8e-4,
        weight_decay=0.0,
        adaptive_clipping=None,
        validation_steps=epoch,
        plateau_factor=0.8,
        plateau_patience=patience,
        plateau_floor=5e-5,
    )


CIFAR10_RRVQ = ImageSetting(
    domain=ImageDomain(
        height=32,
        width=32,
        channels=3,
        patch=(2, 2),
        recognition="conv",
        hidden=32,
        likelihood_config=LikelihoodConfig(family="discretised_logistic"),
    ),
    autoregressive=NetworkConfig(width=128),
    factorised=NetworkConfig(width=128),
    deterministic=NetworkConfig(width=128),
    values={
        "vocabulary": 256,
        "levels": (8, 6, 5),
        "reconstruction": "likelihood",
        "likelihood_form": "likelihood",
        "beta_start": 1.0,
        "beta_end": 1.0,
    },
    optimisation=rrvq_schedule(50_000, epochs=500, patience=20),
    variants={"svhn": "svhn_rrvq"},
    methods={
        "rrvq": {
            "grid_tokens": (256, 64, 16, 4, 1),
            "embedding_width": 128,
            # 4 residual blocks everywhere (appendix C); the channels of the L = 5 backbones are not in the paper.
            "ladder": LadderConfig(width=128, blocks=4, ladder_blocks=4),
        },
        "spatial_vae": {"grid_tokens": (256,), "latent_width": 16, "ladder": LadderConfig(width=32, blocks=2)},
    },
)

# "Identical specification" (section 4), epochs of its own size.
SVHN_RRVQ = replace(CIFAR10_RRVQ, optimisation=rrvq_schedule(73_257, epochs=500, patience=20), variants={})

# Eight layers on each of four grids, 256 channels (appendix C).
DEEP = {
    "grid_tokens": (256,) * 8 + (64,) * 8 + (16,) * 8 + (4,) * 8,
    "ladder": LadderConfig(width=256, blocks=1),
}
CIFAR10_RRVQ32 = replace(
    CIFAR10_RRVQ,
    methods={"rrvq": {**DEEP, "embedding_width": 32}, "spatial_vae": {**DEEP, "latent_width": 32}},
    variants={"svhn": "svhn_rrvq32"},
)
SVHN_RRVQ32 = replace(CIFAR10_RRVQ32, optimisation=SVHN_RRVQ.optimisation, variants={})

CELEBA64_RRVQ = replace(
    CIFAR10_RRVQ,
    # Patches of 4 pixels give the finest of the paper's grids. It has K = 128, 64, 32, 16, 8 (2,275 bits) and "fewer
    # channels" from layer to layer; ours has one K and one width (2,387 bits).
    domain=replace(CIFAR10_RRVQ.domain, height=64, width=64, patch=(4, 4)),
    methods={
        **CIFAR10_RRVQ.methods,
        "rrvq": {
            "grid_tokens": (256, 64, 16, 4, 1),
            "vocabulary": 128,
            "embedding_width": 32,
            "ladder": LadderConfig(width=64, blocks=4, ladder_blocks=4),
        },
    },
    optimisation=rrvq_schedule(162_770, epochs=160, patience=5),
    variants={},
)

MNIST_TUTORIAL = ImageSetting(
    domain=ImageDomain(
        height=28,
        width=28,
        channels=1,
        patch=(14, 14),
        recognition="mlp",
        generator="mlp",
        mlp_encoder=(512, 256),
        mlp_decoder=(256, 512),
        likelihood_config=BERNOULLI,
    ),
    autoregressive=NetworkConfig(width=8),
    factorised=NetworkConfig(width=8),
    deterministic=NetworkConfig(width=8),
    values={
        "vocabulary": 8,
        "levels": (3, 3),
        "commitment": 0.25,
        "reconstruction": "likelihood",
        "likelihood_form": "likelihood",
        "beta_start": 1.0,
        "beta_end": 1.0,
    },
    # 160 epochs of 600 batches.
    optimisation=OptimisationConfig(
        batch=100, steps=96_000, optimiser="adam", learning_rate=5e-4, weight_decay=0.0, adaptive_clipping=None
    ),
    methods={
        "reinforce": {"one_hot": True, "samples": 1, "baseline": "constant", "constant_nats": -125.0},
        "rrvq": {"grid_tokens": (4,)},
        "spatial_vae": {"grid_tokens": (196,)},
    },
)
