"""`archlab generate --model ID_OR_FOLDER PROMPT`: continue a text, or write the target of a source, on our code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch

from archlab.data.device import DeviceName, find_device
from archlab.errors import UserError
from archlab.generate.compiled import CompiledDecoder
from archlab.generate.opening import Opened, Precision, open_model
from archlab.generate.session import context
from archlab.generate.settings import BeamSearch, Sampling, Settings
from archlab.generate.text import TextGenerator
from archlab.models.protocols import Decoder

_MOST_NEW_TOKENS = 128


def continue_text(
    source: str,
    prompt: str,
    *,
    max_new_tokens: int | None = None,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    seed: int | None = None,
    repetition_penalty: float | None = None,
    beams: int | None = None,
    stop: Sequence[str] = (),
    draft: str | None = None,
    compiled: bool = False,
    device: DeviceName = "auto",
    precision: Precision = "float32",
) -> None:
    """Print the continuation, or the target, while it is made; options that are None have their defaults.

    Args:
        source: checkpoint, a folder or a hub id, or a run of the recipe `characters` or `translation`.
        draft: one of a draft model with the same vocabulary.
        compiled: compile the decoding step first.
        device: where the models compute.
        precision: type of their parameters.

    Raises:
        UserError: a model cannot be read or does not generate, there is no such device, or options exclude each other.
    """
    strategy = choose_strategy(beams, temperature, {"top_k": top_k, "top_p": top_p, "min_p": min_p, "seed": seed})
    place = find_device(device, "device")
    opened = open_model(source, place, precision, sequences=beams or 1)
    model, tokenizer, text = opened.model, opened.tokenizer, opened.text
    if text.start is not None and compiled:
        raise UserError("compile: compiles the steps of a language model, and this is an encoder-decoder; leave it out")
    guesser = None if draft is None else _draft(draft, opened, place, precision)
    if compiled:
        model = CompiledDecoder(model)
    if max_new_tokens is None:
        begins = tokenizer.encode(prompt).ids if text.start is None else [text.start]
        max_new_tokens = _default_length(begins, [model, *([guesser] if guesser else [])])
    settings = Settings(
        max_new_tokens=max_new_tokens,
        eos=text.eos,
        repetition_penalty=1.0 if repetition_penalty is None else repetition_penalty,
        strategy=strategy,
        rules=text.rules,
    )
    generator = TextGenerator(model, tokenizer, settings, stop=stop, draft=guesser, bos=text.bos, start=text.start)
    for piece in generator.stream(prompt):
        print(piece, end="", flush=True)
    print()


def choose_strategy(
    beams: int | None, temperature: float | None, restrictions: dict[str, float | None]
) -> Sampling | BeamSearch | None:
    """What the options ask for: sampling as soon as one of its options is given, else the likeliest token.

    Args:
        beams: one is no search.
        temperature: 0 asks for the likeliest token.
        restrictions: the other options of `Sampling`.

    Raises:
        UserError: an option would change nothing beside the others, or breaks its rule.
    """
    given = {name: value for name, value in restrictions.items() if value is not None}
    if beams is not None and (given or temperature):
        name, value = next(iter(given.items()), ("temperature", temperature))
        raise UserError(
            f"{name}={value}: is for sampling, beams={beams} looks for the likeliest; leave one of them out"
        )
    if temperature == 0 and given:
        name, value = next(iter(given.items()))
        raise UserError(f"{name}={value}: changes nothing at temperature 0; leave one of them out")
    if beams is not None:
        search = BeamSearch(beams=beams)
        return search if beams > 1 else None
    if temperature == 0 or (temperature is None and not given):
        return None
    options = {"temperature": 1.0 if temperature is None else temperature, **given}
    return Sampling(**options)  # type: ignore[arg-type]


def _default_length(prompt: Sequence[int], models: Sequence[Any]) -> int:
    """Most new tokens that all models can read after a prompt, within reason."""
    limits = [limit for model in models if (limit := context(model)) is not None]
    # The last token is not read any more. At least one: a prompt that is too long is refused where it is read.
    return max(1, min(_MOST_NEW_TOKENS, *(limit - max(1, len(prompt)) + 1 for limit in limits)))


def _draft(source: str, opened: Opened, device: torch.device, precision: Precision) -> Decoder:
    draft = open_model(source, device, precision, ("decoder",))
    if draft.tokenizer.get_vocab() != opened.tokenizer.get_vocab():
        raise UserError(f"draft {source}: has another vocabulary than the model; give a draft model of the same kind")
    return cast(Decoder, draft.model)
