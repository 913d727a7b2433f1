"""Text in, text out: the engine between a tokenizer's two directions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

from torch import nn

from archlab.errors import UserError
from archlab.generate import engine
from archlab.generate.codec import Codec
from archlab.generate.conditioned import Conditioned, Translator
from archlab.generate.session import pad_left
from archlab.generate.settings import BeamSearch, Settings
from archlab.generate.speculative import speculate
from archlab.generate.streaming import Detokenizer, StopStrings
from archlab.models.protocols import Decoder


class TextGenerator:
    """Continues texts; with an encoder-decoder, writes the target of a source.

    Args:
        model: any decoder, or an encoder-decoder, whose prompts are sources.
        tokenizer: its own.
        settings: how.
        stop: strings before which a continuation ends.
        draft: see `engine.generate`.
        bos: id that stands for an empty prompt; None: an empty prompt is refused.
        start: id that every target of an encoder-decoder begins with; None: the model is a decoder.

    Raises:
        UserError: a stop string is empty, or stands beside beam search, which has no text to stop at; a draft model
            stands beside an encoder-decoder.
    """

    def __init__(
        self,
        model: Decoder | Translator,
        tokenizer: Codec,
        settings: Settings,
        *,
        stop: Sequence[str] = (),
        draft: Decoder | None = None,
        bos: int | None = None,
        start: int | None = None,
    ) -> None:
        if "" in stop:
            raise UserError("stop='': would end before the first character; leave it out")
        if stop and isinstance(settings.strategy, BeamSearch):
            raise UserError(f"stop={stop[0]!r}: beam search has no single text that could stop; leave one of them out")
        if start is not None and draft is not None:
            raise UserError("draft: guesses how a prompt goes on, and an encoder-decoder has a source; leave it out")
        self.model, self.tokenizer, self.settings = model, tokenizer, settings
        self.stop, self.draft, self.bos, self.start = stop, draft, bos, start

    def encode(self, prompt: str) -> list[int]:
        """Ids of a prompt, with the special tokens that its tokenizer puts around texts.

        Raises:
            UserError: the model knows no such token.
        """
        ids = self.tokenizer.encode(prompt).ids
        known = getattr(getattr(self.model, "config", None), "vocab_size", None)
        if known is not None and max(ids, default=0) >= known:
            token = self.tokenizer.id_to_token(max(ids))
            raise UserError(f"prompt: holds {token!r}, token {max(ids)}, and the model knows {known}; leave it out")
        return [self.bos] if not ids and self.bos is not None else ids

    def stream(self, prompt: str) -> Iterator[str]:
        """The continuation in pieces that are never empty; with beam search it is one piece.

        Raises:
            UserError: see `engine.generate`.
        """
        model, (ids,) = self._begin([prompt])
        writer = _Writer(self, ids)
        for token in self._tokens(model, ids):
            if piece := writer.push(token):
                yield piece
            if writer.ended:
                break
        if piece := writer.flush():
            yield piece

    def generate(self, prompts: Sequence[str]) -> list[str]:
        """The continuation of each prompt; without a draft model all are continued in one batch.

        Raises:
            UserError: see `engine.generate`.
        """
        if self.draft is not None:
            return ["".join(self.stream(prompt)) for prompt in prompts]
        model, ids = self._begin(prompts)
        writers = [_Writer(self, prompt) for prompt in ids]
        texts = ["" for _ in prompts]
        if isinstance(self.settings.strategy, BeamSearch):
            for sample, tokens in enumerate(engine.generate(model, ids, self.settings)):
                texts[sample] = "".join(map(writers[sample].push, tokens))
        else:
            ended: set[int] = set()
            for step in engine.stream(model, ids, self.settings, ended=ended):
                for sample, writer in enumerate(writers):
                    texts[sample] += writer.push(step[sample])
                    if writer.ended:
                        ended.add(sample)
        return [text + writer.flush() for text, writer in zip(texts, writers, strict=True)]

    def _begin(self, prompts: Sequence[str]) -> tuple[Decoder, list[list[int]]]:
        """A decoder and what it continues: the prompts, or the start of a target for each of them."""
        ids = [self.encode(prompt) for prompt in prompts]
        if self.start is None:
            return cast(Decoder, self.model), ids
        device = next(cast(nn.Module, self.model).parameters()).device
        return Conditioned(cast(Translator, self.model), *pad_left(ids, device)), [[self.start] for _ in ids]

    def _tokens(self, model: Decoder, prompt: Sequence[int]) -> Iterator[int]:
        if isinstance(self.settings.strategy, BeamSearch):
            yield from engine.generate(model, [prompt], self.settings, draft=self.draft)[0]
        elif self.draft is not None:
            yield from speculate(model, self.draft, prompt, self.settings)
        else:
            for tokens in engine.stream(model, [prompt], self.settings):
                yield from tokens


class _Writer:
    """The text of one continuation; `ended` after a token or a string that ends it, when there is no more text."""

    def __init__(self, generator: TextGenerator, prompt: Sequence[int]) -> None:
        self._text, self._stop = Detokenizer(generator.tokenizer, prompt), StopStrings(generator.stop)
        self._eos = generator.settings.eos
        self.ended = False

    def push(self, token: int) -> str:
        """Certain text after a further token."""
        if self.ended:
            return ""
        if token in self._eos:
            self.ended = True
            return ""
        piece = self._stop.push(self._text.push(token))
        self.ended = self._stop.found
        return piece

    def flush(self) -> str:
        """The rest."""
        return self._stop.push(self._text.flush()) + self._stop.flush()
