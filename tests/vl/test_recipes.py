"""Every committed recipe of an arm on the scenes: it learns and leaves alone what it should, and runs to its end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from archlab.compare.cost import parameter_counts
from archlab.compare.flops import BatchShape, Sizes, counted_flops, training_flops
from archlab.compare.trial import try_run
from archlab.config import CompareConfig, OptimizerConfig, PredictorConfig, RunConfig, StartConfig, build, read_yaml
from archlab.data.batch import Batch
from archlab.errors import UserError
from archlab.evaluate.readout import EmbeddingReadout, TokenReadout, speaking_readout
from archlab.train.loop import fit
from archlab.train.run import Run, build_objective, build_optimizer, load_run, train_run
from archlab.train.setup import Setup
from archlab.train.start import begin_with
from archlab.vl.arms import EmbeddingArm, EncoderDecoderArm, build_arm
from archlab.vl.backbone import positions_of
from archlab.vl.predictors import CrossPredictor

RECIPES = {
    path.stem: raw
    for path in sorted((Path(__file__).parents[2] / "03-vljepa-impl" / "configs").glob("*.yaml"))
    if (raw := read_yaml(path))["recipe"] == "arm" and "scenes" in raw["data"]
}
EMBEDDING = [name for name, raw in RECIPES.items() if raw["arm"] in ("vljepa", "hybrid")]
GENERATIVE = [name for name, raw in RECIPES.items() if raw["arm"] == "token"]
TRAINED = [name for name in EMBEDDING if name != "hybrid"]  # which train more than a decoder
EVERY: Any = pytest.mark.parametrize("name", RECIPES)
FEATURES, VOCABULARY = 10, 40


def of_recipe(name: str, config: RunConfig) -> RunConfig:
    """The recipe's arm at the sizes of `config`."""
    raw = RECIPES[name]
    own = build(RunConfig, {key: value for key, value in raw.items() if key in ("arm", "token", "vljepa", "start")})
    sizes = {key: getattr(config.vljepa, key) for key in ("embedding", "target", "decoder", "decoder_prefix")}
    return replace(config, arm=own.arm, token=own.token, start=own.start, vljepa=replace(own.vljepa, **sizes))


@pytest.fixture
def arm_of(config: RunConfig) -> Callable[[str], Any]:
    """`arm_of(name)`: the arm of a recipe, untrained and tiny."""
    return lambda name: build_arm(of_recipe(name, config), FEATURES, VOCABULARY, 5)


def part(batch: Batch, order: Tensor) -> Batch:
    chosen = {f.name: getattr(batch, f.name)[order] for f in fields(Batch) if f.name != "ids"}
    return replace(batch, **chosen, ids=[batch.ids[i] for i in order])


def answer(arm: Any, batch: Batch) -> Tensor:
    """What an arm says of image and query: logits of the target or the predicted embedding."""
    return arm.embed(batch)[0] if isinstance(arm, EmbeddingArm) else arm.logits(batch)


def gradients(arm: nn.Module, objective: nn.Module, batch: Batch) -> dict[str, Tensor]:
    torch.manual_seed(0)
    objective(arm, batch).loss.backward()
    return {name: p.grad for name, p in arm.named_parameters() if p.grad is not None}


def test_the_list_of_arms_is_whole() -> None:
    assert set(RECIPES) == {
        "token", "token-causal", "token-encoder-decoder", "vljepa", "vljepa-slow-target", "vljepa-frozen-target",
        "vljepa-cosine", "vljepa-l1", "vljepa-l2", "vljepa-sigreg", "vljepa-vicreg", "vljepa-cross-attention",
        "vljepa-hidden-vision", "vljepa-collapse", "clip", "hybrid",
    }  # fmt: skip


@EVERY
def test_recipes_are_a_few_lines_over_the_same_run(name: str) -> None:
    raw = RECIPES[name]
    assert {"recipe", "arm", "data", "optimizer"} <= raw.keys() <= {"recipe", "arm", "data", "optimizer"} | {
        "token", "vljepa", "start"
    }  # fmt: skip
    assert (raw["data"], raw["optimizer"]) == (RECIPES["vljepa"]["data"], RECIPES["vljepa"]["optimizer"])


@EVERY
def test_shapes(arm_of: Callable[[str], Any], batch: Batch, name: str) -> None:
    arm = arm_of(name)
    assert arm.pooled(batch.features, batch.query, batch.query_mask).shape == (4, 16)
    if isinstance(arm, EmbeddingArm):
        assert [embedding.shape for embedding in arm.embed(batch)] == [(4, 12), (4, 12)]
    else:
        assert arm.logits(batch).shape == (4, batch.target.shape[1] - 1, VOCABULARY)


@EVERY
def test_all_that_is_trained_learns_and_all_that_is_frozen_does_not(
    config: RunConfig, arm_of: Callable[[str], Any], batch: Batch, name: str
) -> None:
    arm, objective = arm_of(name), build_objective(of_recipe(name, config))
    found = gradients(arm, objective, batch)
    trainable = {name for name, parameter in arm.named_parameters() if parameter.requires_grad}
    assert {name for name, gradient in found.items() if gradient.abs().sum() > 0} == trainable
    parts = {parameter.split(".")[0] for parameter in trainable}
    assert ("target_encoder" in parts) == (
        name in ("vljepa", "vljepa-slow-target", "vljepa-sigreg", "vljepa-vicreg", "vljepa-cross-attention",
                 "vljepa-hidden-vision", "vljepa-collapse", "clip")
    )  # fmt: skip
    if name == "hybrid":
        assert parts == {"decoder"}
    elif name == "clip":
        own = {parameter for parameter in trainable if parameter.startswith("backbone.")}
        assert own == {"backbone.visual_projection.weight", "backbone.visual_projection.bias"}
    else:
        assert {"backbone"} < parts or name in GENERATIVE
        assert all(p.requires_grad for p in arm.backbone.parameters())


@EVERY
def test_a_step_of_the_optimiser_leaves_the_frozen_as_it_was_bit_for_bit(
    config: RunConfig, arm_of: Callable[[str], Any], batch: Batch, name: str
) -> None:
    arm, recipe = arm_of(name), of_recipe(name, config)
    objective = build_objective(recipe)
    before = {key: tensor.clone() for key, tensor in arm.state_dict().items()}
    optimizer = build_optimizer(recipe, arm, objective)
    fit(arm, objective, lambda step: batch, optimizer, steps=2, schedule=lambda step: 0.01)
    for key, parameter in arm.named_parameters():
        assert torch.equal(parameter, before[key]) != parameter.requires_grad, key


@EVERY
def test_samples_do_not_see_each_other_and_padding_says_nothing(
    arm_of: Callable[[str], Any], batch: Batch, padded: Callable[..., Batch], name: str
) -> None:
    arm = arm_of(name)
    plain, order = answer(arm, batch), torch.tensor([2, 0])
    torch.testing.assert_close(answer(arm, part(batch, order)), plain[order])
    torch.testing.assert_close(answer(arm, padded(batch, 3, 0)), plain)


@EVERY
def test_the_answer_depends_on_the_image_and_on_the_query_unless_there_is_no_predictor(
    arm_of: Callable[[str], Any], batch: Batch, name: str
) -> None:
    arm = arm_of(name)
    before = answer(arm, batch)
    other_image = replace(batch, features=batch.features.roll(1, 0))
    other_query = replace(batch, query=batch.query.roll(1, 0), query_mask=batch.query_mask.roll(1, 0))
    assert not torch.allclose(answer(arm, other_image), before, atol=1e-3)
    assert torch.equal(answer(arm, other_query), before) == (name == "clip")


@EVERY
def test_all_arms_of_a_seed_begin_with_the_same_backbone(arm_of: Callable[[str], Any], name: str) -> None:
    ours, vljepa = arm_of(name).backbone.state_dict(), arm_of("vljepa").backbone.state_dict()
    assert ours.keys() == vljepa.keys()
    assert all(torch.equal(tensor, vljepa[key]) for key, tensor in ours.items())


@pytest.mark.parametrize("name", TRAINED)
def test_variants_of_vljepa_begin_with_its_head_target_encoder_and_decoder(
    arm_of: Callable[[str], Any], name: str
) -> None:
    ours, vljepa = arm_of(name).state_dict(), arm_of("vljepa").state_dict()
    assert ours.keys() >= vljepa.keys()
    assert all(torch.equal(ours[key], tensor) for key, tensor in vljepa.items())


@EVERY
def test_a_training_step_costs_what_the_formula_says(config: RunConfig, batch: Batch, name: str) -> None:
    recipe = of_recipe(name, config)
    arm, objective = build_arm(recipe, FEATURES, VOCABULARY, 5), build_objective(recipe)
    shape = BatchShape(4, batch.features.shape[1], batch.query.shape[1], batch.target.shape[1])
    counted = counted_flops(lambda: objective(arm, batch).loss.backward())
    assert counted == sum(training_flops(recipe, Sizes(FEATURES, VOCABULARY, 5), shape).values())


@EVERY
def test_parameters_are_counted_whole_and_the_frozen_apart(arm_of: Callable[[str], Any], name: str) -> None:
    arm = arm_of(name)
    counts = parameter_counts(arm)
    assert counts["total"] == sum(p.numel() for p in arm.parameters())
    assert counts["trainable"] == sum(p.numel() for p in arm.parameters() if p.requires_grad)


@pytest.mark.parametrize("setting", ["causal", "unconditioned"])
def test_ablations_of_the_joint_predictor(config: RunConfig, batch: Batch, setting: str) -> None:
    own = replace(config.vljepa.predictor, attention="causal") if setting == "causal" else replace(
        config.vljepa.predictor, conditioned=False
    )  # fmt: skip
    ablated = replace(config, vljepa=replace(config.vljepa, predictor=own))
    arm: Any = build_arm(ablated, FEATURES, VOCABULARY, 5)
    seen: dict[str, Tensor] = {}
    arm.backbone.trunk.register_forward_hook(lambda _, args, out: seen.update(embeddings=args[0], states=out))
    predicted = answer(arm, batch)
    visual = batch.features.shape[1]
    if setting == "causal":
        (reached,) = torch.autograd.grad(seen["states"][:, 1].square().sum(), seen["embeddings"])
        assert (reached[:, 2:] == 0).all()
        assert (reached[:, :2].abs().sum(-1) > 0).all()
    else:
        assert seen["states"].shape[1] == visual
        assert torch.equal(answer(arm, replace(batch, query=batch.query.roll(1, 0))), predicted)
        assert not any(p.requires_grad for p in arm.backbone.token_embedding.parameters())
    shape = BatchShape(4, visual, batch.query.shape[1], batch.target.shape[1])
    counted = counted_flops(lambda: build_objective(ablated)(arm, batch).loss.backward())
    assert counted == sum(training_flops(ablated, Sizes(FEATURES, VOCABULARY, 5), shape).values())


def test_the_trunk_of_the_cross_attention_predictor_never_sees_the_image(
    arm_of: Callable[[str], Any], batch: Batch
) -> None:
    arm = arm_of("vljepa-cross-attention")
    read: list[Tensor] = []
    arm.backbone.trunk.register_forward_hook(lambda _, args, out: read.append(out))
    answer(arm, batch)
    answer(arm, replace(batch, features=batch.features.roll(1, 0)))
    assert torch.equal(*read)
    assert read[0].shape[1] == batch.query.shape[1]


def test_hidden_visual_tokens_are_not_seen_and_language_is(arm_of: Callable[[str], Any], batch: Batch) -> None:
    arm = arm_of("vljepa-hidden-vision")
    visible = torch.tensor([[True, False]] * 4)

    def rebuilt(batch: Batch) -> Tensor:
        return arm.reconstruct(batch.features, visible, batch.target, batch.target_mask)

    before = rebuilt(batch)
    assert before.shape == batch.features.shape
    hidden, seen = batch.features.clone(), batch.features.clone()
    hidden[:, 1] += 1
    seen[:, 0] += 1
    assert torch.equal(rebuilt(replace(batch, features=hidden)), before)
    assert not torch.allclose(rebuilt(replace(batch, features=seen)), before, atol=1e-3)
    reworded = replace(batch, target=batch.target.roll(1, 0), target_mask=batch.target_mask.roll(1, 0))
    assert not torch.allclose(rebuilt(reworded), before, atol=1e-3)


def test_the_predicted_embedding_never_sees_the_answer(arm_of: Callable[[str], Any], batch: Batch) -> None:
    for name in EMBEDDING:
        arm = arm_of(name)
        reworded = replace(batch, target=batch.target.roll(1, 0), target_mask=batch.target_mask.roll(1, 0))
        assert torch.equal(answer(arm, reworded), answer(arm, batch)), name


def test_an_encoder_decoder_reads_the_image_as_vljepa_does_and_the_answer_causally(
    arm_of: Callable[[str], Any], batch: Batch
) -> None:
    arm = arm_of("token-encoder-decoder")
    assert isinstance(arm, EncoderDecoderArm)
    states, mask = arm.backbone(batch.features, batch.query, batch.query_mask)
    memory = arm.read(batch.features, batch.query, batch.query_mask)
    assert torch.equal(memory.states, states)
    assert torch.equal(memory.states_mask, mask)
    changed = batch.target.clone()
    changed[:, 2] = 11
    before, after = arm.logits(batch), arm.logits(replace(batch, target=changed))
    assert torch.equal(before[:, :2], after[:, :2])
    assert not torch.allclose(before[:, 2], after[:, 2], atol=1e-3)


def test_an_encoder_decoder_scores_and_writes_what_its_logits_say(arm_of: Callable[[str], Any], batch: Batch) -> None:
    arm = arm_of("token-encoder-decoder")
    memory = arm.read(batch.features, batch.query, batch.query_mask)
    for _ in range(2):  # one reading serves any number of answers
        score = arm.score(memory, batch.target, batch.target_mask)  # (B, B, L - 1)
        own = arm.logits(batch).log_softmax(-1).gather(-1, batch.target[:, 1:, None])[..., 0]
        diagonal = score[torch.arange(4), torch.arange(4)]
        torch.testing.assert_close(diagonal, own * batch.target_mask[:, 1:])
        written = arm.generate(memory, 5, 1, 2)
    ids = torch.full((4, 1), 1)
    for _ in range(written.shape[1]):
        mask = torch.ones_like(torch.cat([ids, ids[:, :1]], 1), dtype=torch.bool)
        longer = replace(batch, target=torch.cat([ids, ids[:, :1]], 1), target_mask=mask)
        ids = torch.cat([ids, arm.logits(longer)[:, -1].argmax(-1)[:, None]], 1)
    ended = (written == 2).long().cumsum(1) - (written == 2).long() > 0
    assert torch.equal(written[~ended], ids[:, 1:][~ended])
    assert positions_of(memory.mask).shape == (4, 0)


@pytest.fixture(scope="module")
def distinct(tiny_setup: Setup) -> tuple[Batch, list[str]]:
    """Six questions about different images with different answers, and their texts."""
    examples, chosen = tiny_setup.dataset["train"].examples, {}
    for row, example in enumerate(examples):
        fresh = example.image not in {examples[other].image for other in chosen.values()}
        if example.task == "vqa" and example.targets[0] not in chosen and fresh and len(chosen) < 6:
            chosen[example.targets[0]] = row
    return tiny_setup.collator("train")(np.array(list(chosen.values()))), list(chosen)


@pytest.mark.parametrize("name", [name for name in RECIPES if name not in ("token", "vljepa", "hybrid")])
def test_every_recipe_learns_a_batch_by_heart(
    tiny_config: RunConfig, tiny_setup: Setup, distinct: tuple[Batch, list[str]], name: str
) -> None:
    batch, texts = distinct
    recipe = replace(of_recipe(name, tiny_config), optimizer=OptimizerConfig(weight_decay=0.0))
    arm: Any = build_arm(recipe, tiny_setup.encoder.width, tiny_setup.tokenizer.vocab_size, len(tiny_setup.answers))
    objective, torch_state = build_objective(recipe), torch.get_rng_state()
    torch.manual_seed(0)  # of the directions and of the hidden tokens
    optimizer = build_optimizer(recipe, arm, objective)
    fit(arm, objective, lambda step: batch, optimizer, steps=150, schedule=lambda step: 0.01, gradient_clip=1.0)
    torch.set_rng_state(torch_state)
    readout = speaking_readout(arm, tiny_setup.tokenizer, 64)
    scores = next(iter(readout.choose(batch, texts).values()))
    assert scores.argmax(1).tolist() == list(range(len(texts)))
    if isinstance(readout, TokenReadout):
        assert readout.speak(batch) == texts


def test_the_hybrids_decoder_learns_to_speak_a_frozen_models_predictions(
    tiny_config: RunConfig, tiny_setup: Setup, distinct: tuple[Batch, list[str]]
) -> None:
    """Even those of a model that knows nothing, whose predictions are nowhere near its target embeddings."""
    batch, texts = distinct
    recipe = of_recipe("hybrid", tiny_config)
    arm: Any = build_arm(recipe, tiny_setup.encoder.width, tiny_setup.tokenizer.vocab_size, 1)
    objective = build_objective(recipe)
    optimizer = build_optimizer(recipe, arm, objective)
    fit(arm, objective, lambda step: batch, optimizer, steps=200, schedule=lambda step: 0.01, gradient_clip=1.0)
    readout = speaking_readout(arm, tiny_setup.tokenizer, 64)
    assert isinstance(readout, EmbeddingReadout)
    assert readout.speak(batch) == texts
    assert readout.decode(readout.text_vectors(texts)) != texts


@pytest.mark.parametrize("name", [name for name in RECIPES if name not in ("token", "vljepa")])
def test_every_recipe_runs_to_scores_and_a_checkpoint_that_loads(
    tiny_config: RunConfig, tiny_setup: Setup, tiny_run: Callable[[str], Run], tmp_path: Path, name: str
) -> None:
    small = replace(
        tiny_config,
        optimizer=replace(tiny_config.optimizer, steps=2),
        evaluation=replace(tiny_config.evaluation, checkpoints=1, items=6),
    )
    recipe = of_recipe(name, small)
    if name == "hybrid":
        recipe = replace(recipe, start=StartConfig(run=str(tiny_run("vljepa").folder)))
    run = train_run(recipe, tiny_setup, tmp_path / "run", name)
    trial = try_run(run, tiny_setup, CompareConfig(run=recipe, test_items=6, pmi_gallery=2))
    assert {"vqa/accuracy", "caption/cider_d"} <= trial["test"].values.keys()
    assert ("decoder_ceiling" in trial) == ("nearest_caption" in trial) == (name in EMBEDDING)
    batch = tiny_setup.collator("test")(np.arange(4))
    with torch.no_grad():
        assert torch.equal(answer(load_run(run.folder, tiny_setup).arm, batch), answer(run.arm, batch))
        if name == "hybrid":  # frozen at what it began with, and its decoder is a new one
            vljepa: Any = tiny_run("vljepa").arm
            for key, tensor in vljepa.state_dict().items():
                assert torch.equal(run.arm.state_dict()[key], tensor) != (
                    key.startswith("decoder.") and tensor.std() > 0
                ), key


def test_a_run_begins_with_the_parts_it_names_and_no_others(
    tiny_config: RunConfig, tiny_setup: Setup, tiny_run: Callable[[str], Run]
) -> None:
    source = tiny_run("vljepa")
    config = replace(tiny_config, seed=5, start=StartConfig(run=str(source.folder), parts=["target_encoder"]))
    arm = build_arm(config, tiny_setup.encoder.width, tiny_setup.tokenizer.vocab_size, 1)
    fresh = {key: tensor.clone() for key, tensor in arm.state_dict().items()}
    (digest,) = begin_with(arm, config, tiny_setup)
    assert len(digest) == 64
    trained = source.arm.state_dict()
    for key, tensor in arm.state_dict().items():
        assert torch.equal(tensor, trained[key] if key.startswith("target_encoder.") else fresh[key]), key


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"start": StartConfig(run="nowhere")}, "checkpoint nowhere: config.yaml is missing"),
        ({"arm": "token", "start": ["head"]}, "this run has no head; name other start.parts"),
        ({"start": ["backbone"], "depth": 1}, "its backbone has another shape; give both runs the same sizes"),
        (
            {"start": ["predictor"], "kind": "none"},
            "was trained with another vljepa.predictor; give both runs the same",
        ),
        ({"start": ["backbone"], "vocabulary": 300}, "has another tokenizer; train it on the same data"),
    ],
)
def test_a_start_that_does_not_fit_is_refused_in_one_line(
    tiny_config: RunConfig, tiny_setup: Setup, tiny_run: Callable[[str], Run], change: dict[str, Any], message: str
) -> None:
    config, setup = replace(tiny_config, arm=change.get("arm", "vljepa")), tiny_setup
    start = change["start"]
    if isinstance(start, list):
        start = StartConfig(run=str(tiny_run("vljepa").folder), parts=start)
    config = replace(config, start=start, trunk=replace(config.trunk, depth=change.get("depth", config.trunk.depth)))
    if "kind" in change:  # which has no weights that could tell
        config = replace(config, vljepa=replace(config.vljepa, predictor=PredictorConfig(kind=change["kind"])))
    if "vocabulary" in change:
        setup = Setup.prepare(replace(config, tokenizer=replace(config.tokenizer, vocab_size=300)))
    arm = build_arm(config, setup.encoder.width, setup.tokenizer.vocab_size, 1)
    with pytest.raises(UserError, match=message) as caught:
        begin_with(arm, config, setup)
    assert "\n" not in str(caught.value)


def test_hidden_vision_asks_for_a_predictor_that_was_made_for_it(arm_of: Callable[[str], Any]) -> None:
    assert isinstance(arm_of("vljepa-hidden-vision").predictor, CrossPredictor)
    assert not hasattr(arm_of("vljepa-cross-attention").predictor, "mask_token")
