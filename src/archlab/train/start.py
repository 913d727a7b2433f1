"""Begin a run with parts that are trained already: a hybrid's frozen VL-JEPA, a language prior, a target encoder."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from archlab.config import RunConfig
from archlab.errors import UserError
from archlab.models.llama import Llama
from archlab.train.checkpoint import load_checkpoint
from archlab.train.setup import Setup
from archlab.vl.arms import Arm, build_arm
from archlab.vl.language import LanguageBackbone

_OF_HYBRID = ("backbone", "head", "predictor", "target_encoder")


def begin(arm: Arm, config: RunConfig, setup: Setup) -> list[str]:
    """Give an untrained arm what its configuration says that it begins with.

    Returns:
        what else the run depends on now: digests of those weights.

    Raises:
        UserError: see `begin_with`; or the language model cannot be read.
    """
    digests = []
    if isinstance(arm.backbone, LanguageBackbone):
        from archlab.interop.checkpoint import load_pretrained, locate  # imports transformers, which takes seconds
        from archlab.interop.reference import digest_of

        language_model = load_pretrained(config.language.weights)
        assert isinstance(language_model, Llama)
        arm.backbone.begin(language_model)
        digests.append(digest_of(locate(config.language.weights)))
    return digests + (begin_with(arm, config, setup) if config.start.run else [])


def begin_with(arm: Arm, config: RunConfig, setup: Setup) -> list[str]:
    """Copy the weights of `config.start.run` into the parts of `arm` that `config.start.parts` names.

    Returns:
        what else the run depends on now: the digest of those weights.

    Raises:
        UserError: there is no such run, it read other features or tokens, or a part is missing or of another shape.
    """
    checkpoint = load_checkpoint(Path(config.start.run), RunConfig)
    problem = f"start.run={config.start.run!r}"
    if checkpoint.metrics.get("encoder_digest") != setup.encoder.digest:
        raise UserError(f"{problem}: read the features of another encoder; give a run of {config.encoder.weights!r}")
    ours = setup.tokenizer.tokenizer.to_str()
    if checkpoint.tokenizer is None or checkpoint.tokenizer.tokenizer.to_str() != ours:
        raise UserError(f"{problem}: has another tokenizer; train it on the same data with the same tokenizer section")
    parts = _OF_HYBRID if config.arm == "hybrid" else config.start.parts
    if "predictor" in parts and checkpoint.config.vljepa.predictor != config.vljepa.predictor:
        raise UserError(f"{problem}: was trained with another vljepa.predictor; give both runs the same one")
    classes = len(setup.answers)
    finished = build_arm(checkpoint.config, setup.encoder.width, setup.tokenizer.vocab_size, classes, setup.tokenizer)
    checkpoint.load_into(finished)
    for name in parts:
        _copy(finished, arm, name, problem)
    return [checkpoint.digest()]


def _copy(source: nn.Module, destination: nn.Module, part: str, problem: str) -> None:
    ours, theirs = getattr(destination, part, None), getattr(source, part, None)
    if ours is None or theirs is None:
        whose = "this run" if ours is None else "that run"
        raise UserError(f"{problem}: {whose} has no {part}; name other start.parts")
    try:
        ours.load_state_dict(theirs.state_dict(), strict=True)
    except RuntimeError:
        raise UserError(f"{problem}: its {part} has another shape; give both runs the same sizes") from None
