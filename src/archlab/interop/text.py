"""What a checkpoint knows about text beside its model: the tokenizer and the special tokens."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from archlab.errors import UserError
from archlab.generate.codec import Codec
from archlab.generate.settings import Rules
from archlab.interop.pieces import OPTIONS, load_pieces

TOKENIZER = "tokenizer.json"
_GENERATION = "generation_config.json"
_CONFIG = "config.json"


@dataclass(frozen=True, kw_only=True)
class Text:
    """Tokenizer and ids of special tokens.

    Attributes:
        tokenizer: None where there is none in the format of the `tokenizers` library or of SentencePiece.
        bos: begins a text.
        eos: each ends a text.
        pad: fills a batch.
        start: begins the target of an encoder-decoder.
        rules: of generation.
    """

    tokenizer: Codec | None = None
    bos: int | None = None
    eos: tuple[int, ...] = ()
    pad: int | None = None
    start: int | None = None
    rules: Rules = field(default_factory=Rules)

    def ids(self) -> dict[str, Any]:
        """The ids as `transformers` names them in its configurations."""
        eos: Any = self.eos[0] if len(self.eos) == 1 else list(self.eos) or None
        ids = {"bos_token_id": self.bos, "eos_token_id": eos, "pad_token_id": self.pad}
        return ids if self.start is None else ids | {"decoder_start_token_id": self.start}

    def generation(self) -> dict[str, Any]:
        """Ids and rules as `transformers` names them in `generation_config.json`."""
        rules = {
            "bad_words_ids": [[token] for token in self.rules.forbidden] or None,
            "forced_eos_token_id": self.rules.forced_end,
            "renormalize_logits": self.rules.renormalise or None,
        }
        return self.ids() | {name: value for name, value in rules.items() if value is not None}

    def write(self, paths: Sequence[Path]) -> None:
        """Write the files that `files` names to these paths."""
        contents = {_GENERATION: json.dumps(self.generation(), indent=2) + "\n"}
        if isinstance(self.tokenizer, Tokenizer):
            contents[TOKENIZER] = self.tokenizer.to_str(pretty=True)
            contents[OPTIONS] = json.dumps(self._options(self.tokenizer), indent=2) + "\n"
        for path, name in zip(paths, self.files(), strict=True):
            path.write_text(contents[name], encoding="utf-8")

    def files(self) -> list[str]:
        """Names of the files that `write` writes.

        Raises:
            UserError: the tokenizer is of another library than `tokenizers`.
        """
        if self.tokenizer is not None and not isinstance(self.tokenizer, Tokenizer):
            raise UserError("tokenizer: a SentencePiece model is not written; leave it out and copy its files")
        return [_GENERATION] if self.tokenizer is None else [_GENERATION, TOKENIZER, OPTIONS]

    def _options(self, tokenizer: Tokenizer) -> dict[str, Any]:
        first = {"bos_token": self.bos, "eos_token": self.eos[0] if self.eos else None, "pad_token": self.pad}
        named = {name: tokenizer.id_to_token(token) for name, token in first.items() if token is not None}
        return {"tokenizer_class": "PreTrainedTokenizerFast", **named}


def load_text(folder: Path) -> Text:
    """Tokenizer, special tokens and rules of a checkpoint's folder; what is not there is None or empty.

    Ids and rules are those of `generation_config.json`, else those of `config.json`.

    Raises:
        UserError: a file is damaged, or a rule is about words of several tokens.
    """
    general, special = _read(folder / _CONFIG), _read(folder / _GENERATION)

    def tokens(name: str) -> list[int]:
        found = special.get(name, general.get(name))
        listed = found if isinstance(found, list) else [found]
        if not all(token is None or type(token) is int for token in listed):
            raise UserError(f"{folder}: {name}={found!r}: must be the id of a token")
        return [token for token in listed if token is not None]

    def token(name: str) -> int | None:
        return next(iter(tokens(name)), None)

    eos = tuple(tokens("eos_token_id"))
    words = special.get("bad_words_ids", general.get("bad_words_ids")) or []
    if not all(isinstance(word, list) and len(word) == 1 and type(word[0]) is int for word in words):
        raise UserError(f"{folder}: bad_words_ids={words!r}: each must be a list of one id; remove the others")
    rules = Rules(
        forbidden=tuple(word[0] for word in words if word[0] not in eos),  # as `transformers`: a text may always end
        forced_end=token("forced_eos_token_id"),
        renormalise=special.get("renormalize_logits", general.get("renormalize_logits")) is True,
    )
    return Text(
        tokenizer=_tokenizer(folder),
        bos=token("bos_token_id"),
        eos=eos,
        pad=token("pad_token_id"),
        start=token("decoder_start_token_id"),
        rules=rules,
    )


def check_fits(text: Text, vocabulary: int) -> None:
    """Refuse a tokenizer or special tokens that a model does not know.

    Tokens that were added to a tokenizer may lie beyond the model's table, as those of Gemma for images do; a text that
    holds one is refused when it is read.

    Args:
        vocabulary: ids that the model has a vector of.

    Raises:
        UserError: so it is.
    """
    size = 0 if text.tokenizer is None else len(text.tokenizer.get_vocab(with_added_tokens=False))
    if size > vocabulary:
        raise UserError(
            f"the tokenizer has {size} tokens, more than the model's {vocabulary}; take both from the same checkpoint"
        )
    ids = {"bos_token_id": text.bos, "decoder_start_token_id": text.start, "forced_eos_token_id": text.rules.forced_end}
    ids |= {"bad_words_ids": max(text.rules.forbidden, default=None), "eos_token_id": max(text.eos, default=None)}
    for name, token in ids.items():
        if token is not None and not 0 <= token < vocabulary:
            raise UserError(f"{name}={token}: the model knows the ids 0 to {vocabulary - 1}; correct {_GENERATION}")


def _tokenizer(folder: Path) -> Codec | None:
    path = folder / TOKENIZER
    if not path.exists():
        return load_pieces(folder, _read)
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare `Exception`
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: is damaged ({reason}); download it again") from None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _read(path: Path) -> dict[str, Any]:
    """A JSON file, empty where there is none."""
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError:
        read = None
    if not isinstance(read, dict):
        raise UserError(f"{path}: is damaged; download it again")
    return read
