"""What generation needs of a tokenizer, whichever library or class it is of."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


class Ids(Protocol):
    """An encoded text."""

    @property
    def ids(self) -> list[int]: ...


class Codec(Protocol):
    """Texts to ids and back; `tokenizers.Tokenizer` is one."""

    def encode(self, text: str, /) -> Ids:
        """Ids of a text, with the special tokens that belong around one."""
        ...

    def decode(self, ids: Sequence[int], /) -> str:
        """Text of ids; special tokens have none."""
        ...

    def id_to_token(self, token: int, /) -> str | None:
        """The token of an id, None where there is none."""
        ...

    def get_vocab(self, with_added_tokens: bool = True) -> dict[str, int]:
        """Token -> id."""
        ...


@dataclass(frozen=True)
class Encoded:
    """See `Ids`."""

    ids: list[int]


class Vocabulary:
    """What codecs that are no `tokenizers.Tokenizer` share: the table of tokens.

    Args:
        ids: token -> id.
        added: those that were added to the tokenizer when it was made.
    """

    def __init__(self, ids: Mapping[str, int], added: Collection[str] = ()) -> None:
        self._ids, self._added = dict(ids), frozenset(added)
        self._tokens = {number: token for token, number in ids.items()}

    def id_to_token(self, token: int) -> str | None:
        """See `Codec`."""
        return self._tokens.get(token)

    def get_vocab(self, with_added_tokens: bool = True) -> dict[str, int]:
        """See `Codec`."""
        return {token: i for token, i in self._ids.items() if with_added_tokens or token not in self._added}
