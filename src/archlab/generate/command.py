"""`archlab generate --model ID_OR_FOLDER PROMPT`: continue a text, or write the target of a source, on our code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from tokenizers import Tokenizer

from archlab.errors import UserError
from archlab.generate.compiled import CompiledDecoder
from archlab.generate.layout import lay_out
from archlab.generate.session import context
from archlab.generate.settings import BeamSearch, Sampling, Settings
from archlab.generate.text import TextGenerator
from archlab.interop.checkpoint import load_pretrained, locate, model_type_of
from archlab.interop.text import Text, check_fits, load_text
from archlab.models.families.family import Kind
from archlab.models.protocols import Decoder
from archlab.models.registry import FAMILIES, find_by_model_type

_GENERATES: tuple[Kind, ...] = ("decoder", "encoder-decoder")
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
) -> None:
    """Print the continuation, or the target, while it is made; options that are None have their defaults.

    Args:
        source: checkpoint, a folder or a hub id.
        draft: checkpoint of a draft model with the same vocabulary.
        compiled: compile the decoding step first.

    Raises:
        UserError: a checkpoint cannot be read or its family does not generate, or options exclude each other.
    """
    strategy = choose_strategy(beams, temperature, {"top_k": top_k, "top_p": top_p, "min_p": min_p, "seed": seed})
    folder = locate(source)
    check_generates(source, folder)
    text = load_text(folder)
    if text.tokenizer is None:
        raise UserError(f"checkpoint {source}: holds no tokenizer.json; save the tokenizer in the same folder")
    start = _start(source, folder, text)
    if start is not None and compiled:
        raise UserError("compile: compiles the steps of a language model, and this is an encoder-decoder; leave it out")
    guesser = None if draft is None else _draft(draft, text.tokenizer)
    model = _load(folder)
    try:
        check_fits(text, model.config.vocab_size)
    except UserError as error:
        raise UserError(f"checkpoint {source}: {error}") from None
    if compiled:
        model = CompiledDecoder(model)
    if max_new_tokens is None:
        begins = text.tokenizer.encode(prompt).ids if start is None else [start]
        max_new_tokens = _default_length(begins, [model, *([guesser] if guesser else [])])
    settings = Settings(
        max_new_tokens=max_new_tokens,
        eos=text.eos,
        repetition_penalty=1.0 if repetition_penalty is None else repetition_penalty,
        strategy=strategy,
        rules=text.rules,
    )
    generator = TextGenerator(model, text.tokenizer, settings, stop=stop, draft=guesser, bos=text.bos, start=start)
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


def check_generates(source: str, folder: Path, kinds: Sequence[Kind] = _GENERATES) -> None:
    """Refuse a checkpoint whose family does not write text, or not in one of these ways.

    Raises:
        UserError: so it is; it lists the families that do.
    """
    generates = {name: family for name, family in FAMILIES.items() if family.kind in kinds}
    model_type = model_type_of(folder)
    if not any(model_type in family.model_types for family in generates.values()):
        raise UserError(
            f"checkpoint {source}: model_type {model_type!r} does not continue text here; "
            f"the families that do: {', '.join(generates)}"
        )


def _start(source: str, folder: Path, text: Text) -> int | None:
    """The id that begins targets, as in `transformers` that of texts where none is named; None: it is a decoder."""
    if find_by_model_type(model_type_of(folder)).kind == "decoder":
        return None
    start = text.bos if text.start is None else text.start
    if start is None:
        raise UserError(f"checkpoint {source}: names no decoder_start_token_id; add it to generation_config.json")
    return start


def _load(folder: Path) -> Any:
    """The model, ready to generate."""
    model = load_pretrained(folder)
    lay_out(model)
    return model


def _default_length(prompt: Sequence[int], models: Sequence[Any]) -> int:
    """Most new tokens that all models can read after a prompt, within reason."""
    limits = [limit for model in models if (limit := context(model)) is not None]
    # The last token is not read any more. At least one: a prompt that is too long is refused where it is read.
    return max(1, min(_MOST_NEW_TOKENS, *(limit - max(1, len(prompt)) + 1 for limit in limits)))


def _draft(source: str, tokenizer: Tokenizer) -> Decoder:
    folder = locate(source)
    check_generates(source, folder, ("decoder",))
    other = load_text(folder).tokenizer
    if other is not None and other.get_vocab() != tokenizer.get_vocab():
        raise UserError(f"draft {source}: has another vocabulary than the model; give a draft model of the same kind")
    return cast(Decoder, _load(folder))
