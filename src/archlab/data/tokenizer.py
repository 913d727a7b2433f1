"""Byte-pair tokenizer (through the `tokenizers` library): trained on the corpus, or a pretrained one by id or path."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from archlab.errors import UserError

PAD, BOS, EOS = "[PAD]", "[BOS]", "[EOS]"
# What pretrained tokenizers call the same three, in the order in which they are tried.
_ALIASES = {
    PAD: (PAD, "<pad>", "<|finetune_right_pad_id|>", "<|endoftext|>"),
    BOS: (BOS, "<s>", "<bos>", "<|begin_of_text|>", "[CLS]", "<|endoftext|>"),
    EOS: (EOS, "</s>", "<eos>", "<|end_of_text|>", "[SEP]", "<|endoftext|>"),
}


class TextTokenizer:
    """Texts to padded id arrays `[BOS] tokens [EOS]` and back.

    Attributes:
        pad_id, bos_id, eos_id: ids of the special tokens.
        vocab_size: number of ids, special tokens included.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        tokenizer.encode_special_tokens = True  # as text: a user's "[EOS]" must not end the sequence
        self.tokenizer = tokenizer
        self.pad_id, self.bos_id, self.eos_id = (self._special(name) for name in (PAD, BOS, EOS))
        self.vocab_size = tokenizer.get_vocab_size()

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> TextTokenizer:
        """Learn a byte-level BPE vocabulary of at most `vocab_size` entries; no text is ever out of vocabulary.

        Raises:
            UserError: `vocab_size` cannot hold the 256 bytes and the special tokens.
        """
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        if vocab_size < len(alphabet) + 3:
            raise UserError(
                f"tokenizer.vocab_size={vocab_size}: must be at least {len(alphabet) + 3} (bytes + 3 special)"
            )
        tokenizer = Tokenizer(models.BPE())
        tokenizer.normalizer = normalizers.NFC()
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[PAD, BOS, EOS],
            initial_alphabet=sorted(alphabet),
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
        return cls(tokenizer)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> TextTokenizer:
        """Read a `tokenizer.json`, or the one of a folder, or of a hub id.

        Raises:
            UserError: nothing readable is there.
        """
        place = Path(path)
        if place.is_dir():
            place = place / "tokenizer.json"
        try:
            return cls(Tokenizer.from_file(str(place)) if place.exists() else Tokenizer.from_pretrained(str(path)))
        except UserError:
            raise
        except Exception as error:  # the library raises bare `Exception`
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(f"tokenizer {path}: cannot be read ({reason}); give a tokenizer.json or a hub id") from None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `tokenizer.json` to `path`."""
        self.tokenizer.save(str(path))

    def encode(self, texts: Sequence[str], max_length: int) -> tuple[np.ndarray, np.ndarray]:
        """Encode and pad to the longest.

        Args:
            texts: B strings.
            max_length: longer texts lose tokens at the end; [EOS] always stays. At least 2.

        Returns:
            ids, int64 (B, L), and mask, bool (B, L), True at real tokens; L <= `max_length`.
        """
        rows = [[self.bos_id, *ids[: max_length - 2], self.eos_id] for ids in self.tokens(texts)]
        length = max((len(row) for row in rows), default=0)
        ids = np.full((len(rows), length), self.pad_id, dtype=np.int64)
        mask = np.zeros((len(rows), length), dtype=bool)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = row
            mask[i, : len(row)] = True
        return ids, mask

    def framed(self) -> Tokenizer:
        """The library's tokenizer, which puts [BOS] and [EOS] around every text, and no space before its first word."""
        framed = Tokenizer.from_str(self.tokenizer.to_str())
        framed.encode_special_tokens = True
        begin, end = (str(framed.id_to_token(token)) for token in (self.bos_id, self.eos_id))
        framed.post_processor = processors.TemplateProcessing(
            single=[begin, "$A", end], special_tokens=[(begin, self.bos_id), (end, self.eos_id)]
        )
        framed.decoder = decoders.Sequence([framed.decoder, decoders.Strip(" ", 1, 0)])
        return framed

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, all of them, without special tokens."""
        return [encoding.ids for encoding in self.tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the ids up to the first [EOS], special tokens left out."""
        kept = []
        for token in ids:
            if token == self.eos_id:
                break
            if token not in (self.pad_id, self.bos_id):
                kept.append(int(token))
        return self.tokenizer.decode(kept).strip()

    def _special(self, name: str) -> int:
        for alias in _ALIASES[name]:
            if (token := self.tokenizer.token_to_id(alias)) is not None:
                return int(token)
        raise UserError(f"tokenizer: has no {name} token; it must know one of {', '.join(_ALIASES[name])}")
