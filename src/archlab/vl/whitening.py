"""The linear map that gives features mean 0 and as much variance in every direction.

Shape legend: M samples, D features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from archlab.errors import UserError
from archlab.train.folder import atomic_write

_LEAST_SHRINKAGE = 1e-3  # in units of a feature's variance: a direction without any must not become noise
_OF = "fitted on"


def zca(states: Tensor, shrunk: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Weight (D, D) and bias (D) of the map that whitens states (M, D), in their precision.

    Whitening is that of the correlations (ZCA-cor, arXiv 1512.00809): each feature stays as close to itself as it can.

    Args:
        shrunk: variances (D) of all directions, in units of a feature's -> what they are taken for.
    """
    mean, deviation = states.mean(0), states.std(0).clamp(min=1e-6)
    values, vectors = torch.linalg.eigh(((states - mean) / deviation).T.cov())
    weight = vectors @ torch.diag(shrunk(values.clamp(min=0)).rsqrt()) @ vectors.T / deviation
    return weight, -weight @ mean


@dataclass(frozen=True)
class Whitening:
    """A fitted map.

    Attributes:
        weight: (D, D).
        bias: (D).
        fitted_on: digest of what it was fitted on.
    """

    weight: Tensor
    bias: Tensor
    fitted_on: str

    @classmethod
    def fit(cls, states: Tensor, fitted_on: str) -> Whitening:
        """Whiten as far as the sample supports it: from few states the correlations are mostly noise.

        Correlations are shrunk towards none by what Ledoit and Wolf found best (2004, "A well-conditioned estimator");
        shrunk all the way, each feature is standardised on its own.

        Args:
            states: (M, D).
        """
        from sklearn.covariance import ledoit_wolf_shrinkage

        standard = (states - states.mean(0)) / states.std(0).clamp(min=1e-6)
        shrinkage = max(float(ledoit_wolf_shrinkage(standard.numpy(), assume_centered=True)), _LEAST_SHRINKAGE)
        weight, bias = zca(states.double(), lambda values: (1 - shrinkage) * values + shrinkage)
        return cls(weight.float(), bias.float(), fitted_on)

    @classmethod
    def load(cls, path: Path) -> Whitening:
        """Read what `save` wrote.

        Raises:
            UserError: the file is missing or damaged.
        """
        try:
            with safe_open(path, "pt") as file:
                return cls(file.get_tensor("weight"), file.get_tensor("bias"), file.metadata()[_OF])
        except FileNotFoundError:
            raise UserError(f"{path}: is missing; restore it, or train the run again") from None
        except (SafetensorError, KeyError, TypeError) as error:
            raise UserError(f"{path}: is damaged ({error}); restore it, or train the run again") from None

    def save(self, path: Path) -> None:
        """Write it atomically."""
        with atomic_write(path) as (partial,):
            save_file({"weight": self.weight, "bias": self.bias}, partial, {_OF: self.fitted_on})

    def __call__(self, states: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        return F.linear(states, self.weight, self.bias)
