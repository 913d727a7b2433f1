"""Tokens to text piece by piece: whole characters only, and nothing of a text that ends the continuation."""

from __future__ import annotations

from collections.abc import Sequence

from archlab.generate.codec import Codec

_INCOMPLETE = "\ufffd"  # what decoders put for bytes that are no character (yet)
_CONTEXT = 6  # tokens of the prompt: enough for the decoder to see whether a space belongs before the first new one


class Detokenizer:
    """Text of each new token as soon as it is certain.

    A token may hold part of a character, and the text of a token may depend on the one before (a leading space). So the
    tokens since the last piece are decoded together with those of the last piece, and text that ends in an incomplete
    character is held back. Special tokens have no text.

    Args:
        tokenizer: of the model.
        prompt: ids that come before.
    """

    def __init__(self, tokenizer: Codec, prompt: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._ids = list(prompt[-_CONTEXT:])
        self._known = len(self._ids)  # tokens whose text is out

    def push(self, token: int) -> str:
        """The text that a further token makes certain; often that of this token, sometimes none."""
        self._ids.append(token)
        return self._piece(final=False)

    def flush(self) -> str:
        """What was held back; bytes that are no character come out as U+FFFD."""
        return self._piece(final=True)

    def _piece(self, *, final: bool) -> str:
        text = self._tokenizer.decode(self._ids)
        if text.endswith(_INCOMPLETE) and not final:
            return ""
        piece = text[len(self._tokenizer.decode(self._ids[: self._known])) :]
        if piece:
            self._ids = self._ids[self._known :]
            self._known = len(self._ids)
        return piece


class StopStrings:
    """Cuts a text that arrives in pieces where one of several strings begins, wherever the pieces are cut.

    Args:
        strings: none of them empty.
    """

    def __init__(self, strings: Sequence[str] = ()) -> None:
        self._strings = strings
        self._held = ""
        self.found = False

    def push(self, piece: str) -> str:
        """The text before a stop string that is certain now; `found` says whether one was there."""
        if self.found:
            return ""
        self._held += piece
        places = [(start + len(string), start) for string in self._strings if (start := self._held.find(string)) >= 0]
        if places:  # the one that is complete first, as if the text had come character by character
            self.found = True
            return self._held[: min(places)[1]]
        keep = max((self._overlap(string) for string in self._strings), default=0)
        end = len(self._held) - keep
        out, self._held = self._held[:end], self._held[end:]
        return out

    def flush(self) -> str:
        """What was held back because a stop string might have begun."""
        out, self._held = "" if self.found else self._held, ""
        return out

    def _overlap(self, string: str) -> int:
        """How many of the last characters are the first of `string`."""
        longest = min(len(string) - 1, len(self._held))
        return next((n for n in range(longest, 0, -1) if self._held.endswith(string[:n])), 0)
