"""What a checkpoint knows about text beside its model: the tokenizer and the special tokens."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from archlab.errors import UserError

TOKENIZER = "tokenizer.json"
_TOKENIZER_CONFIG = "tokenizer_config.json"
_GENERATION = "generation_config.json"
_CONFIG = "config.json"


@dataclass(frozen=True, kw_only=True)
class Text:
    """Tokenizer and ids of special tokens.

    Attributes:
        tokenizer: None where there is none in the format of the `tokenizers` library.
        bos: begins a text.
        eos: each ends a text.
        pad: fills a batch.
    """

    tokenizer: Tokenizer | None = None
    bos: int | None = None
    eos: tuple[int, ...] = ()
    pad: int | None = None

    def ids(self) -> dict[str, Any]:
        """The ids as `transformers` names them in its configurations."""
        eos: Any = self.eos[0] if len(self.eos) == 1 else list(self.eos) or None
        return {"bos_token_id": self.bos, "eos_token_id": eos, "pad_token_id": self.pad}

    def write(self, paths: Sequence[Path]) -> None:
        """Write the files that `files` names to these paths."""
        contents = {_GENERATION: json.dumps(self.ids(), indent=2) + "\n"}
        if self.tokenizer is not None:
            contents[TOKENIZER] = self.tokenizer.to_str(pretty=True)
            contents[_TOKENIZER_CONFIG] = json.dumps(self._tokenizer_config(), indent=2) + "\n"
        for path, name in zip(paths, self.files(), strict=True):
            path.write_text(contents[name], encoding="utf-8")

    def files(self) -> list[str]:
        """Names of the files that `write` writes."""
        return [_GENERATION] if self.tokenizer is None else [_GENERATION, TOKENIZER, _TOKENIZER_CONFIG]

    def _tokenizer_config(self) -> dict[str, Any]:
        assert self.tokenizer is not None
        first = {"bos_token": self.bos, "eos_token": self.eos[0] if self.eos else None, "pad_token": self.pad}
        named = {name: self.tokenizer.id_to_token(token) for name, token in first.items() if token is not None}
        return {"tokenizer_class": "PreTrainedTokenizerFast", **named}


def load_text(folder: Path) -> Text:
    """Tokenizer and special tokens of a checkpoint's folder; what is not there is None or empty.

    Ids are those of `generation_config.json`, else those of `config.json`.

    Raises:
        UserError: a file is damaged.
    """
    general, special = _read(folder / _CONFIG), _read(folder / _GENERATION)
    found = {name: special.get(name, general.get(name)) for name in Text().ids()}
    listed = {name: value if isinstance(value, list) else [value] for name, value in found.items()}
    for name, tokens in listed.items():
        if not all(token is None or type(token) is int for token in tokens):
            raise UserError(f"{folder}: {name}={found[name]!r}: must be the id of a token")
    eos = tuple(token for token in listed["eos_token_id"] if token is not None)
    bos, pad = (next(iter(listed[name]), None) for name in ("bos_token_id", "pad_token_id"))
    return Text(tokenizer=_tokenizer(folder), bos=bos, eos=eos, pad=pad)


def _tokenizer(folder: Path) -> Tokenizer | None:
    path = folder / TOKENIZER
    if not path.exists():
        return None
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
