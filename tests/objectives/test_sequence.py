from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from archlab.data.text.batch import Pairs, Tokens, pad
from archlab.objectives.sequence import LanguageModelling, Translation

GENERATOR = torch.Generator().manual_seed(0)
LOGITS = torch.randn(2, 4, 7, generator=GENERATOR)
TARGET, TARGET_MASK = pad([[1, 3, 4, 5, 2], [1, 6, 2]], 0)
SOURCE, SOURCE_MASK = pad([[1, 2], [1, 2]], 0)
PAIRS = Pairs(SOURCE, SOURCE_MASK, TARGET, TARGET_MASK)


def gives_logits(source: Tensor, target: Tensor, *, source_mask: Tensor) -> Tensor:
    assert torch.equal(target, TARGET[:, :-1])
    return LOGITS


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_translation_loss_is_the_definition_over_real_tokens(smoothing: float) -> None:
    log_probs = LOGITS.log_softmax(-1)
    terms = []
    for row, col in ((0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1)):
        right = -log_probs[row, col, TARGET[row, col + 1]]
        terms.append((1 - smoothing) * right - smoothing * log_probs[row, col].mean())
    output = Translation(smoothing)(gives_logits, PAIRS)
    assert output.loss.item() == pytest.approx(torch.stack(terms).mean().item(), rel=1e-5)
    assert output.weight == 6


def test_smoothing_keeps_a_sure_model_from_a_loss_of_zero() -> None:
    sure = torch.nn.functional.one_hot(TARGET[:, 1:], 7) * 100.0
    plain, smoothed = (Translation(value)(lambda *_, **__: sure, PAIRS).loss.item() for value in (0.0, 0.1))
    assert plain == pytest.approx(0.0, abs=1e-6)
    assert smoothed > 1


def test_language_modelling_predicts_each_token_but_the_first() -> None:
    tokens = torch.randint(0, 7, (2, 5), generator=GENERATOR)
    seen = []

    def model(given: Tensor) -> Tensor:
        seen.append(given)
        return torch.zeros(2, 4, 7)

    output = LanguageModelling()(model, Tokens(tokens))
    assert torch.equal(seen[0], tokens[:, :-1])
    assert output.loss.item() == pytest.approx(math.log(7))
    assert output.weight == 8
