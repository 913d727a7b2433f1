from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from archlab.compare.budgets import apply_budget
from archlab.compare.flops import Sizes
from archlab.config import OptimizerConfig, RunConfig
from archlab.data.batch import Batch
from archlab.data.tokenizer import TextTokenizer
from archlab.evaluate.readout import EmbeddingReadout, TokenReadout
from archlab.train.checkpoint import load_checkpoint, save_checkpoint
from archlab.train.loop import fit
from archlab.train.optim import adamw
from archlab.train.run import build_objective, run_order, training_batch
from archlab.train.setup import Setup
from archlab.vl.arms import Arm, EmbeddingArm, TokenArm, build_arm

ARMS = ["token", "vljepa", "supervised"]
IMAGE = 2  # visual tokens of `batch`


def outputs(arm: Arm, batch: Batch) -> dict[str, Tensor]:
    """Everything that an arm says of a batch; the first depends on image and query."""
    if isinstance(arm, TokenArm):
        prefix = arm.read(batch.features, batch.query, batch.query_mask)
        score = arm.score(prefix, batch.target, batch.target_mask)
        return {"logits": arm.logits(batch), "score": score, "spoken": arm.generate(prefix, 6, 1, 2)}
    if isinstance(arm, EmbeddingArm):
        predicted, target = arm.embed(batch)
        return {
            "predicted": predicted,
            "target": target,
            "decoder": arm.decoder(target, batch.target, batch.target_mask),
        }
    return {"class_logits": arm.class_logits(batch)}


def first(arm: Arm, batch: Batch) -> Tensor:
    return next(iter(outputs(arm, batch).values()))


@contextmanager
def watched(arm: Arm) -> Iterator[dict[str, Tensor]]:
    """What the trunk reads ("embeddings") and says ("states") in the block."""
    seen: dict[str, Tensor] = {}

    def note(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        seen["embeddings"], seen["states"] = args[0], output

    handle = arm.backbone.trunk.register_forward_hook(note)
    try:
        yield seen
    finally:
        handle.remove()


def test_both_arms_read_bit_identical_batches_under_the_shared_budget(
    tiny_config: RunConfig, tiny_setup: Setup
) -> None:
    sizes = Sizes(tiny_setup.encoder.width, tiny_setup.tokenizer.vocab_size, len(tiny_setup.answers))
    plans = apply_budget("shared", tiny_config, sizes)
    orders = [run_order(plan, tiny_setup) for plan in (plans.token, plans.vljepa)]
    assert orders[0].digest() == orders[1].digest()
    for step in range(tiny_config.optimizer.steps):
        token, vljepa = (
            training_batch(plan, tiny_setup, order, step)
            for plan, order in zip((plans.token, plans.vljepa), orders, strict=True)
        )
        assert token.ids == vljepa.ids
        for field in fields(Batch):
            one, other = getattr(token, field.name), getattr(vljepa, field.name)
            assert one == other if field.name == "ids" else torch.equal(one, other), field.name


def test_the_token_arm_sees_image_and_query_exactly_as_vljepa_does(make: Callable[..., Any], batch: Batch) -> None:
    token, vljepa = make("token"), make("vljepa")
    with watched(token) as ours:
        token.logits(batch)
    states, mask = vljepa.backbone(batch.features, batch.query, batch.query_mask)
    length = states.shape[1]
    torch.testing.assert_close(ours["states"][:, :length][mask], states[mask])
    with watched(token) as ours:
        token.read(batch.features, batch.query, batch.query_mask)
    torch.testing.assert_close(ours["states"][mask], states[mask])


@pytest.mark.parametrize("attention", ["prefix", "causal"])
def test_the_image_sees_the_query_under_prefix_attention_and_not_under_causal(
    make: Callable[..., Any], config: RunConfig, batch: Batch, attention: Any
) -> None:
    arm = make("token", token=replace(config.token, attention=attention))
    with watched(arm) as seen:
        arm.logits(batch)
    length = IMAGE + batch.query.shape[1]
    (gradient,) = torch.autograd.grad(seen["states"][:, 0].square().sum(), seen["embeddings"])
    reached = gradient.abs().sum(-1)  # (B, T), of the first visual token's state with respect to every token
    real = torch.cat([torch.ones(4, IMAGE, dtype=torch.bool), batch.query_mask], 1)
    if attention == "prefix":
        assert (reached[:, :length][real] > 0).all()
    else:
        assert (reached[:, 1:] == 0).all()
    assert (reached[:, length:] == 0).all()  # no answer token reaches the image
    assert (reached[:, 0] > 0).all()


@pytest.mark.parametrize("attention", ["prefix", "causal"])
def test_the_answer_sees_image_query_and_earlier_tokens_only(
    make: Callable[..., Any], config: RunConfig, batch: Batch, attention: Any
) -> None:
    arm = make("token", token=replace(config.token, attention=attention))
    with watched(arm) as seen:
        logits = arm.logits(batch)
    length = IMAGE + batch.query.shape[1]
    before = torch.cat([torch.ones(4, IMAGE, dtype=torch.bool), batch.query_mask], 1)
    for token in range(logits.shape[1]):
        (gradient,) = torch.autograd.grad(logits[:, token].square().sum(), seen["embeddings"], retain_graph=True)
        reached = gradient.abs().sum(-1) > 0
        for sample in range(4):
            if batch.target_mask[sample, token]:
                assert torch.equal(reached[sample, :length], before[sample])
                assert reached[sample, length:].tolist() == [i <= token for i in range(logits.shape[1])]


@pytest.mark.parametrize("arm", ARMS)
def test_more_padding_changes_no_answer(
    make: Callable[..., Any], batch: Batch, padded: Callable[..., Batch], arm: str
) -> None:
    model = make(arm)
    plain = outputs(model, batch)
    for more in (padded(batch, 3, 0), padded(batch, 0, 2)):
        for name, after in outputs(model, more).items():
            same_part = tuple(slice(size) for size in plain[name].shape)  # without what is said of the new padding
            torch.testing.assert_close(after[same_part], plain[name])


@pytest.mark.parametrize("arm", ARMS)
def test_samples_of_a_batch_do_not_see_each_other(make: Callable[..., Any], batch: Batch, arm: str) -> None:
    model = make(arm)
    order = torch.tensor([2, 0])
    part = replace(
        batch,
        **{f.name: getattr(batch, f.name)[order] for f in fields(Batch) if f.name != "ids"},
        ids=["c", "a"],
    )
    together = outputs(model, batch)
    for name, alone in outputs(model, part).items():
        whole = together[name][order]
        if name == "score":  # of the targets of the batch
            whole = whole[:, order]
        torch.testing.assert_close(alone, whole[:, : alone.shape[1]])


@pytest.mark.parametrize("arm", ARMS)
def test_the_answer_depends_on_image_and_query(make: Callable[..., Any], batch: Batch, arm: str) -> None:
    model = make(arm)
    before = first(model, batch)
    for change in ({"features": batch.features.roll(1, 0)}, {"query": batch.query.roll(1, 0)}):
        assert not torch.allclose(first(model, replace(batch, **change)), before, atol=1e-2)


def test_the_target_embedding_sees_the_target_alone(make: Callable[..., Any], batch: Batch) -> None:
    model = make("vljepa")
    predicted, target = model.embed(batch)
    other = replace(batch, features=batch.features.roll(1, 0), query=batch.query.roll(1, 0))
    assert torch.equal(model.embed(other)[1], target)
    reworded = replace(batch, target=batch.target.roll(1, 0), target_mask=batch.target_mask.roll(1, 0))
    assert torch.equal(model.embed(reworded)[0], predicted)
    torch.testing.assert_close(model.embed(reworded)[1], target.roll(1, 0))


@pytest.mark.parametrize("arm", ARMS)
def test_text_alone_is_enough(make: Callable[..., Any], batch: Batch, arm: str) -> None:
    model = make(arm)
    blind = replace(batch, features=torch.zeros(4, 0, batch.features.shape[2]))
    for output in outputs(model, blind).values():
        assert torch.isfinite(output.float()).all()
    loss = build_objective(RunConfig(arm=arm))(model, blind).loss  # type: ignore[arg-type]
    loss.backward()
    assert model.backbone.token_embedding.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("arm", ARMS)
def test_a_saved_arm_answers_the_same(
    make: Callable[..., Any], config: RunConfig, batch: Batch, tmp_path: Path, arm: Any
) -> None:
    model, config = make(arm), replace(config, arm=arm)
    save_checkpoint(tmp_path, model, config, TextTokenizer.train(["x"], 259), {}, "card")
    checkpoint = load_checkpoint(tmp_path, RunConfig)
    loaded = build_arm(replace(checkpoint.config, seed=1), 10, 40, 5)
    assert not torch.equal(first(loaded, batch), first(model, batch))
    checkpoint.load_into(loaded)
    answers = outputs(loaded, batch)
    for name, answer in outputs(model, batch).items():
        assert torch.equal(answer, answers[name]), name


@pytest.fixture(scope="module")
def distinct(tiny_setup: Setup) -> tuple[Batch, list[str]]:
    """One batch of training examples, eight answers and two captions of ten images, and their texts, all different."""
    examples = tiny_setup.dataset["train"].examples
    chosen: dict[str, int] = {}
    for task, count in (("vqa", 8), ("caption", 10)):
        for row, example in enumerate(examples):
            images = {examples[other].image for other in chosen.values()}
            fresh = example.targets[0] not in chosen and example.image not in images
            if example.task == task and fresh and len(chosen) < count:
                chosen[example.targets[0]] = row
    assert len(chosen) == 10
    return tiny_setup.collator("train")(np.array(list(chosen.values()))), list(chosen)


def overfit(config: RunConfig, setup: Setup, batch: Batch, steps: int) -> Any:
    model = build_arm(config, setup.encoder.width, setup.tokenizer.vocab_size, len(setup.answers))
    objective = build_objective(config)
    optimizer = adamw(model, objective, config=OptimizerConfig(weight_decay=0.0))
    fit(model, objective, lambda step: batch, optimizer, steps=steps, schedule=lambda step: 0.01, gradient_clip=1.0)
    return model.eval()


def test_the_token_arm_learns_one_batch_by_heart(
    tiny_config: RunConfig, tiny_setup: Setup, distinct: tuple[Batch, list[str]]
) -> None:
    batch, texts = distinct
    arm = overfit(replace(tiny_config, arm="token"), tiny_setup, batch, 120)
    readout = TokenReadout(arm, tiny_setup.tokenizer, 64)
    assert readout.speak(batch) == texts
    for scores in readout.choose(batch, texts).values():
        assert scores.argmax(1).tolist() == list(range(len(texts)))


def test_vljepa_learns_one_batch_by_heart_and_speaks_it(
    tiny_config: RunConfig, tiny_setup: Setup, distinct: tuple[Batch, list[str]]
) -> None:
    batch, texts = distinct
    arm = overfit(replace(tiny_config, arm="vljepa"), tiny_setup, batch, 300)
    readout = EmbeddingReadout(arm, tiny_setup.tokenizer, 64)
    assert readout.choose(batch, texts)["cosine"].argmax(1).tolist() == list(range(len(texts)))
    assert readout.decode(readout.text_vectors(texts)) == texts
    assert readout.speak(batch) == texts


def test_the_supervised_arm_learns_one_batch_by_heart(
    tiny_config: RunConfig, tiny_setup: Setup, distinct: tuple[Batch, list[str]]
) -> None:
    batch, _ = distinct
    answers = batch.meaning < len(tiny_setup.answers)
    batch = replace(batch, meaning=batch.meaning.masked_fill(~answers, -1))
    arm = overfit(replace(tiny_config, arm="supervised"), tiny_setup, batch, 60)
    with torch.no_grad():
        assert torch.equal(arm.class_logits(batch).argmax(1)[answers], batch.meaning[answers])
