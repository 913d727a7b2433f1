from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from archlab.data.tokenizer import TextTokenizer
from archlab.evaluate.text_floors import majority, tfidf
from archlab.evaluate.translation import bleu, bleu_by_length, search, tokenised_bleu, translate
from archlab.models.encoder_decoder import EncoderDecoderConfig, EncoderDecoderTransformer
from archlab.models.lstm import LSTMConfig, LSTMState, LSTMTranslator

REFERENCES = ["a man rides a red horse", "two dogs play in the deep snow", "a child eats an apple on a bench"]
TOKENIZER = TextTokenizer.train(REFERENCES, 300)


def test_bleu_is_a_hundred_for_the_references_and_carries_its_signature() -> None:
    perfect = bleu(REFERENCES, REFERENCES)
    assert perfect.score == pytest.approx(100)
    assert "tok:13a" in perfect.signature
    assert "case:mixed" in perfect.signature
    assert bleu([*REFERENCES[1:], REFERENCES[0]], REFERENCES).score < 20


def test_lowercased_bleu_forgives_case_and_says_so() -> None:
    loud = [text.upper() for text in REFERENCES]
    assert bleu(loud, REFERENCES).score < 1
    forgiving = bleu(loud, REFERENCES, lowercase=True)
    assert forgiving.score == pytest.approx(100)
    assert "case:lc" in forgiving.signature


def test_tokenised_bleu_counts_the_words_of_moses_whatever_their_case() -> None:
    reference = "Un homme à l'ombre d'un arbre qu'il a planté."
    written = "UN HOMME À L'OMBRE D'UN CHÊNE QU'IL A PLANTÉ."
    words = "un homme à l' ombre d' un {} qu' il a planté ."
    expected = bleu([words.format("chêne")], [words.format("arbre")])
    found = tokenised_bleu([written], [reference], "fr")
    assert found.score == pytest.approx(expected.score)
    assert found.score > bleu([written], [reference], lowercase=True).score + 5
    assert "tok:none" in found.signature
    assert "Moses" in found.signature


def test_parts_by_length_are_in_order_and_together_the_whole_set() -> None:
    lengths = [7, 3, 9, 5, 1, 8]
    parts = bleu_by_length(REFERENCES * 2, REFERENCES * 2, lengths)
    assert [(low, high) for low, high, _ in parts] == [(1, 3), (5, 7), (8, 9)]
    assert all(part.score == pytest.approx(100) for *_, part in parts)


class Copies(nn.Module):
    """Writes its source, then [EOS] for ever; the memory is the source."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def new_cache(self) -> list[LSTMState]:
        return [LSTMState()]

    def encode(self, source: Tensor, *, mask: Tensor | None = None) -> Tensor:
        return source

    def decode(self, target: Tensor, memory: Tensor, *, memory_mask: Tensor | None = None, cache: Any = None) -> Tensor:
        assert target.shape[1] == 1
        cache[0].length += 1
        column = min(cache[0].length, memory.shape[1] - 1)
        following = memory[:, column].where(memory_mask[:, column], TOKENIZER.eos_id)  # type: ignore[index]
        return 9.0 * torch.nn.functional.one_hot(following, TOKENIZER.vocab_size)[:, None]


@pytest.mark.parametrize("beams", [1, 3])
def test_sentences_are_translated_in_their_order_and_without_special_tokens(beams: int) -> None:
    sources = [[TOKENIZER.bos_id, *ids, TOKENIZER.eos_id] for ids in TOKENIZER.tokens(REFERENCES)] * 30
    written = translate(Copies(), sources, TOKENIZER, search(TOKENIZER, 60, beams), torch.device("cpu"))
    assert written == REFERENCES * 30


SOURCE = torch.tensor([[1, 7, 9, 2], [1, 8, 2, 0]])
CONFIG = {"vocab_size": TOKENIZER.vocab_size, "width": 16, "depth": 1}
MODELS = {
    "lstm": lambda: LSTMTranslator(LSTMConfig(**CONFIG)),
    "transformer": lambda: EncoderDecoderTransformer(
        EncoderDecoderConfig(**CONFIG, context=8, decoder_depth=1, heads=2, feed_forward=32)
    ),
}


def log_probability(model: nn.Module, row: int, written: list[int]) -> float:
    """Of a translation, by one call without caches."""
    mask = SOURCE[row : row + 1] != 0
    read = torch.tensor([[TOKENIZER.bos_id, *written[:-1]]])
    logits = model(SOURCE[row : row + 1], read, source_mask=mask)[0].log_softmax(-1)
    return logits[torch.arange(len(written)), torch.tensor(written)].sum().item()


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_greedy_decoding_takes_the_likeliest_token_and_beams_find_nothing_less_likely(make: Any) -> None:
    """Caches, memory and padding are followed through the search: every score is that of the whole model."""
    torch.manual_seed(0)
    model = make().eval()
    for parameter in model.parameters():
        parameter.data *= 3  # far from uniform: beams have something to find
    greedy = search(TOKENIZER, 5)(model, SOURCE, SOURCE != 0)
    for row, written in enumerate(greedy):
        read = torch.tensor([[TOKENIZER.bos_id, *written[:-1]]])
        logits = model(SOURCE[row : row + 1], read, source_mask=SOURCE[row : row + 1] != 0)
        assert logits[0].argmax(-1).tolist() == written
    beams = search(TOKENIZER, 5, beams=TOKENIZER.vocab_size, length_penalty=0.0)(model, SOURCE, SOURCE != 0)
    for row in range(2):
        assert log_probability(model, row, beams[row]) >= log_probability(model, row, greedy[row]) - 1e-4


def test_the_majority_floor_is_the_share_of_the_commonest_training_class() -> None:
    assert majority([1, 1, 0], [1, 0, 0, 0]).tolist() == [True, False, False, False]


def test_tfidf_learns_words_that_mean_a_class_and_not_noise() -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 200).tolist()
    texts = [f"{'good great' if label else 'bad awful'} film number {i % 7}" for i, label in enumerate(labels)]
    assert tfidf(texts[:150], labels[:150], texts[150:], labels[150:]).all()
    shuffled = generator.permutation(labels).tolist()
    assert tfidf(texts[:150], shuffled[:150], texts[150:], shuffled[150:]).mean() < 0.8
