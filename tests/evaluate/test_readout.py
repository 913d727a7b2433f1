from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from archlab.config import RunConfig
from archlab.data.batch import Batch
from archlab.evaluate.readout import EmbeddingReadout, SupervisedReadout, TokenReadout
from archlab.train.run import readout_of
from archlab.train.setup import Setup
from archlab.vl.arms import build_arm

LONGEST = 20


def arm(setup: Setup, name: Any) -> Any:
    """An untrained arm in training mode, its trunk enlarged: else it would only repeat the last token."""
    config = replace(setup.config, arm=name)
    model = build_arm(config, setup.encoder.width, setup.tokenizer.vocab_size, len(setup.answers)).train()
    with torch.no_grad():
        for parameter in model.backbone.trunk.parameters():
            parameter.mul_(3)
    return model


@pytest.fixture(scope="module")
def token(tiny_setup: Setup) -> TokenReadout:
    return TokenReadout(arm(tiny_setup, "token"), tiny_setup.tokenizer, LONGEST)


@pytest.fixture(scope="module")
def embedding(tiny_setup: Setup) -> EmbeddingReadout:
    return EmbeddingReadout(arm(tiny_setup, "vljepa"), tiny_setup.tokenizer, LONGEST)


@pytest.fixture(scope="module")
def batch(tiny_setup: Setup) -> Batch:
    return tiny_setup.collator("validation")(np.arange(7))


@pytest.fixture(scope="module")
def candidates(tiny_setup: Setup) -> list[str]:
    return tiny_setup.dataset["validation"].candidates["object"]


def test_the_token_arm_scores_a_candidate_by_the_sum_of_its_tokens_and_by_their_mean(
    token: TokenReadout, tiny_setup: Setup, batch: Batch, candidates: list[str]
) -> None:
    scores = token.choose(batch, candidates)
    assert list(scores) == ["sum", "normalised"]
    for column in (0, 20, len(candidates) - 1):
        ids, mask = tiny_setup.tokenizer.encode([candidates[column]], LONGEST)
        alone = replace(
            batch, target=torch.from_numpy(ids).expand(7, -1), target_mask=torch.from_numpy(mask).expand(7, -1)
        )
        log_probs = token.arm.logits(alone).log_softmax(-1).gather(-1, alone.target[:, 1:, None])[..., 0].sum(1)
        np.testing.assert_allclose(scores["sum"][:, column], log_probs.detach(), rtol=1e-4)
        tokens = mask.sum() - 1  # [EOS] is predicted too, [BOS] is not
        np.testing.assert_allclose(scores["normalised"][:, column], log_probs.detach() / tokens, rtol=1e-4)
    assert scores["sum"].shape == scores["normalised"].shape == (7, len(candidates))


def test_the_token_arm_speaks_what_it_decodes_greedily(token: TokenReadout, tiny_setup: Setup, batch: Batch) -> None:
    tokenizer = tiny_setup.tokenizer
    ids = token.arm.generate(token.read(batch), LONGEST, tokenizer.bos_id, tokenizer.eos_id)
    assert token.speak(batch) == [tokenizer.decode(row) for row in ids.tolist()]
    assert len(set(token.speak(batch))) > 1


def test_retrieval_vectors_of_the_token_arm_are_pooled_states_of_image_and_of_text_alone(
    token: TokenReadout, tiny_setup: Setup, batch: Batch
) -> None:
    backbone = token.arm.backbone
    pooled = backbone.pooled(batch.features, batch.query, batch.query_mask)
    np.testing.assert_allclose(token.image_vectors(batch), pooled.detach(), rtol=1e-5)
    texts = ["a red circle", "two large blue stars"]
    ids, mask = map(torch.from_numpy, tiny_setup.tokenizer.encode(texts, LONGEST))
    states = backbone.trunk(backbone.token_embedding(ids[1:]))  # the longer one: no padding
    assert mask[1].all()
    np.testing.assert_allclose(token.text_vectors(texts)[1], states.mean(1)[0].detach(), rtol=1e-4, atol=1e-6)


def test_vljepa_scores_a_candidate_by_the_cosine_of_prediction_and_candidate(
    embedding: EmbeddingReadout, tiny_setup: Setup, batch: Batch, candidates: list[str]
) -> None:
    scores = embedding.choose(batch, candidates)
    predicted = embedding.arm.predict(batch.features, batch.query, batch.query_mask)
    ids, mask = map(torch.from_numpy, tiny_setup.tokenizer.encode(candidates, LONGEST))
    target = embedding.arm.target_encoder(ids, mask)
    expected = F.cosine_similarity(predicted[:, None], target[None], dim=-1).detach()
    np.testing.assert_allclose(scores["cosine"], expected, atol=1e-5)
    assert list(scores) == ["cosine"]


def test_vljepa_vectors_are_unit_vectors_of_prediction_and_text(embedding: EmbeddingReadout, batch: Batch) -> None:
    vectors = embedding.image_vectors(batch)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(embedding.text_vectors(["a", "b c"]), axis=1), 1, rtol=1e-5)
    predicted = embedding.arm.predict(batch.features, batch.query, batch.query_mask).detach().numpy()
    np.testing.assert_allclose(vectors * np.linalg.norm(predicted, axis=1, keepdims=True), predicted, rtol=1e-4)


def test_vljepa_speaks_its_prediction_through_the_decoder(
    embedding: EmbeddingReadout, tiny_setup: Setup, batch: Batch
) -> None:
    assert embedding.speak(batch) == embedding.decode(embedding.image_vectors(batch))
    tokenizer, vectors = tiny_setup.tokenizer, embedding.text_vectors(["a red circle", "blue", "no"])
    ids = embedding.arm.decoder.generate(torch.from_numpy(vectors), LONGEST, tokenizer.bos_id, tokenizer.eos_id)
    assert embedding.decode(vectors) == [tokenizer.decode(row) for row in ids.tolist()]


@pytest.mark.parametrize("name", ["token", "embedding"])
def test_a_text_has_the_same_vector_in_any_company(name: str, request: pytest.FixtureRequest) -> None:
    """More texts than are encoded at once, of all lengths."""
    readout: TokenReadout | EmbeddingReadout = request.getfixturevalue(name)
    texts = [f"{'very ' * (number % 5)}blue circle {number}" for number in range(300)]
    vectors = readout.text_vectors(texts)
    assert len(vectors) == 300
    for row in (0, 255, 256, 299):
        np.testing.assert_allclose(vectors[row], readout.text_vectors([texts[row]])[0], rtol=1e-3, atol=1e-5)


def test_speech_ends_at_the_limit(
    token: TokenReadout, embedding: EmbeddingReadout, tiny_setup: Setup, batch: Batch
) -> None:
    """It says the first tokens of what it would have said."""
    tokenizer, vectors = tiny_setup.tokenizer, embedding.image_vectors(batch)
    token_ids = token.arm.generate(token.read(batch), LONGEST, tokenizer.bos_id, tokenizer.eos_id)
    spoken = torch.from_numpy(vectors)
    embedding_ids = embedding.arm.decoder.generate(spoken, LONGEST, tokenizer.bos_id, tokenizer.eos_id)
    short_token, short_embedding = TokenReadout(token.arm, tokenizer, 3), EmbeddingReadout(embedding.arm, tokenizer, 3)
    assert short_token.speak(batch) == [tokenizer.decode(row[:3]) for row in token_ids.tolist()] != token.speak(batch)
    assert short_embedding.speak(batch) == [tokenizer.decode(row[:3]) for row in embedding_ids.tolist()]


def test_the_supervised_head_scores_a_candidate_by_the_logit_of_its_meaning(tiny_setup: Setup, batch: Batch) -> None:
    model = arm(tiny_setup, "supervised")
    readout = SupervisedReadout(model, {"red": 2, "crimson": 2, "blue": 0})
    scores = readout.choose(batch, ["blue", "red", "unheard of", "crimson"])["logit"]
    logits = model.class_logits(batch).detach().numpy()
    np.testing.assert_allclose(scores[:, [0, 1, 3]], logits[:, [0, 2, 2]], rtol=1e-5)
    assert (scores[:, 2] == -np.inf).all()  # never chosen, whatever the last class says


@pytest.mark.parametrize(
    ("name", "kind"), [("token", TokenReadout), ("vljepa", EmbeddingReadout), ("supervised", SupervisedReadout)]
)
def test_an_arm_is_asked_in_evaluation_mode_and_without_gradients(
    tiny_setup: Setup, tiny_config: RunConfig, batch: Batch, name: str, kind: type
) -> None:
    model = arm(tiny_setup, name)
    readout = readout_of(model, tiny_setup)
    assert isinstance(readout, kind)
    assert not model.training
    readout.choose(batch, ["red", "blue"])
    if not isinstance(readout, SupervisedReadout):
        readout.speak(batch)
        readout.image_vectors(batch)
        readout.text_vectors(["red"])
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_supervised_head_knows_the_answers_of_training_by_every_candidates_text(tiny_setup: Setup) -> None:
    """Every candidate that training answered with finds the class that training gave to its meaning."""
    readout = readout_of(arm(tiny_setup, "supervised"), tiny_setup)
    assert isinstance(readout, SupervisedReadout)
    train = tiny_setup.dataset["train"]
    for example in train.examples:
        if example.task == "vqa":
            texts = [text for text, meaning in train.canonical_meaning.items() if meaning == example.meaning]
            assert {readout.candidate_classes[text] for text in texts} == {tiny_setup.meanings[example.meaning]}
            assert tiny_setup.meanings[example.meaning] < len(tiny_setup.answers)
