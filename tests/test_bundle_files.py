"""Bundles: whole or refused."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

from motionlex.controllers import bundle as bundles
from motionlex.controllers.bundle import (
    BundleMeta,
    bundle_encoder,
    load_bundle,
    nearest_action,
    resolve_bundle,
    save_bundle,
    verify,
)
from motionlex.controllers.text import TextEncoder, model_folder
from motionlex.data.errors import UserError


@pytest.fixture
def copy(tiny_bundle, tmp_path):
    return shutil.copytree(tiny_bundle, tmp_path / "copy")


def rewrite_meta(folder, **changes):
    path = folder / "meta.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_bundle_loads_and_its_parts_are_the_saved_ones(tiny_bundle, tiny_autoencoder):
    loaded = load_bundle(tiny_bundle)
    assert loaded.meta.name == "tiny" and loaded.meta.hz == 50.0
    assert set(loaded.captions) == {"stand", "wave", "walk_forward"}
    for name, value in tiny_autoencoder.model.state_dict().items():
        assert torch.equal(value, loaded.autoencoder.model.state_dict()[name])
    assert loaded.low_level.task.goal == "decoded"


def test_one_flipped_bit_anywhere_is_refused(copy):
    files = [path for path in copy.rglob("*") if path.is_file() and path != copy / "meta.json"]
    assert len(files) >= 6
    for path in files:
        content = path.read_bytes()
        for position in (0, len(content) // 2, len(content) - 1):
            flipped = bytearray(content)
            flipped[position] ^= 1
            path.write_bytes(bytes(flipped))
            with pytest.raises(UserError, match="altered"):
                load_bundle(copy)
        path.write_bytes(content)
    load_bundle(copy)


def test_missing_and_foreign_files_are_refused(copy):
    (copy / "vae" / "extra.txt").write_text("x")
    with pytest.raises(UserError, match="not listed"):
        verify(copy)
    (copy / "vae" / "extra.txt").unlink()
    (copy / "captions.safetensors").unlink()
    with pytest.raises(UserError, match="missing"):
        verify(copy)


def test_a_text_encoder_of_another_machine_is_found_where_the_card_is_told(copy):
    rewrite_meta(copy, text_encoder="/of/another/machine", text_sha256=TextEncoder().digest)
    with pytest.raises(UserError, match=r"lies elsewhere, .* text_encoder into .*meta\.json"):
        bundle_encoder(load_bundle(copy))
    rewrite_meta(copy, text_encoder=str(model_folder()))
    assert bundle_encoder(load_bundle(copy)).digest == TextEncoder().digest
    rewrite_meta(copy, text_sha256="0" * 64)
    with pytest.raises(UserError, match="another text encoder"):
        bundle_encoder(load_bundle(copy))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hz": 100.0}, "different rates"),
        ({"format_version": 99}, "format 99"),
        ({"goal": "latent"}, "trained for 'decoded'"),
        ({"schema_version": 99}, "schema 99"),
        ({"sha256": {}}, "lists no files"),
        ({"nonsense": 1}, "not the card"),
    ],
)
def test_a_card_that_does_not_fit_is_refused(copy, changes, message):
    rewrite_meta(copy, **changes)
    with pytest.raises(UserError, match=message):
        load_bundle(copy)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "\x00"])
def test_a_damaged_card_is_refused(copy, content):
    (copy / "meta.json").write_text(content)
    with pytest.raises(UserError):
        load_bundle(copy)


def test_unknown_bundles_are_one_clear_line(tmp_path):
    with pytest.raises(UserError, match="pack-bundle"):
        resolve_bundle(str(tmp_path / "nowhere"))
    assert resolve_bundle.__doc__ and bundles.builtin_bundle().name == "builtin"


def test_nothing_half_written_is_left_when_saving_fails(tmp_path, monkeypatch):
    meta = BundleMeta(name="x", hz=50.0, robot="h1", goal="decoded", control="pd", data="builtin", schema_version=1)
    captions = {"stand": torch.zeros(1, 384)}

    def full_disk(path, value):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(bundles, "write_json", full_disk)
    with pytest.raises(OSError, match="No space"):
        save_bundle(tmp_path / "new", meta, {"vae/weights.safetensors": b"abc"}, captions)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_never_overwritten(copy):
    with pytest.raises(UserError, match="exists"):
        save_bundle(copy, replace(verify(copy), sha256={}), {}, {"stand": torch.zeros(1, 384)})
    load_bundle(copy)


def test_nearest_action_by_hand():
    captions = {"a": torch.tensor([[1.0, 0.0], [0.0, 1.0]]), "b": torch.tensor([[-1.0, 0.0]])}
    assert nearest_action(torch.tensor([0.6, 0.8]), captions) == ("a", pytest.approx(0.8))
    assert nearest_action(torch.tensor([-1.0, 0.0]), captions) == ("b", pytest.approx(1.0))


def test_the_card_tells_every_command_back_to_the_first_start(tmp_path):
    """A run that began from another's weights cannot be made again from its own command alone."""
    from motionlex.controllers.packing import _command, _history

    for name, start, steps in (("first", None, 7), ("second", str(tmp_path / "first"), 9)):
        run = tmp_path / name
        run.mkdir()
        (run / "config.json").write_text(json.dumps({"init": start}))
        meta = {"command": ["train_lowlevel", "--init", str(start), "--out", str(run)], "steps": steps}
        (run / "meta.json").write_text(json.dumps(meta))
    told = [_command(meta) for meta in _history(tmp_path / "second")]
    assert told == [
        "train_lowlevel --init None --out runs/first  # weights of step 7",
        "train_lowlevel --init runs/first --out runs/second  # weights of step 9",
    ]
