"""The frozen text encoder: right weights, right mask, right pooling."""

import shutil

import numpy as np
import pytest
import torch

from motionlex.controllers import text
from motionlex.data.errors import UserError

SENTENCES = ("wave", "walk forward at a normal pace, please", "turn to the left on the spot")


@pytest.fixture(scope="module")
def encoder():
    return text.TextEncoder()


def test_embeddings_of_a_padded_batch_equal_those_of_single_sentences(encoder):
    """With an all-zero (or all-one) mask the padding would enter and the two would differ."""
    batch = encoder._encode_batch(SENTENCES)
    single = torch.cat([encoder._encode_batch([sentence]) for sentence in SENTENCES])
    torch.testing.assert_close(batch, single, atol=2e-6, rtol=0)


def test_the_attention_mask_matters(encoder):
    """Independent of our call: the raw model on a padded row, with the mask and with everything unmasked."""
    tokens = encoder._tokenizer(list(SENTENCES), padding=True, return_tensors="pt")
    mask = tokens["attention_mask"]
    right = text.mean_pool(encoder._model(tokens["input_ids"], attention_mask=mask).last_hidden_state, mask)
    ones = torch.ones_like(mask)
    wrong = text.mean_pool(encoder._model(tokens["input_ids"], attention_mask=ones).last_hidden_state, ones)
    assert float((right[0] * wrong[0]).sum()) < 0.98
    torch.testing.assert_close(encoder.encode(SENTENCES), right, atol=2e-6, rtol=0)


def test_embeddings_are_unit_vectors_of_384_numbers_and_know_meaning(encoder):
    rows = encoder.encode(["walk forward", "go straight ahead on foot", "punch like a boxer"])
    assert rows.shape == (3, 384) and rows.dtype == torch.float32
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(3), atol=1e-5, rtol=0)
    assert rows[0] @ rows[1] > rows[0] @ rows[2] + 0.1


def test_the_reference_library_gives_the_same_vectors(encoder):
    """sentence-transformers, the library these weights were trained with, is the reference."""
    a, b = encoder.encode(["This is an example sentence", "Each sentence is converted"])
    reference = pytest.importorskip("sentence_transformers").SentenceTransformer(str(text.model_folder()), device="cpu")
    expected = reference.encode(["This is an example sentence", "Each sentence is converted"])
    np.testing.assert_allclose(torch.stack([a, b]).numpy(), expected, atol=2e-6)


def test_case_and_blanks_make_no_difference_and_repeats_come_from_memory(encoder):
    first = encoder.encode(["Walk Forward"])
    torch.testing.assert_close(first, encoder.encode(["  walk forward "]), atol=2e-6, rtol=0)
    assert torch.equal(first, encoder.encode(["Walk Forward"]))


@pytest.mark.parametrize("odd", ["", "🤖" * 500, "x" * 100_000, "\x00\n\t", "walk " * 400, "гулять вперёд"])
def test_odd_texts_still_give_unit_vectors(encoder, odd):
    row = encoder.encode([odd])
    assert torch.isfinite(row).all()
    assert abs(float(row.norm()) - 1) < 1e-5


def test_no_texts_give_no_rows(encoder):
    assert encoder.encode([]).shape == (0, 384)


def test_mean_pooling_by_hand():
    hidden = torch.tensor([[[3.0, 0.0], [0.0, 4.0], [100.0, 100.0]]])
    pooled = text.mean_pool(hidden, torch.tensor([[1, 1, 0]]))
    torch.testing.assert_close(pooled, torch.tensor([[0.6, 0.8]]))


def test_other_weights_are_refused(tmp_path):
    source = text.model_folder()
    for file in source.iterdir():
        if file.is_file() and file.name != "model.safetensors":
            shutil.copy(file, tmp_path)
    with pytest.raises(UserError, match="reinstall"):
        text.TextEncoder(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"something else")
    with pytest.raises(UserError, match="53aa5117"):
        text.TextEncoder(tmp_path)
