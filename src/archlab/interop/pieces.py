"""SentencePiece models (arXiv 1808.06226) as tokenizers, where a checkpoint has no `tokenizer.json`: T5 and Marian.

T5's ids are those of its model, and behind them, backwards, those of its sentinels, which stand for stretches of text
that were left out in pretraining. Marian has a model for either language, whose pieces get their ids from one table
beside them. Its model of the target splits texts that nobody gives: putting pieces together needs none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sentencepiece import SentencePieceProcessor

from archlab.errors import UserError
from archlab.generate.codec import Encoded, Vocabulary

T5_MODEL, MARIAN_MODEL, MARIAN_TABLE = ("spiece.model", "source.spm", "vocab.json")
OPTIONS = "tokenizer_config.json"
_END, _UNKNOWN, _PADDING = "</s>", "<unk>", "<pad>"
_SPACE = "▁"
_LANGUAGE = r"\A>>.*?<<"  # asks a Marian of several target languages for one
_SENTINELS = 100  # of T5, where its configuration does not say


class PieceTokenizer(Vocabulary):
    """A SentencePiece model with a table of ids, which ends every text; see `generate.codec.Codec`.

    Args:
        model: splits texts into pieces.
        ids: of the pieces and of the special tokens.
        special: further special tokens.
        language: whether a text may begin with the language to translate it into.
    """

    def __init__(
        self,
        model: SentencePieceProcessor,
        ids: Mapping[str, int],
        special: Sequence[str] = (),
        *,
        language: bool = False,
    ) -> None:
        super().__init__(ids, special)
        self._model = model
        self._special = {_END, _UNKNOWN, _PADDING, *special}
        whole = [*([_LANGUAGE] if language else []), *map(re.escape, self._special)]
        self._whole = re.compile(f"({'|'.join(whole)})", re.DOTALL)

    def encode(self, text: str) -> Encoded:
        """See `Codec`: ids of the pieces, and the end."""
        pieces: list[str] = []
        for number, part in enumerate(self._whole.split(text)):  # every second part is a whole token
            pieces += [part] if number % 2 else self._model.encode(part, out_type=str)
        return Encoded([self._ids.get(piece, self._ids[_UNKNOWN]) for piece in [*pieces, _END]])

    def decode(self, ids: Sequence[int]) -> str:
        """See `Codec`."""
        tokens = [token for number in ids if (token := self._tokens.get(number)) is not None]
        # In front a piece that is no space, or else all spaces at the start would be lost instead of the first alone;
        # the model leaves pieces that it does not know as they are, those of Marian's target among them.
        text: str = self._model.decode_pieces(["x", *(token for token in tokens if token not in self._special)])
        return text[1:].replace(_SPACE, " ").removeprefix(" ")


def load_pieces(folder: Path, read: Callable[[Path], Mapping[str, Any]]) -> PieceTokenizer | None:
    """The tokenizer of a checkpoint's folder, None where there is no SentencePiece model.

    Args:
        read: a JSON file, empty where there is none.

    Raises:
        UserError: a file is damaged.
    """
    if (folder / T5_MODEL).is_file():
        model = _load(folder / T5_MODEL)
        size, count = model.get_piece_size(), read(folder / OPTIONS).get("extra_ids", _SENTINELS)
        if type(count) is not int:
            raise UserError(f"{folder}: extra_ids={count!r}: must be the number of sentinels; correct {OPTIONS}")
        sentinels = {f"<extra_id_{number}>": size + count - 1 - number for number in range(count)}
        pieces = {model.id_to_piece(number): number for number in range(size)}
        return PieceTokenizer(model, _checked(pieces, folder / T5_MODEL) | sentinels, list(sentinels))
    if (folder / MARIAN_MODEL).is_file():
        ids = _checked(read(folder / MARIAN_TABLE), folder / MARIAN_TABLE)
        return PieceTokenizer(_load(folder / MARIAN_MODEL), ids, language=True)
    return None


def _load(path: Path) -> SentencePieceProcessor:
    try:
        return SentencePieceProcessor(model_file=str(path))
    except (RuntimeError, OSError) as error:
        raise UserError(f"{path}: is damaged ({' '.join(str(error).split())}); download it again") from None


def _checked(ids: Mapping[str, Any], path: Path) -> dict[str, int]:
    missing = [token for token in (_END, _UNKNOWN) if token not in ids]
    if missing or not all(type(number) is int for number in ids.values()):
        problem = f"has no {missing[0]}" if missing else "holds ids that are no numbers"
        raise UserError(f"{path}: {problem}; take the tokenizer of the same checkpoint")
    return dict(ids)
