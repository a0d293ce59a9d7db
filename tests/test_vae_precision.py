"""Precision of training: what bf16 and TF32 may touch, and what stays in full precision."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from trainer_doubles import Noise, small_trainer

from motionlex.data.errors import UserError
from motionlex.motion_vae.estimators import nearest_code
from motionlex.motion_vae.precision import arithmetic
from motionlex.motion_vae.quantisation import k_means, mixed_codes, weighted_distance_logits
from motionlex.motion_vae.responsibilities import responsibility_logits


@pytest.mark.parametrize("method", ["daps", "daps_na", "vqvae"])
def test_bf16_loses_three_digits_and_keeps_float32_where_it_matters(method):
    """The same draws scored in both precisions; bfloat16 has 8 bits, so 2 % of a sum of many terms is ample."""
    losses = {}
    for precision in ("float32", "bf16"):
        trainer = small_trainer(method, precision=precision)
        model, x = trainer.model, Noise().sample(16, torch.Generator().manual_seed(0))
        if method != "vqvae":  # rounding would draw other codes
            codes = torch.randint(8, (16, model.config.samples, 8), generator=torch.Generator().manual_seed(1))
            model.recognition.sample = lambda memory, samples, generator, codes=codes: (codes, torch.zeros(16, samples))
        with arithmetic(precision, torch.device("cpu")):
            terms = model.loss(x, torch.Generator().manual_seed(2), progress=1.0)
        terms.total.backward()
        everything = {"total": terms.total, **terms.terms, **terms.metrics}
        assert {name: value.dtype for name, value in everything.items()} == dict.fromkeys(everything, torch.float32)
        assert all(p.grad.dtype == torch.float32 for p in model.parameters() if p.grad is not None)
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
        losses[precision] = {name: value.item() for name, value in everything.items()}
    assert losses["bf16"] != losses["float32"], "the body must run in bfloat16"
    for name in ("mean_squared_error", "decoder" if method != "vqvae" else "reconstruction"):
        assert losses["bf16"][name] == pytest.approx(losses["float32"][name], rel=0.02)
    if method != "vqvae":
        assert losses["bf16"]["log_q_nats"] == pytest.approx(losses["float32"]["log_q_nats"], rel=0.02)


def test_sampling_in_bf16_does_not_take_gradients_from_the_weights():
    """Casts that a sampler cached without gradient once were handed on to teacher forcing (torch before 2.10)."""
    trainer = small_trainer("daps", precision="bf16")
    trainer.steps, trainer.optimisers = 10, ()
    trainer.step()
    missing = [name for name, p in trainer.model.named_parameters() if p.grad is None]
    assert not missing


def test_log_q_of_samples_in_bf16_is_that_of_teacher_forcing():
    """8 tokens, each off by some 2^-8 of logits of order one."""
    model = small_trainer("daps").model
    with torch.no_grad(), arithmetic("bf16", torch.device("cpu")):
        memory = model.recognition.memory(Noise().sample(8, torch.Generator().manual_seed(0)))
        codes, log_q = model.recognition.sample(memory, 4, torch.Generator().manual_seed(1))
        forced = model.recognition.log_prob(codes, memory)
    assert log_q.dtype == forced.dtype == torch.float32
    torch.testing.assert_close(log_q, forced, rtol=0, atol=0.2)


class Products(TorchDispatchMode):
    """Notes the types of the factors of every matrix product and the precision that it runs in."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.bmm, torch.ops.aten.mv, torch.ops.aten.addmm):
            self.seen.add((args[0].dtype, torch.get_float32_matmul_precision()))
        return function(*args, **(kwargs or {}))


def test_the_precision_of_the_body():
    """Seen where products are made; settings of the process are as before afterwards."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    a = torch.ones(2, 2)
    for precision, seen, convolutions in (
        ("float32", (torch.float32, "highest"), False),
        ("tf32", (torch.float32, "high"), True),
        ("bf16", (torch.bfloat16, "highest"), True),
    ):
        with Products() as products, arithmetic(precision, torch.device("cpu")):
            a @ a
            assert torch.backends.cudnn.allow_tf32 is convolutions
        assert products.seen == {seen}
        assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == before


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
@pytest.mark.parametrize(
    "compare",
    [
        lambda x, codes: nearest_code(x, codes),
        lambda x, codes: weighted_distance_logits(x, x.square(), codes),
        lambda x, codes: mixed_codes(x.softmax(dim=-1), codes),
        lambda x, codes: k_means(x.flatten(0, 1), 3, torch.Generator().manual_seed(0)),
        lambda x, codes: responsibility_logits(x, codes),
        lambda x, codes: responsibility_logits(x, codes, codes),
    ],
    ids=["nearest_code", "weighted_distance_logits", "mixed_codes", "k_means", "responsibilities", "variances"],
)
def test_codes_are_compared_in_full_precision(compare, precision):
    x, codes = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0)), torch.eye(3)
    with Products() as products, arithmetic(precision, torch.device("cpu")):
        compare(x, codes)
    assert products.seen == {(torch.float32, "highest")}


@pytest.mark.parametrize(
    ("precision", "products", "convolutions"),
    [("float32", "highest", False), ("tf32", "high", True), ("bf16", "highest", True)],
)
def test_gradients_are_computed_in_the_precision_of_the_loss(precision, products, convolutions, monkeypatch):
    """And outside autocast, which has chosen the types of the backward pass already."""
    monkeypatch.setattr("motionlex.motion_vae.trainer.check_precision", lambda precision, device: None)
    trainer, seen = small_trainer("vqvae", precision=precision, batch=2), []

    def note(gradient):
        settings = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
        seen.append((*settings, torch.is_autocast_enabled("cpu")))

    for parameter in filter(lambda p: p.requires_grad, trainer.model.parameters()):
        parameter.register_hook(note)
    trainer.step()
    assert set(seen) == {(products, convolutions, False)}


def test_tf32_needs_cuda():
    with pytest.raises(UserError, match="precision tf32 needs a CUDA device, got 'cpu'"):
        small_trainer("vqvae", precision="tf32")
