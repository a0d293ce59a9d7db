"""The latent policy: sampling is teacher forcing, conditions matter, and a toy mapping is learned."""

import numpy as np
import pytest
import torch

from motionlex.controllers.code_sampling import SamplingConfig, guide, guided_conditions, reshape_logits
from motionlex.controllers.condition_encoder import LatentPolicyConfig
from motionlex.controllers.conditions import WINDOW, Conditions
from motionlex.controllers.latent_policy import LatentPolicy
from motionlex.data.errors import UserError

FEATURES, VOCABULARY, TOKENS = 6, 5, 7


def small_policy(seed=0, **changes):
    config = {"vocabulary": VOCABULARY, "tokens": TOKENS, "features": FEATURES, "width": 16, "layers": 2, "heads": 2}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LatentPolicy(LatentPolicyConfig(**{**config, **changes}))


def random_conditions(batch, seed=0, features=FEATURES, pieces=1):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    return Conditions(
        history=normal(batch, WINDOW, features),
        text=torch.nn.functional.normalize(normal(batch, pieces, 384), dim=-1),
        com_past=normal(batch, WINDOW, 2),
        path=normal(batch, WINDOW, 4),
        has_text=torch.ones(batch, dtype=torch.bool),
        has_path=torch.ones(batch, dtype=torch.bool),
    )


def changed(conditions, **values):
    return Conditions(**{**vars(conditions), **values})


def test_log_probability_collected_while_sampling_is_teacher_forced_log_probability():
    policy = small_policy().double()
    conditions = random_conditions(6)
    conditions = changed(
        conditions, **{k: getattr(conditions, k).double() for k in ("history", "text", "com_past", "path")}
    )
    codes, log_prob = policy.sample(conditions, torch.Generator().manual_seed(1))
    assert codes.shape == (6, TOKENS) and codes.min() >= 0 and codes.max() < VOCABULARY
    torch.testing.assert_close(log_prob, policy.log_prob(conditions, codes), atol=1e-10, rtol=0)


def test_probabilities_of_all_sequences_sum_to_one():
    policy = small_policy(vocabulary=3, tokens=4).double()
    every = torch.cartesian_prod(*[torch.arange(3)] * 4)
    one = random_conditions(1)
    many = Conditions(
        **{
            k: (v.double() if v.is_floating_point() else v).repeat(len(every), *[1] * (v.ndim - 1))
            for k, v in vars(one).items()
        }
    )
    total = policy.log_prob(many, every).exp().sum()
    assert abs(float(total.detach()) - 1) < 1e-10


def test_a_later_code_never_changes_an_earlier_logit():
    policy, conditions = small_policy(), random_conditions(1)
    codes = torch.zeros(1, TOKENS, dtype=torch.long)
    other = codes.clone()
    other[0, 4:] = 3
    difference = (policy.logits(conditions, codes) - policy.logits(conditions, other)).abs().amax(dim=-1)[0]
    assert (difference[:5] < 1e-6).all() and difference[5] > 1e-6


@pytest.mark.parametrize("name", ["history", "text", "com_past", "path"])
def test_every_condition_matters(name):
    policy, conditions = small_policy(), random_conditions(2)
    codes = torch.zeros(2, TOKENS, dtype=torch.long)
    other = changed(conditions, **{name: getattr(conditions, name).flip(0)})
    assert (policy.logits(conditions, codes) - policy.logits(other, codes)).abs().max() > 1e-5


def test_withheld_text_and_path_are_not_seen():
    policy, conditions = small_policy(), random_conditions(2)
    codes = torch.zeros(2, TOKENS, dtype=torch.long)
    nothing = torch.zeros(2, dtype=torch.bool)
    for flag, name in (("has_text", "text"), ("has_path", "path")):
        withheld = changed(conditions, **{flag: nothing})
        other = changed(withheld, **{name: getattr(conditions, name).flip(0)})
        torch.testing.assert_close(policy.logits(withheld, codes), policy.logits(other, codes), atol=0, rtol=0)


def test_a_path_is_seen_in_units_of_a_fifth_of_a_metre_and_its_flag_is_not():
    policy, conditions = small_policy(), random_conditions(3)
    scaled = policy.conditions.scaled_path(conditions)
    torch.testing.assert_close(scaled[..., :3], 5.0 * conditions.path[..., :3])
    assert torch.equal(scaled[..., 3], conditions.path[..., 3])


def test_a_path_that_is_added_to_every_code_is_not_seen_where_it_is_withheld():
    policy, codes = small_policy(), torch.zeros(2, TOKENS, dtype=torch.long)
    conditions, other = random_conditions(2), random_conditions(2, seed=9)
    withheld = changed(conditions, path=other.path).without_path()
    torch.testing.assert_close(
        policy.logits(withheld, codes), policy.logits(conditions.without_path(), codes), atol=0, rtol=0
    )
    drawn, log_prob = policy.sample(conditions, torch.Generator().manual_seed(1))
    torch.testing.assert_close(log_prob, policy.log_prob(conditions, drawn), atol=1e-5, rtol=0)


def test_sampling_frequencies_follow_the_probabilities():
    policy = small_policy(vocabulary=3, tokens=1)
    one = random_conditions(1)
    count = 20000
    many = Conditions(**{k: v.expand(count, *v.shape[1:]) for k, v in vars(one).items()})
    codes, _ = policy.sample(many, torch.Generator().manual_seed(2))
    frequencies = torch.bincount(codes[:, 0], minlength=3) / count
    probabilities = policy.logits(one, torch.zeros(1, 1, dtype=torch.long))[0, 0].softmax(-1)
    # four standard errors of a binomial share
    assert (frequencies - probabilities).abs().max() < 4 * 0.5 / np.sqrt(count)


def test_guidance_one_is_plain_and_guidance_without_text_is_no_guidance():
    policy, conditions = small_policy(), random_conditions(3)
    plain, _ = policy.sample(conditions, torch.Generator().manual_seed(3))
    withheld = conditions.without_text()
    a, _ = policy.sample(withheld, torch.Generator().manual_seed(4), SamplingConfig(guidance=3.0))
    b, _ = policy.sample(withheld, torch.Generator().manual_seed(4))
    assert torch.equal(a, b)
    assert plain.shape == a.shape


def test_guidance_costs_rows_only_for_what_is_given():
    conditions, sampling = random_conditions(3), SamplingConfig(guidance=2.0, path_guidance=5.0)
    rows = {
        "both": conditions, "text": conditions.without_path(), "path": conditions.without_text(),
        "neither": conditions.without_path().without_text(),
    }  # fmt: skip
    found = {name: guided_conditions(given, sampling) for name, given in rows.items()}
    assert {name: len(given.history) for name, (given, _) in found.items()} == {
        "both": 9, "text": 6, "path": 6, "neither": 3,
    }  # fmt: skip
    assert found["both"][1] == (6.0, -1.0, -4.0) and found["path"][1] == (5.0, -4.0)
    assert found["text"][1] == (2.0, -1.0) and found["neither"][1] == (1.0,)


def test_guidance_by_hand():
    q, q0 = torch.tensor([0.5, 0.5], dtype=torch.float64), torch.tensor([0.8, 0.2], dtype=torch.float64)
    logits = torch.stack([q, q0]).log() + torch.tensor([[3.0], [-1.0]])  # unnormalised by different constants
    # q^2 / q0 = (0.3125, 1.25), normalised (0.2, 0.8)
    for guidance, expected in ((2.0, [0.2, 0.8]), (1.0, [0.5, 0.5]), (0.0, [0.8, 0.2])):
        found = guide(logits, (guidance, 1.0 - guidance)).softmax(-1)[0]
        torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_each_condition_has_a_guidance_of_its_own():
    """The first code of many draws: q (q / q without text)^(g - 1) (q / q without path)^(h - 1), normalised."""
    policy, one = small_policy(vocabulary=5), random_conditions(1)
    sampling = SamplingConfig(guidance=2.5, path_guidance=0.5)
    none = torch.zeros(1, TOKENS, dtype=torch.long)
    q, no_text, no_path = (
        policy.logits(c, none)[0, 0].softmax(-1) for c in (one, one.without_text(), one.without_path())
    )
    expected = q * (q / no_text) ** 1.5 * (q / no_path) ** -0.5
    many = Conditions(**{k: v.repeat(20_000, *[1] * (v.ndim - 1)) for k, v in vars(one).items()})
    codes, _ = policy.sample(many, torch.Generator().manual_seed(0), sampling)
    found = torch.bincount(codes[:, 0], minlength=5) / 20_000
    assert (found - expected / expected.sum()).abs().max() < 4 * 0.5 / np.sqrt(20_000)


def test_segments_of_one_condition_share_it_and_are_drawn_like_rows_of_their_own():
    policy, conditions = small_policy().double(), random_conditions(3)
    conditions = Conditions(**{k: v.double() if v.is_floating_point() else v for k, v in vars(conditions).items()})
    apart = Conditions(**{k: v.repeat_interleave(4, dim=0) for k, v in vars(conditions).items()})
    for sampling in (SamplingConfig(), SamplingConfig(guidance=2.5, path_guidance=0.5, temperature=0.7)):
        codes, log_prob = policy.sample(conditions, torch.Generator().manual_seed(6), sampling, samples=4)
        expected, expected_log_prob = policy.sample(apart, torch.Generator().manual_seed(6), sampling)
        assert torch.equal(codes, expected) and len(codes.unique(dim=0)) > 3
        torch.testing.assert_close(log_prob, expected_log_prob, atol=1e-12, rtol=0)


def test_without_a_path_its_guidance_is_no_guidance():
    policy, conditions = small_policy(), random_conditions(3).without_path()
    runs = [
        policy.sample(conditions, torch.Generator().manual_seed(4), SamplingConfig(path_guidance=g))[0]
        for g in (1.0, 3.0)
    ]
    assert torch.equal(*runs)


def test_word_pieces_count_and_padding_does_not():
    policy, conditions = small_policy(words=3).double(), random_conditions(4, pieces=6)
    conditions = changed(
        conditions, **{k: getattr(conditions, k).double() for k in ("history", "text", "com_past", "path")}
    )
    codes = torch.zeros(4, TOKENS, dtype=torch.long)
    seen = policy.logits(conditions, codes)
    padded = changed(conditions, text=torch.nn.functional.pad(conditions.text, (0, 0, 0, 5)))
    torch.testing.assert_close(policy.logits(padded, codes), seen, atol=1e-12, rtol=0)
    other = conditions.text.clone()
    other[:, 3] = other[:, 3].flip(-1)
    assert (policy.logits(changed(conditions, text=other), codes) - seen).abs().max() > 1e-6
    silent = [policy.logits(changed(conditions, text=t).without_text(), codes) for t in (conditions.text, other)]
    torch.testing.assert_close(*silent, atol=0, rtol=0)  # withheld text has no words either
    assert torch.isfinite(policy.logits(changed(conditions, text=conditions.text[:, :1]), codes)).all()
    codes, log_prob = policy.sample(conditions, torch.Generator().manual_seed(1))
    torch.testing.assert_close(log_prob, policy.log_prob(conditions, codes), atol=1e-10, rtol=0)


def test_nucleus_and_temperature_by_hand():
    logits = torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64).log()
    kept = reshape_logits(logits, SamplingConfig(top_p=0.6)).softmax(-1)
    torch.testing.assert_close(kept, torch.tensor([[0.625, 0.375, 0.0]], dtype=torch.float64))
    only = reshape_logits(logits, SamplingConfig(top_p=0.5)).softmax(-1)
    torch.testing.assert_close(only, torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64))
    two = reshape_logits(logits, SamplingConfig(top_k=2)).softmax(-1)
    torch.testing.assert_close(two, torch.tensor([[0.625, 0.375, 0.0]], dtype=torch.float64))
    both = reshape_logits(logits, SamplingConfig(top_k=2, top_p=0.6)).softmax(-1)  # 0.625 is enough of what is kept
    torch.testing.assert_close(both, torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64))
    assert torch.equal(reshape_logits(logits, SamplingConfig(top_k=7)), logits)
    squared = reshape_logits(logits, SamplingConfig(temperature=0.5)).softmax(-1)
    torch.testing.assert_close(squared, torch.tensor([[0.25, 0.09, 0.04]], dtype=torch.float64) / 0.38)
    best = reshape_logits(logits, SamplingConfig(temperature=0.0)).softmax(-1)
    torch.testing.assert_close(best, torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64))


def test_a_toy_mapping_from_text_to_codes_is_learned_in_seconds():
    """Three texts name three code sequences; the history is noise and must be ignored."""
    policy = small_policy(width=32, layers=1)
    generator = torch.Generator().manual_seed(5)
    texts = torch.nn.functional.normalize(torch.randn(3, 1, 384, generator=generator), dim=-1)
    targets = torch.randint(VOCABULARY, (3, TOKENS), generator=generator)
    optimiser = torch.optim.AdamW(policy.parameters(), lr=3e-3)
    for step in range(150):
        choice = torch.randint(3, (32,), generator=generator)
        conditions = changed(random_conditions(32, seed=step), text=texts[choice])
        loss = -policy.log_prob(conditions, targets[choice]).mean() / TOKENS
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    fresh = changed(random_conditions(30, seed=999), text=texts.repeat(10, 1, 1))
    codes, _ = policy.sample(fresh, torch.Generator().manual_seed(6), SamplingConfig(temperature=0.0))
    assert (codes == targets.repeat(10, 1)).float().mean() > 0.95


def test_saving_keeps_shape_and_weights(tmp_path):
    policy = small_policy(seed=3)
    policy.save(tmp_path)
    loaded = LatentPolicy.load(tmp_path)
    assert loaded.config == policy.config
    for name, value in policy.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name])


def test_bad_files_and_settings_are_user_errors(tmp_path):
    with pytest.raises(UserError, match="train-highlevel"):
        LatentPolicy.load(tmp_path)
    (tmp_path / "weights.safetensors").write_bytes(b"not a file of tensors")
    with pytest.raises(UserError, match="no readable latent policy"):
        LatentPolicy.load(tmp_path)
    with pytest.raises(UserError, match="top-p"):
        SamplingConfig(top_p=0.0)
    with pytest.raises(UserError, match="multiple"):
        LatentPolicyConfig(vocabulary=4, width=10, heads=4)
