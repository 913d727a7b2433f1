"""I-JEPA and V-JEPA: what is predicted from what, against a naive loop, and what no mask may let through."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archlab.config import TransformerConfig
from archlab.data.patch_masks import LONG_RANGE, SHORT_RANGE, PatchMasks, image_masks, tube_masks
from archlab.layers.embeddings import patchify
from archlab.models import ijepa, vjepa
from archlab.models.latent_prediction import LatentPredictor
from archlab.models.vit import ViT, ViTConfig
from archlab.objectives.latent_prediction import LatentPrediction

WIDE = TransformerConfig(width=24, depth=2, heads=2, feed_forward=48)
NARROW = TransformerConfig(width=16, depth=1, heads=2, feed_forward=32)
VIDEO = vjepa.VJEPAConfig(image_size=24, patch_size=4, transformer=WIDE, predictor=NARROW, mask_tokens=2)
IMAGE = ViTConfig(image_size=24, patch_size=4, transformer=WIDE, class_token=False, positions="sinusoidal")
DISTANCE = {"ijepa": "smooth-l1", "vjepa": "l1"}
BOTH: Any = pytest.mark.parametrize("kind", ["ijepa", "vjepa"])


def model_of(kind: str, **options: Any) -> LatentPredictor:
    torch.manual_seed(0)
    if kind == "ijepa":
        encoder: nn.Module = ViT(IMAGE)
        predictor: nn.Module = ijepa.Predictor(IMAGE, NARROW)
    else:
        encoder, predictor = vjepa.Encoder(VIDEO), vjepa.Predictor(VIDEO)
    model = LatentPredictor(encoder, predictor, **options)
    # The usual start would leave all states nearly alike, and norms without gain and bias could not be told from none.
    for parameter in model.parameters():
        nn.init.normal_(parameter, mean=float(parameter.dim() == 1), std=0.2)
    return model


def batch_of(kind: str, samples: int = 2) -> Any:
    generator = np.random.default_rng(0)
    torch.manual_seed(1)
    if kind == "ijepa":
        return SimpleNamespace(inputs=torch.randn(samples, 3, 24, 24), masks=[image_masks(samples, (6, 6), generator)])
    masks = [tube_masks(samples, (6, 6), 2, way, generator) for way in (SHORT_RANGE, LONG_RANGE)]
    return SimpleNamespace(inputs=torch.randn(samples, 4, 3, 24, 24), masks=masks)


def objective_of(kind: str) -> LatentPrediction:
    return LatentPrediction(DISTANCE[kind])  # type: ignore[arg-type]


def changed(kind: str, inputs: Tensor, patches: list[int]) -> Tensor:
    """The same pictures with other pixels in these patches of the first sample."""
    other = inputs.clone()
    for patch in patches:
        tubelet, place = divmod(patch, 36)
        rows, columns = (slice(4 * at, 4 * at + 4) for at in divmod(place, 6))
        frames = () if kind == "ijepa" else (slice(2 * tubelet, 2 * tubelet + 2),)
        other[(0, *frames, slice(None), rows, columns)] += 3
    return other


@BOTH
def test_the_loss_equals_a_naive_loop_over_samples_ways_and_patches(kind: str) -> None:
    model, batch = model_of(kind), batch_of(kind)
    found = objective_of(kind)(model, batch).loss
    ways = []
    for number, masks in enumerate(batch.masks):
        errors = []
        for sample in range(2):
            one = batch.inputs[sample : sample + 1]
            whole = model.target(one)[0]
            context = masks.context[sample : sample + 1]
            given = model.encoder(one, context)
            for wanted in masks.targets[sample]:
                predicted = model.predictor.fill(given, context, wanted[None], mask_token=number)[0]
                for row, place in zip(predicted, wanted, strict=True):
                    state = whole[place]
                    truth = (state - state.mean()) / (state.var(unbiased=False) + 1e-5).sqrt()
                    error = (row - truth).abs()
                    if kind == "ijepa":
                        error = torch.where(error < 1, error.square() / 2, error - 0.5)
                    errors.append(error.mean())
        ways.append(torch.stack(errors).mean())
    torch.testing.assert_close(found, torch.stack(ways).mean())


@BOTH
def test_targets_get_no_gradient_and_everything_else_does(kind: str) -> None:
    model = model_of(kind)
    objective_of(kind)(model, batch_of(kind)).loss.backward()
    assert model.average is not None
    assert all(parameter.grad is None for parameter in model.average.parameters())
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert learning == {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert {name.split(".")[0] for name in learning} == {"encoder", "predictor"}


@BOTH
def test_a_trained_target_gets_the_gradient_that_the_average_is_spared(kind: str) -> None:
    """The negative control: without a copy, the encoder also learns to be predictable."""
    batch, free, stopped = batch_of(kind), model_of(kind, trained_target=True), model_of(kind)
    assert free.average is None
    assert free.target is free.encoder
    stopped.average.load_state_dict(stopped.encoder.state_dict())  # type: ignore[union-attr]
    losses = [objective_of(kind)(model, batch).loss for model in (free, stopped)]
    torch.testing.assert_close(*losses)  # the same value
    for loss in losses:
        loss.backward()
    ours, theirs = (model.encoder.get_parameter("norm.bias").grad for model in (free, stopped))
    assert not torch.allclose(ours, theirs)  # and another gradient


@BOTH
def test_predictions_see_the_context_and_not_a_pixel_of_the_targets(kind: str) -> None:
    model, batch = model_of(kind), batch_of(kind)
    for masks in batch.masks:
        hidden = sorted(set(range(36 if kind == "ijepa" else 72)) - set(masks.context[0].tolist()))
        plain = model(batch.inputs, masks.context, masks.targets)
        assert torch.equal(model(changed(kind, batch.inputs, hidden), masks.context, masks.targets), plain)
        seen = model(changed(kind, batch.inputs, [int(masks.context[0, 0])]), masks.context, masks.targets)
        assert not torch.allclose(seen[0], plain[0])
        assert torch.equal(seen[1], plain[1])  # samples do not see each other


@BOTH
def test_no_gradient_flows_from_predictions_to_hidden_pixels(kind: str) -> None:
    model, batch = model_of(kind), batch_of(kind)
    for masks in batch.masks:
        inputs = batch.inputs.clone().requires_grad_()
        model(inputs, masks.context, masks.targets).square().sum().backward()
        pixels = inputs.grad if kind == "ijepa" else inputs.grad.unflatten(1, (2, 2)).transpose(2, 3).flatten(2, 3)
        felt = patchify(pixels if kind == "ijepa" else pixels.flatten(0, 1), 4).abs().sum(-1)  # (B, N) or (B * f, N)
        felt = felt.view(2, -1)
        expected = torch.zeros_like(felt, dtype=torch.bool).scatter(1, masks.context, True)
        assert torch.equal(felt > 0, expected)


@BOTH
def test_the_target_encoder_sees_the_whole_input_before_patches_are_selected(kind: str) -> None:
    """Other pixels outside the targets change the targets, which a target encoder of the selected patches would not."""
    model, batch = model_of(kind), batch_of(kind)
    masks = batch.masks[0]
    place = int(masks.context[0, 0])
    plain, other = model.targets(batch.inputs), model.targets(changed(kind, batch.inputs, [place]))
    wanted = masks.targets[0, 0]
    assert not torch.allclose(plain[0, wanted], other[0, wanted])
    torch.testing.assert_close(plain.mean(-1), torch.zeros(plain.shape[:2]), atol=1e-5, rtol=0)
    torch.testing.assert_close(plain.std(-1, unbiased=False), torch.ones(plain.shape[:2]), atol=1e-3, rtol=0)


@BOTH
def test_the_order_in_which_patches_are_given_does_not_matter_and_their_places_do(kind: str) -> None:
    model, batch = model_of(kind), batch_of(kind)
    masks = batch.masks[0]
    plain = model(batch.inputs, masks.context, masks.targets)
    torch.testing.assert_close(model(batch.inputs, masks.context.flip(1), masks.targets), plain)
    torch.testing.assert_close(model(batch.inputs, masks.context, masks.targets.flip(2)), plain.flip(2))
    given = model.encoder(batch.inputs, masks.context)
    wanted = masks.targets[:, 0]
    moved = model.predictor.fill(given, masks.context.flip(1), wanted, mask_token=0)  # states at others' places
    assert not torch.allclose(moved, plain[:, 0])


@BOTH
def test_each_set_of_targets_is_predicted_by_itself(kind: str) -> None:
    """What else is asked for tells a prediction nothing: not even where the other targets lie."""
    model, batch = model_of(kind), batch_of(kind)
    masks = batch.masks[0]
    together = model(batch.inputs, masks.context, torch.cat([masks.targets, masks.targets.roll(1, 2)], 1))
    alone = model(batch.inputs, masks.context, masks.targets[:, :1])
    torch.testing.assert_close(together[:, :1], alone)


def test_every_way_of_hiding_has_a_mask_token_of_its_own_in_v_jepa_alone() -> None:
    for kind, same in (("vjepa", False), ("ijepa", True)):
        model, batch = model_of(kind), batch_of(kind)
        masks: PatchMasks = batch.masks[0]
        first, second = (model(batch.inputs, masks.context, masks.targets, way) for way in (0, 1))
        assert torch.allclose(first, second) == same


def test_encoding_chosen_patches_of_a_clip_equals_the_blocks_over_them_alone() -> None:
    model = model_of("vjepa")
    clips, encoder = torch.randn(2, 4, 3, 24, 24), model.encoder
    everything = torch.arange(72).expand(2, -1)
    torch.testing.assert_close(encoder(clips, everything), encoder(clips))
    keep = torch.tensor([[3, 40, 71], [0, 1, 2]])
    x = encoder.patch_embedding(clips).gather(1, keep[..., None].expand(-1, -1, 24))
    for block in encoder.blocks:
        x = block(x, rotation=encoder.rotary(keep))
    torch.testing.assert_close(encoder(clips, keep), encoder.norm(x))


@BOTH
def test_a_tiny_model_learns_to_predict_in_bfloat16_with_finite_gradients(kind: str) -> None:
    model, batch, objective = model_of(kind), batch_of(kind), objective_of(kind)
    before = copy.deepcopy(model.average.state_dict())  # type: ignore[union-attr]
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for _ in range(30):
        with torch.autocast("cpu", torch.bfloat16):
            loss = objective(model, batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert loss.dtype == torch.float32
    assert losses[-1] < 0.9 * losses[0]
    assert all(torch.equal(before[name], tensor) for name, tensor in model.average.state_dict().items())  # type: ignore[union-attr]


def test_targets_are_layer_norms_without_gain() -> None:
    model = model_of("ijepa")
    images = torch.randn(1, 3, 24, 24)
    torch.testing.assert_close(model.targets(images), F.layer_norm(model.target(images), (24,)))
