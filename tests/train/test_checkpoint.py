from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from archlab.config import RunConfig
from archlab.data.tokenizer import TextTokenizer
from archlab.errors import UserError
from archlab.train.checkpoint import fingerprint, load_checkpoint, load_state, save_checkpoint, save_state


class Tied(nn.Module):
    """A head that shares the embedding's weight, as the token arm's does."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, width)
        self.head = nn.Linear(width, 7)
        self.head.weight = self.embedding.weight


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    return TextTokenizer.train(["a red square", "a blue circle"], 270)


@pytest.fixture
def saved(tmp_path: Path, tokenizer: TextTokenizer) -> tuple[Path, Tied]:
    model = Tied()
    save_checkpoint(tmp_path, model, RunConfig(seed=5), tokenizer, {"vqa/accuracy": 0.5}, "# Card\n")
    return tmp_path, model


def test_what_was_saved_is_what_is_loaded(saved: tuple[Path, Tied], tokenizer: TextTokenizer) -> None:
    folder, model = saved
    assert {path.name for path in folder.iterdir()} == {
        "config.yaml",
        "model.safetensors",
        "tokenizer.json",
        "metrics.json",
        "card.md",
    }
    checkpoint = load_checkpoint(folder, RunConfig)
    assert checkpoint.config == RunConfig(seed=5)
    assert checkpoint.metrics == {"vqa/accuracy": 0.5}
    assert checkpoint.tokenizer is not None
    assert (
        checkpoint.tokenizer.encode(["a red circle"], 9)[0].tolist()
        == tokenizer.encode(["a red circle"], 9)[0].tolist()
    )
    other = Tied()
    checkpoint.load_into(other)
    for name, tensor in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor), name
    assert other.head.weight is other.embedding.weight


def test_a_model_without_text_needs_no_tokenizer(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, Tied(), RunConfig(), None, {}, "")
    assert not (tmp_path / "tokenizer.json").exists()
    assert load_checkpoint(tmp_path, RunConfig).tokenizer is None


@pytest.mark.parametrize("name", ["config.yaml", "model.safetensors", "metrics.json", "card.md", "tokenizer.json"])
def test_a_missing_file_is_named(saved: tuple[Path, Tied], name: str) -> None:
    (saved[0] / name).unlink()
    with pytest.raises(UserError, match=name):
        load_checkpoint(saved[0], RunConfig)


@pytest.mark.parametrize("name", ["model.safetensors", "metrics.json"])
def test_a_truncated_file_is_named_as_damaged(saved: tuple[Path, Tied], name: str) -> None:
    path = saved[0] / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match=rf"{name} is damaged") as caught:
        load_checkpoint(saved[0], RunConfig)
    assert "\n" not in str(caught.value)


def test_another_tokenizer_of_the_same_size_is_refused(saved: tuple[Path, Tied]) -> None:
    TextTokenizer.train(["ein rotes Quadrat", "ein blauer Kreis"], 270).save(saved[0] / "tokenizer.json")
    with pytest.raises(UserError, match=r"tokenizer\.json is not the one"):
        load_checkpoint(saved[0], RunConfig)


def test_a_changed_configuration_is_refused(saved: tuple[Path, Tied]) -> None:
    path = saved[0] / "config.yaml"
    path.write_text(path.read_text().replace("attention: prefix", "attention: causal"))
    with pytest.raises(UserError, match=r"config\.yaml is not the one"):
        load_checkpoint(saved[0], RunConfig)


class Larger(Tied):
    """Asks for one tensor more than `Tied`."""

    def __init__(self) -> None:
        super().__init__()
        self.extra = nn.Linear(1, 1)


@pytest.mark.parametrize(
    ("model", "named"),
    [(Tied(width=5), "embedding.weight"), (Larger(), "extra.weight"), (nn.Embedding(7, 4), "head.bias")],
    ids=["wrong shape", "missing tensor", "unexpected tensor"],
)
def test_weights_that_do_not_fit_are_named(saved: tuple[Path, Tied], model: nn.Module, named: str) -> None:
    with pytest.raises(UserError, match=named) as caught:
        load_checkpoint(saved[0], RunConfig).load_into(model)
    assert "\n" not in str(caught.value)


def test_a_copy_is_the_same_checkpoint_with_another_card(saved: tuple[Path, Tied], tmp_path: Path) -> None:
    folder, _ = saved
    load_checkpoint(folder, RunConfig).copy(tmp_path / "below" / "copy", "# Copied\n")
    copied = {path.name: path.read_bytes() for path in (tmp_path / "below" / "copy").iterdir()}
    assert copied.pop("card.md") == b"# Copied\n"
    own = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    assert copied == {name: content for name, content in own.items() if name != "card.md"}
    assert load_checkpoint(tmp_path / "below" / "copy", RunConfig).card() == "# Copied\n"


def test_a_failed_save_leaves_the_older_checkpoint_whole(saved: tuple[Path, Tied], tokenizer: TextTokenizer) -> None:
    folder, model = saved
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ValueError, match="JSON"):  # JSON has no NaN
        save_checkpoint(folder, Tied(), RunConfig(seed=6), tokenizer, {"loss": float("nan")}, "# Other\n")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    other = Tied()
    load_checkpoint(folder, RunConfig).load_into(other)
    assert torch.equal(other.head.bias, model.head.bias)


def test_metrics_are_readable_without_the_project(saved: tuple[Path, Tied]) -> None:
    assert json.loads((saved[0] / "metrics.json").read_text()) == {"vqa/accuracy": 0.5}


def test_a_state_comes_back_and_only_to_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    assert load_state(path, "me") is None
    save_state(path, {"step": 3, "weights": {"a": torch.arange(3)}}, "me")
    state = load_state(path, "me")
    assert state is not None
    assert state["step"] == 3
    assert state["weights"]["a"].tolist() == [0, 1, 2]
    with pytest.raises(UserError, match="another configuration"):
        load_state(path, "you")


@pytest.mark.parametrize("damage", ["truncated", "empty", "no state"])
def test_a_damaged_state_is_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "state.pt"
    save_state(path, {"weights": torch.zeros(1000)}, "me")
    if damage == "no state":
        torch.save([1, 2], path)
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2 if damage == "truncated" else 0])
    with pytest.raises(UserError, match="damaged"):
        load_state(path, "me")


class Payload:
    """Unpickling it would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_a_state_that_carries_code_is_refused_and_not_run(tmp_path: Path) -> None:
    torch.save({"owner": "me", "weights": Payload(tmp_path / "executed")}, tmp_path / "state.pt")
    with pytest.raises(UserError, match="damaged"):
        load_state(tmp_path / "state.pt", "me")
    assert not (tmp_path / "executed").exists()


def test_fingerprints_tell_configurations_and_inputs_apart() -> None:
    prints = [fingerprint(RunConfig()), fingerprint(RunConfig(seed=1)), fingerprint(RunConfig(), "data")]
    assert len(set(prints)) == 3
    assert fingerprint(RunConfig()) == prints[0]
