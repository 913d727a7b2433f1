"""The engine in torch answers as `Answerer` does, whatever stands in the same batch."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from archlab.config import PredictorConfig, RunConfig
from archlab.data.batch import Batch
from archlab.errors import UserError
from archlab.layers.attention import Attention
from archlab.serve.opening import open_engine
from archlab.serve.vision_engine import VisionEngine
from archlab.train.checkpoint import load_checkpoint, save_checkpoint
from archlab.train.setup import Setup
from archlab.vl.answering import Answerer
from archlab.vl.arms import build_arm

QUERIES = ["what colour is it?", "how many are there?", "", "is there a red ring above the star?", "a", "b c", "d"]
ARMS = pytest.mark.parametrize("arm", ["token", "vljepa"])


@pytest.fixture
def answerer(talkative_run: Callable[[str], Path]) -> Callable[[str], Answerer]:
    return lambda arm: Answerer.open(talkative_run(arm))


def ask(answerer: Answerer, pictures: list[np.ndarray], queries: list[str]) -> Batch:
    return answerer.request(np.stack(pictures), queries)


@ARMS
def test_embeddings_are_those_of_the_read_out_at_unit_length(
    engine: Callable[[str], VisionEngine], answerer: Callable[[str], Answerer], pictures: list[np.ndarray], arm: str
) -> None:
    ours, theirs = engine(arm), answerer(arm)
    texts = ["a red circle", "two large blue stars next to a small ring", ""]
    for vectors, expected in (
        (ours.embed_texts(texts), theirs.readout.text_vectors(texts)),
        (ours.embed_images(pictures, QUERIES), theirs.readout.image_vectors(ask(theirs, pictures, QUERIES))),
    ):
        assert vectors.dtype == np.float32
        assert vectors.shape[1] == ours.about.width
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
        np.testing.assert_allclose(vectors * np.linalg.norm(expected, axis=1, keepdims=True), expected, atol=1e-5)
    assert len(np.unique(ours.embed_images(pictures, QUERIES).round(4), axis=0)) == 7


@ARMS
def test_probabilities_are_the_softmax_of_the_read_outs_scores_over_each_items_own_candidates(
    engine: Callable[[str], VisionEngine], answerer: Callable[[str], Answerer], pictures: list[np.ndarray], arm: str
) -> None:
    ours, theirs = engine(arm), answerer(arm)
    colours, answers = ["red", "blue", "a very dark green"], ["yes", "no"]
    candidates = [colours, answers, colours, answers, ["two"], colours[::-1], colours]
    found = ours.choose(pictures, QUERIES, candidates)
    for row, own in enumerate(candidates):
        request = ask(theirs, [pictures[row]], [QUERIES[row]])
        scores = torch.from_numpy(next(iter(theirs.readout.choose(request, own).values())))
        if arm == "vljepa":
            scores = scores * theirs.scale
        np.testing.assert_allclose(found[row], scores.softmax(-1)[0], atol=1e-4)
        assert found[row].sum() == pytest.approx(1)
    np.testing.assert_allclose(found[5], ours.choose([pictures[5]], [QUERIES[5]], [colours])[0][::-1], atol=1e-4)


def test_the_scale_of_cosines_is_the_one_that_was_learned(
    tiny_run: Callable[[str], Any], talkative_run: Callable[[str], Path], tmp_path: Path
) -> None:
    learned = tiny_run("vljepa").metrics["scale"]
    assert Answerer.open(talkative_run("vljepa")).scale == learned
    assert learned != pytest.approx(1 / 0.07, rel=1e-6)  # it has moved from where it began
    assert "scale" not in tiny_run("token").metrics
    assert Answerer.open(talkative_run("token")).scale is None
    older = shutil.copytree(talkative_run("vljepa"), tmp_path / "older")
    metrics = json.loads((older / "metrics.json").read_text())
    del metrics["scale"]
    (older / "metrics.json").write_text(json.dumps(metrics))
    assert Answerer.open(older).scale == pytest.approx(1 / 0.07)


@ARMS
def test_speech_is_that_of_the_read_out(
    engine: Callable[[str], VisionEngine], answerer: Callable[[str], Answerer], pictures: list[np.ndarray], arm: str
) -> None:
    theirs = answerer(arm)
    spoken = engine(arm).speak(pictures, QUERIES)
    assert [one.text for one in spoken] == theirs.readout.speak(ask(theirs, pictures, QUERIES))
    assert len({one.text for one in spoken}) > 3
    for row in (0, 3):
        (alone,) = engine(arm).speak([pictures[row]], [QUERIES[row]])
        assert (alone.text, alone.steps) == (spoken[row].text, spoken[row].steps)
        assert alone.confidence == pytest.approx(spoken[row].confidence, rel=1e-3)


@torch.no_grad()
def test_confidence_is_the_geometric_mean_of_the_tokens_probabilities_and_steps_are_counted_to_the_end(
    engine: Callable[[str], VisionEngine], answerer: Callable[[str], Answerer], pictures: list[np.ndarray]
) -> None:
    theirs = answerer("token")
    arm: Any = theirs.readout.arm
    request, tokenizer = ask(theirs, pictures, QUERIES), theirs.tokenizer
    ids = arm.generate(theirs.readout.read(request), 64, tokenizer.bos_id, tokenizer.eos_id)  # type: ignore[union-attr]
    target = torch.cat([torch.full((7, 1), tokenizer.bos_id), ids], 1)
    whole = replace(request, target=target, target_mask=torch.ones_like(target, dtype=torch.bool))
    log_probs = arm.logits(whole).log_softmax(-1).gather(-1, ids[..., None])[..., 0]
    for one, row, own in zip(engine("token").speak(pictures, QUERIES), ids, log_probs, strict=True):
        ends = (row == tokenizer.eos_id).nonzero()
        assert one.steps == (int(ends[0]) + 1 if len(ends) else 64)
        assert one.confidence == pytest.approx(own[: one.steps].mean().exp().item(), rel=1e-3)


def test_vectors_of_images_say_what_their_images_say(
    engine: Callable[[str], VisionEngine], pictures: list[np.ndarray]
) -> None:
    ours = engine("vljepa")
    of_vectors = ours.speak_vectors(list(ours.embed_images(pictures, QUERIES)))
    for one, other in zip(of_vectors, ours.speak(pictures, QUERIES), strict=True):
        assert (one.text, one.steps) == (other.text, other.steps)
        assert one.confidence == pytest.approx(other.confidence, rel=1e-3)
    assert "speak_vectors" not in engine("token").operations


@ARMS
def test_a_stream_brings_the_same_text_in_pieces(
    engine: Callable[[str], VisionEngine], pictures: list[np.ndarray], arm: str
) -> None:
    ours = engine(arm)
    spoken = ours.speak(pictures, QUERIES)
    streams = ours.begin(pictures, QUERIES)
    texts = ["".join(stream) for stream in streams]
    assert [text.rstrip() for text in texts] == [one.text for one in spoken]
    (again,) = ours.begin(pictures[:1], QUERIES[:1])
    pieces = list(again)
    assert len(pieces) == spoken[0].steps + 1  # one for every step, and what was held back
    assert len([piece for piece in pieces if piece]) > 2


def test_streams_of_several_requests_take_turns_without_disturbing_each_other(
    engine: Callable[[str], VisionEngine], pictures: list[np.ndarray]
) -> None:
    ours = engine("token")
    streams, texts, left = ours.begin(pictures, QUERIES), [""] * 7, set(range(7))
    while left:
        rows = sorted(left)
        for row, piece in zip(rows, ours.operations["advance"]([streams[row] for row in rows]), strict=True):
            if piece is None:
                left.discard(row)
            else:
                texts[row] += piece
    assert [text.rstrip() for text in texts] == [one.text for one in ours.speak(pictures, QUERIES)]


def test_a_stream_that_nobody_reads_decodes_nothing(
    engine: Callable[[str], VisionEngine], pictures: list[np.ndarray]
) -> None:
    ours = engine("token")
    arm: Any = ours._answerer.readout.arm
    steps: list[int] = []
    arm.backbone.trunk.register_forward_hook(lambda module, given, result: steps.append(given[0].shape[1]))
    (stream,) = ours.begin(pictures[:1], QUERIES[:1])
    assert steps == []
    next(stream)
    next(stream)
    assert steps[1:] == [1, 1]  # after the prefix
    stream.close()  # type: ignore[attr-defined]
    assert steps[1:] == [1, 1]


@ARMS
@torch.no_grad()
def test_attention_maps_are_the_weights_of_every_layer_and_head_over_patches_and_words(
    engine: Callable[[str], VisionEngine], answerer: Callable[[str], Answerer], pictures: list[np.ndarray], arm: str
) -> None:
    ours, theirs = engine(arm), answerer(arm)
    before = ours.speak(pictures[:1], QUERIES[:1])
    found = ours.attention(pictures[:2], QUERIES[:2])
    assert ours.speak(pictures[:1], QUERIES[:1]) == before  # the fused implementation is back
    for row, maps in enumerate(found):
        request = ask(theirs, [pictures[row]], [QUERIES[row]])
        backbone: Any = theirs.readout.arm.backbone
        x, _ = backbone.embed(request.features, request.query, request.query_mask)
        block = backbone.trunk.blocks[0]
        block.attention.implementation = "readable"
        rotation = backbone.trunk.rotary(torch.arange(x.shape[1])[None])
        _, weights = block.attention(block.attention_norm(x), rotation=rotation, return_weights=True)
        assert maps.maps.shape == (2, 2, x.shape[1], x.shape[1])
        np.testing.assert_allclose(maps.maps[0], weights[0].detach(), atol=1e-5)
        np.testing.assert_allclose(maps.maps.sum(-1), 1, rtol=1e-5)
        assert maps.visual == request.features.shape[1]
        assert maps.tokens[: maps.visual + 1] == [f"[{i // 4}, {i % 4}]" for i in range(16)] + ["[BOS]"]
        assert len(maps.tokens) == x.shape[1]
        assert "".join(maps.tokens[maps.visual + 1 : -1]) == QUERIES[row].replace(" ", "")


def test_a_causal_arm_shows_its_causal_attention(
    tiny_setup: Setup, tiny_config: RunConfig, pictures: list[np.ndarray], tmp_path: Path
) -> None:
    config = replace(tiny_config, arm="token", token=replace(tiny_config.token, attention="causal"))
    save(tmp_path, config, tiny_setup)
    (found,) = VisionEngine.attention(open_engine(tmp_path, "torch"), pictures[:1], QUERIES[:1])  # type: ignore[arg-type]
    assert (np.triu(found.maps, 1) == 0).all()
    assert (np.tril(found.maps) > 0).any()


def test_a_predictor_without_joint_attention_has_no_maps(
    tiny_setup: Setup, tiny_config: RunConfig, pictures: list[np.ndarray], tmp_path: Path
) -> None:
    own = replace(tiny_config.vljepa, predictor=PredictorConfig(kind="cross-attention"))
    save(tmp_path, replace(tiny_config, arm="vljepa", vljepa=own), tiny_setup)
    engine: Any = open_engine(tmp_path, "torch")
    with pytest.raises(UserError, match="has no joint attention"):
        engine.attention(pictures[:1], QUERIES[:1])
    assert engine.speak(pictures[:1], QUERIES[:1])[0].steps > 0


def test_the_layers_compute_in_the_fast_implementation_after_maps_were_asked_for_and_something_failed(
    engine: Callable[[str], VisionEngine], pictures: list[np.ndarray]
) -> None:
    ours = engine("token")
    trunk: Any = ours._answerer.readout.arm.backbone.trunk
    hook = trunk.norm.register_forward_hook(lambda *given: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        ours.attention(pictures[:1], QUERIES[:1])
    hook.remove()
    layers = [layer for layer in trunk.modules() if isinstance(layer, Attention)]
    assert {layer.implementation for layer in layers} == {"fused"}
    assert ours.speak(pictures[:1], QUERIES[:1])


def test_a_probe_notices_weights_that_are_no_numbers(engine: Callable[[str], VisionEngine]) -> None:
    ours = engine("vljepa")
    ours.probe()
    arm: Any = ours._answerer.readout.arm
    with torch.no_grad():
        arm.head.weight[0, 0] = torch.nan
    with pytest.raises(FloatingPointError):
        ours.probe()


def save(folder: Path, config: RunConfig, setup: Setup) -> None:
    """An untrained run."""
    arm = build_arm(config, setup.encoder.width, setup.tokenizer.vocab_size, 0)
    save_checkpoint(folder, arm, config, setup.tokenizer, {"encoder_digest": setup.encoder.digest}, "card")


def test_what_an_engine_says_about_itself_is_that_of_the_run(talkative_run: Callable[[str], Path]) -> None:
    folder = talkative_run("vljepa")
    about, checkpoint = open_engine(folder, "torch").about, load_checkpoint(folder, RunConfig)
    assert (about.arm, about.backend, about.digest) == ("vljepa", "torch", checkpoint.digest())
    assert about.card == (folder / "card.md").read_text()
    assert (about.image_size, about.width) == (64, checkpoint.config.vljepa.embedding)
