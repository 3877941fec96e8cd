import json
import struct
from pathlib import Path

import pytest
import torch

from looptagger.config import Model
from looptagger.errors import UserError
from looptagger.model import checkpoint
from looptagger.roles import ROLES


def with_card(data: bytes, **changes: object) -> bytes:
    """A checkpoint with other things said in its header."""
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    card = json.loads(header["__metadata__"]["looptagger"]) | changes
    header["__metadata__"]["looptagger"] = json.dumps(card)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data[8 + size :]


@pytest.fixture(scope="module")
def small() -> bytes:
    return checkpoint.untrained(Model(channels=4))


def test_a_checkpoint_says_what_it_is_and_comes_back_the_same(small: bytes) -> None:
    network, card = checkpoint.load(small, "small")
    assert (card.name, card.trained, card.roles, card.model.channels) == ("untrained", False, ROLES, 4)
    assert card.audio.sample_rate == 16_000
    assert card.thresholds == dict.fromkeys(ROLES, 0.5)
    assert card.licence == "CC0-1.0"
    assert checkpoint.dump(network, card) == small
    assert not network.training


def test_the_seed_fixes_the_weights_and_leaves_torch_s_own_generator_alone(small: bytes) -> None:
    state = torch.get_rng_state()
    assert checkpoint.untrained(Model(channels=4)) == small
    assert checkpoint.untrained(Model(channels=4), seed=1) != small
    assert torch.equal(torch.get_rng_state(), state)


def test_the_id_is_name_and_hash(small: bytes) -> None:
    name, _, digest = checkpoint.model_id(small, checkpoint.card(small, "x")).partition("@")
    assert name == "untrained"
    assert len(digest) == 12


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"format": 2}, "format 2"),
        ({"colour": "red"}, "colour"),
        ({"model": {"kind": "transformer"}}, "model.kind"),
        ({"model": {"kind": "hcnn", "heads": 8}}, "model.heads"),
        ({"roles": ["bass", "chord"]}, "roles"),
        ({"model": {"channels": 8}}, "weights do not fit"),
        ({"thresholds": {"bass": 0.5}}, "roles are bass, not"),
        ({"thresholds": dict.fromkeys(ROLES, 7.0)}, "less than or equal to 1"),
        ({"audio": {"chunk_samples": 8000}}, "128 of each at least"),
        ({"audio": {"chunk_samples": 16_000_000}, "model": {"hop": 1}}, "1,048,576 places at most"),
        ({"audio": {"chunk_samples": 4000}, "model": {"hop": 16, "n_fft": 16_384}}, "does not fit a chunk"),
        ({"model": {"kind": "cnn", "channels": 4}}, "weights do not fit its cnn"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(small: bytes, changes: dict[str, object], says: str) -> None:
    with pytest.raises(UserError, match=says) as error:
        checkpoint.load(with_card(small, **changes), "some.safetensors")
    assert "some.safetensors" in str(error.value)
    assert "\n" not in str(error.value)


def test_weights_that_are_no_numbers_are_refused(small: bytes) -> None:
    network, card = checkpoint.load(small, "small")
    network.norm.running_var[0] = -1.0
    with pytest.raises(UserError, match=r"broken: norm\.running_var holds a negative variance"):
        checkpoint.load(checkpoint.dump(network, card), "broken")
    network.norm.running_var[0] = 1.0
    network.out.bias.data[2] = torch.nan
    with pytest.raises(UserError, match=r"broken: the weights in out\.bias are not all numbers"):
        checkpoint.load(checkpoint.dump(network, card), "broken")


def test_names_have_letters_and_digits(small: bytes) -> None:
    assert checkpoint.plain_name("rün² ½/①.a_b") == "rün²-½-①.a_b"
    for name in ("v:2", "a b", "", "x" * 65):
        with pytest.raises(ValueError, match="a name has letters"):
            checkpoint.Card(name=name)
    assert checkpoint.Card(name="rün²-1.0_a").name == "rün²-1.0_a"  # as a run's folder may be called


def test_other_files_are_refused(small: bytes, tmp_path: Path) -> None:
    import safetensors.torch

    foreign = safetensors.torch.save({"w": torch.zeros(2)})
    deep = b"[" * 100_000
    for data in (b"", b"junk" * 9, foreign, small[:5000], b"\xff" * 64, len(deep).to_bytes(8, "little") + deep):
        with pytest.raises(UserError, match="strange"):
            checkpoint.load(data, "strange")
    with pytest.raises(UserError, match="no such model"):
        checkpoint.resolve(str(tmp_path / "nope"))
    with pytest.raises(UserError, match="a checkpoint, a training run"):
        checkpoint.resolve(str(tmp_path))
    with pytest.raises(UserError, match="cannot be read as a checkpoint: File name too long"):
        checkpoint.resolve("x" * 300)


def test_what_lies_at_a_uri_is_bounded_as_files_are(small: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    fsspec.filesystem("memory").pipe_file("/models/its.safetensors", small)
    assert checkpoint.resolve("memory://models/its.safetensors") == small
    monkeypatch.setattr(checkpoint, "PIECE_BYTES", 1000)
    assert checkpoint.resolve("memory://models/its.safetensors") == small
    monkeypatch.setattr(checkpoint, "MAX_BYTES", len(small) - 1)
    with pytest.raises(UserError, match="its.safetensors: no file, or over"):
        checkpoint.resolve("memory://models/its.safetensors")
    with pytest.raises(UserError, match="no such model"):
        checkpoint.resolve("memory://models/another.safetensors")
