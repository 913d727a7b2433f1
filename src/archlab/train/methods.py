"""The methods of pretraining: what each of them trains, with what, on what. Loop, data, probes and card are shared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from archlab.config import PretrainConfig
from archlab.models import ijepa, vjepa
from archlab.models.latent_prediction import LatentPredictor
from archlab.models.lejepa import LeJEPA
from archlab.models.mae import MaskedAutoencoder
from archlab.models.vit import ViT
from archlab.objectives.latent_prediction import LatentPrediction
from archlab.objectives.lejepa import LocalInvariance
from archlab.objectives.masked_autoencoder import MaskedReconstruction
from archlab.train.averaging import WeightAverage
from archlab.train.ema import TargetAverage
from archlab.train.streams import ImageStream
from archlab.vl.encoder import encoder_config, vit_config

DESCRIPTIONS = {
    "mae": "Denoising masked autoencoder (arXiv 2111.06377)",
    "lejepa": "LeJEPA (arXiv 2511.08544) on local features",
    "ijepa": "I-JEPA (arXiv 2301.08243)",
    "vjepa": "V-JEPA (arXiv 2404.08471) on clips",
    "none": "No training, a control",
}


@dataclass(frozen=True)
class Method:
    """A method, ready to be trained.

    Attributes:
        model: what is trained; `encoder` is the part of it that is kept.
        objective, batches: model and batch of a step to a loss.
        average: moves the target encoder, where there is one.
    """

    model: nn.Module
    encoder: ViT | vjepa.Encoder
    objective: nn.Module
    batches: Callable[[int], Any]
    average: WeightAverage | None = None


def build_method(config: PretrainConfig, stream: ImageStream) -> Method:
    """The method that the configuration names; draws the weights from the global random state."""
    return _BUILDERS[config.method](config, stream)


def _masked_autoencoder(config: PretrainConfig, stream: ImageStream) -> Method:
    model = MaskedAutoencoder(vit_config(config), config.mae.decoder)
    return Method(model, model.encoder, MaskedReconstruction(config.mae.mask_ratio), stream)


def _lejepa(config: PretrainConfig, stream: ImageStream) -> Method:
    settings = config.lejepa
    model = LeJEPA(vit_config(config), settings.projector, settings.embedding)
    objective = LocalInvariance(settings.regularization, settings.reconstruction)
    return Method(model, model.encoder, objective, stream.views)


def _ijepa(config: PretrainConfig, stream: ImageStream) -> Method:
    encoder = ViT(vit_config(config))
    predictor = ijepa.Predictor(encoder.config, config.jepa.predictor)
    return _latent(config, encoder, predictor, LatentPrediction("smooth-l1"), stream.blocks)


def _vjepa(config: PretrainConfig, stream: ImageStream) -> Method:
    shape = encoder_config(config)
    assert isinstance(shape, vjepa.VJEPAConfig)
    return _latent(config, vjepa.Encoder(shape), vjepa.Predictor(shape), LatentPrediction("l1"), stream.tubes)


def _latent(
    config: PretrainConfig,
    encoder: ViT | vjepa.Encoder,
    predictor: nn.Module,
    objective: nn.Module,
    batches: Callable[[int], Any],
) -> Method:
    """What I-JEPA and V-JEPA share. The average is what is kept: it is the better of the two, as both papers found."""
    settings = config.jepa
    model = LatentPredictor(encoder, predictor, trained_target=settings.target == "trained")
    average = TargetAverage(settings.momentum, config.optimizer.steps) if settings.target == "ema" else None
    kept: Any = model.target
    return Method(model, kept, objective, batches, average)


def _untrained(config: PretrainConfig, stream: ImageStream) -> Method:
    encoder = ViT(vit_config(config))
    return Method(encoder, encoder, nn.Identity(), stream)


_BUILDERS: dict[str, Callable[[PretrainConfig, ImageStream], Method]] = {
    "mae": _masked_autoencoder,
    "lejepa": _lejepa,
    "ijepa": _ijepa,
    "vjepa": _vjepa,
    "none": _untrained,
}
