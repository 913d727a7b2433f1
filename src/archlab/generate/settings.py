"""How a model continues a prompt: how much, what ends it, and how each token is chosen."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from archlab.config import Section
from archlab.rules import Count, Finite, Natural, Positive, PositiveShare, Share


@dataclass(frozen=True, kw_only=True)
class Sampling(Section):
    """Draw each token from the model's distribution, restricted in the order of the options."""

    temperature: Positive = 1.0
    """Logits are divided by it."""
    top_k: Natural = 0
    """Keep the likeliest tokens, as many; 0 keeps all."""
    top_p: PositiveShare = 1.0
    """Keep the likeliest tokens whose probabilities first add up to this (arXiv 1904.09751, section 3.1)."""
    min_p: Share = 0.0
    """Keep the tokens at least this fraction as likely as the likeliest one (arXiv 2407.01082, section 3)."""
    seed: Natural = 0


@dataclass(frozen=True, kw_only=True)
class BeamSearch(Section):
    """Look for the likeliest continuation; see `generate.beam`."""

    beams: Count = 4
    """Continuations that are kept side by side."""
    length_penalty: Finite = 1.0
    """A finished continuation of n tokens scores log-probability / n^length_penalty."""
    early_stopping: bool | Literal["never"] = False
    """When a prompt is done. True: when there are as many finished continuations as beams; False: when also the best
    open one scores lower at its present length; "never": when it would at any length."""


@dataclass(frozen=True, kw_only=True)
class Rules(Section):
    """What a checkpoint asks of every generation with it, whatever the strategy; see `interop.text`."""

    forbidden: tuple[int, ...] = ()
    """Ids that are never chosen."""
    forced_end: int | None = None
    """Id of the last of `max_new_tokens`, where a continuation gets that far; None: any."""
    renormalise: bool = False
    """Whether in beam search the probabilities add up to one again after rules and penalty."""


@dataclass(frozen=True, kw_only=True)
class Settings(Section):
    """One way to generate."""

    max_new_tokens: Count = 128
    """Tokens after the prompt, the one that ends it included."""
    eos: tuple[int, ...] = ()
    """Ids each of which ends a continuation."""
    repetition_penalty: Positive = 1.0
    """Positive logits of tokens that were seen are divided by it, negative ones multiplied (arXiv 1909.05858, section
    4.1); the prompt counts. 1 changes nothing."""
    strategy: Sampling | BeamSearch | None = None
    """None takes the likeliest token."""
    rules: Rules = field(default_factory=Rules)
