from __future__ import annotations

from pathlib import Path

import pytest
import torch

from archlab.errors import UserError
from archlab.vl.whitening import Whitening

GENERATOR = torch.Generator().manual_seed(0)
MIX = torch.randn(12, 12, generator=GENERATOR) @ torch.diag(torch.logspace(-2, 1, 12))


def states(count: int) -> torch.Tensor:
    """Features with strong correlations, of very different sizes, far from zero."""
    return torch.randn(count, 12, generator=GENERATOR) @ MIX + 5


def test_many_states_become_white_those_not_seen_too() -> None:
    whitening = Whitening.fit(states(20000), "")
    white = whitening(states(20000))
    assert white.mean(0).abs().max() < 0.05
    assert (white.std(0) - 1).abs().max() < 0.1
    off = torch.corrcoef(white.T) - torch.eye(12)
    assert off.abs().max() < 0.1
    raw = torch.corrcoef(states(20000).T) - torch.eye(12)
    assert raw.abs().max() > 0.5


def test_few_states_are_standardised_rather_than_made_noise_of() -> None:
    """With fewer states than features a plain whitening would blow up what it did not see."""
    few = states(8)
    white = Whitening.fit(few, "")(states(2000))
    assert white.std() < 3
    assert 0.3 < white.std(0).mean() < 3


def test_a_feature_without_variance_stays_small() -> None:
    constant = states(500)
    constant[:, 3] = 2.0
    whitening = Whitening.fit(constant, "")
    assert torch.isfinite(whitening.weight).all()
    assert whitening(constant)[:, 3].abs().max() < 1


def test_saved_and_loaded_is_the_same(tmp_path: Path) -> None:
    whitening = Whitening.fit(states(100), "these images")
    whitening.save(tmp_path / "w.safetensors")
    again = Whitening.load(tmp_path / "w.safetensors")
    assert again.fitted_on == "these images"
    assert torch.equal(again(states(3) * 0 + 1), whitening(torch.ones(3, 12)))


def test_a_missing_or_damaged_file_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    with pytest.raises(UserError, match="is missing"):
        Whitening.load(path)
    path.write_bytes(b"no tensors")
    with pytest.raises(UserError, match="is damaged"):
        Whitening.load(path)
