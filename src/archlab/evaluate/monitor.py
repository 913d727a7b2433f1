"""Is the run learning? Collapse monitors, measured at every checkpoint of an embedding run, and an alarm in words.

The numbers travel with the scores of the learning curve, under names that begin with `PREFIX`, so that an interrupted
run keeps them; `split_curve` takes them out again before they are reported. Measuring draws no random numbers and
changes no weights: a run with monitors is the run without them, bit for bit.

Shape legend: n samples, N patches, E embedding, D features.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from archlab.data.batch import Collator
from archlab.data.device import to_device
from archlab.evaluate.collapse import (
    HEALTHY,
    NOT_ALIGNED,
    Target,
    alignment,
    centred_rank,
    diagnose,
    rankme,
    spread,
    uniformity,
)
from archlab.objectives.contrastive import MAX_SCALE, GivesEmbeddings, info_nce, same_meaning
from archlab.objectives.regression import DISTANCES
from archlab.progress import announce

if TYPE_CHECKING:
    from archlab.vl.encoder import Whitened

PREFIX = "monitor/"

_GRACE, _PATIENCE = 0.1, 0.5  # of the run
_ROWS = 256
_SEED = 0
_CPU = torch.device("cpu")
_IMAGES = 256
_IMAGES_AT_ONCE = 64  # the B of ln B for an encoder
_PATCHES = 8  # every so many patches are looked at
_NOISE = 0.3  # standard deviation, in units of the normalised image
_TEMPERATURES = np.geomspace(1 / MAX_SCALE, 20, 16)

Verdict = Callable[[Mapping[str, float]], str]


class Monitor:
    """Says in one line when something is wrong, once for every new complaint.

    Args:
        verdict: reads the numbers.
        steps: of the whole run.
    """

    def __init__(self, verdict: Verdict, steps: int) -> None:
        self.verdict, self.steps, self.said = verdict, steps, ""

    def __call__(self, step: int, scalars: Mapping[str, float]) -> dict[str, float]:
        """Look at the numbers of a checkpoint; returns them under their names in the curve."""
        words = self.verdict(scalars)
        alarm = words if rings(step, self.steps, words) else ""
        if alarm and alarm != self.said:
            announce(f"alarm at step {step}: {alarm}")
        self.said = alarm
        return {f"{PREFIX}{name}": value for name, value in scalars.items()}


def rings(step: int, steps: int, verdict: str) -> bool:
    """Whether a verdict is an alarm: none is in the first tenth of a run, and no lack of learning in its first half."""
    patience = _PATIENCE if verdict.startswith(NOT_ALIGNED) else _GRACE
    return step >= patience * steps and not verdict.startswith(HEALTHY)


def what_keeps_apart(target_encoder: nn.Module, objective: str) -> Target:
    """What could keep the targets apart that this encoder makes, trained by `EmbeddingArmConfig.objective`."""
    if not any(parameter.requires_grad for parameter in target_encoder.parameters()):
        return "frozen"
    return "unguarded" if objective in DISTANCES else "guarded"


def split_curve(
    curve: Sequence[dict[str, Any]], verdict: Verdict, steps: int
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Take the monitors out of a learning curve.

    Args:
        curve: points with "step" and "scores".
        steps: of the whole run.

    Returns:
        the curve of the scores alone, and "points" (the numbers of each step and what they mean) and "alarm", that of
        the last checkpoint, or None.
    """
    plain, points = [], []
    for point in curve:
        scores = {name: value for name, value in point["scores"].items() if not name.startswith(PREFIX)}
        watched = {name.removeprefix(PREFIX): point["scores"][name] for name in point["scores"] if name not in scores}
        plain.append({**point, "scores": scores})
        if not watched:  # of a run that was begun before there were monitors
            continue
        words = verdict(watched)
        points.append({"step": point["step"], **watched, "verdict": words, "alarm": rings(point["step"], steps, words)})
    alarm = points[-1]["verdict"] if points and points[-1]["alarm"] else None
    return plain, {"alarm": alarm, "points": points}


@torch.no_grad()
def watch_arm(
    arm: GivesEmbeddings, collator: Collator, batch_size: int, device: torch.device = _CPU
) -> dict[str, float]:
    """Numbers of paired embeddings, `evaluate.collapse.Diagnosis.scalars`, over a fixed sample of a split.

    Args:
        arm: in evaluation mode.
        batch_size: B, as in training but at least two; smaller where the split is, which must have two examples.
        device: where the arm is.
    """
    rows = np.random.default_rng(_SEED).permutation(len(collator.split.examples))[:_ROWS]
    size = min(max(batch_size, 2), len(rows))
    starts = range(0, len(rows) - size + 1, size)
    batches = [to_device(collator(rows[start : start + size]), device) for start in starts]
    pairs = [arm.embed(batch) for batch in batches]
    loss = lowest_loss([(*pair, same_meaning(batch.meaning)) for pair, batch in zip(pairs, batches, strict=True)])
    predicted, target = (torch.cat(side).float().cpu().numpy() for side in zip(*pairs, strict=True))
    return diagnose(predicted, target, loss, size).scalars()


@torch.no_grad()
def watch_encoder(encoder: Whitened, images: Tensor, device: torch.device = _CPU) -> dict[str, float]:
    """Numbers of an encoder's states, before they are whitened, which would hide a collapse.

    Args:
        images: as the encoder reads them, (n, C, H, W), two or more.
        device: where the encoder is.

    Returns:
        `deviation` per dimension, `spread` and `uniformity` of the mean states of images; `rank` and `rankme` of the
        states of patches;
        `alignment` of images and the same with noise; `loss`, InfoNCE between both about their mean, and `log_batch`,
        its value where no image is told from another; `allowed_rank`.
    """
    images = images[:_IMAGES]
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(_SEED)) * _NOISE
    states = encoder.raw(images.to(device)).cpu()  # (n, N, D)
    noisy = encoder.raw((images + noise).to(device)).mean(1).cpu()  # (n, D)
    pooled, centre = states.mean(1), states.mean((0, 1))
    size = min(_IMAGES_AT_ONCE, len(images))
    own = torch.eye(size, dtype=torch.bool)
    batches = [slice(start, start + size) for start in range(0, len(images) - size + 1, size)]
    loss = lowest_loss([(noisy[batch] - centre, pooled[batch] - centre, own) for batch in batches])
    patches = states.flatten(0, 1)[::_PATCHES].numpy()
    return {
        "deviation": float(pooled.numpy().std(0).mean()),
        "spread": spread(pooled.numpy()),
        "uniformity": uniformity(pooled.numpy()),
        "rank": centred_rank(patches),
        "rankme": rankme(patches),
        "alignment": alignment(noisy.numpy(), pooled.numpy()),
        "loss": loss,
        "log_batch": math.log(size),
        "allowed_rank": float(min(patches.shape[1], len(patches) - 1)),
    }


def lowest_loss(batches: Sequence[tuple[Tensor, Tensor, Tensor]]) -> float:
    """InfoNCE of paired embeddings at the temperature that suits them best: at most about ln B.

    A fixed one would not do: what was not trained by InfoNCE is not made for it, and at the temperature that training
    has learned, validation can be above ln B although pairs are still told apart.

    Args:
        batches: predicted and target embeddings (B, E) and which of them belong together (B, B).
    """
    return min(
        math.fsum(float(sum(info_nce(predicted, target, 1 / temperature, positives)) / 2)
                  for predicted, target, positives in batches) / len(batches)
        for temperature in _TEMPERATURES
    )  # fmt: skip
