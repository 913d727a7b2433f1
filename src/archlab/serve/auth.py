"""API keys: who asks, and what for. Only hashes are stored, and they are compared in constant time.

A key is `archlab_ID_SECRET`. The secret has 256 random bits, so a plain SHA-256 protects it: nobody can try them all,
and a slow hash would only slow every request. The file of keys is read again when it changes, so that a revoked key
ends without a restart.
"""

import hashlib
import hmac
import json
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

import dacite

from archlab.errors import UserError
from archlab.train.folder import atomic_write

Scope = Literal["read", "write", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
MEANING: dict[Scope, str] = {
    "read": "ask the models and search",
    "write": "change collections",
    "admin": "load and unload models",
}
_PREFIX = "archlab"
_NO_HASH = hashlib.sha256(b"").hexdigest()


@dataclass(frozen=True, kw_only=True)
class ApiKey:
    """One entry of the file.

    Attributes:
        id: names the key in logs; part of the key itself.
        hash: SHA-256 of the secret, in hexadecimal digits.
        scopes: what the key may do.
        requests_per_second, burst: its own rate limit, instead of the settings'.
    """

    id: str
    hash: str
    scopes: tuple[Scope, ...]
    requests_per_second: float | None = None
    burst: int | None = None


class KeyFile:
    """The API keys in a file.

    Args:
        path: of the file, JSON.

    Raises:
        UserError: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp = self._read_stamp()
        self._keys = read_keys(path)

    def find(self, presented: str) -> ApiKey | None:
        """The entry of a key, None if there is none."""
        self._refresh()
        prefix, _, rest = presented.partition("_")
        name, _, secret = rest.rpartition("_")
        key = self._keys.get(name)
        # The same work whether or not the id exists.
        matches = hmac.compare_digest(digest(secret), key.hash if key else _NO_HASH)
        return key if matches and prefix == _PREFIX else None

    def holds(self, key: ApiKey) -> bool:
        """Whether an entry is still there, unchanged."""
        self._refresh()
        return self._keys.get(key.id) == key

    def _refresh(self) -> None:
        stamp = self._read_stamp()
        if stamp != self._stamp:
            try:
                self._keys = read_keys(self._path)
            except UserError:
                return  # half written or damaged: the keys known so far stay, and the next request looks again
            self._stamp = stamp

    def _read_stamp(self) -> tuple[int, int]:
        try:
            found = self._path.stat()
        except OSError:
            return (0, 0)
        return (found.st_mtime_ns, found.st_ino)


def read_keys(path: Path) -> dict[str, ApiKey]:
    """Id -> entry.

    Raises:
        UserError: the file cannot be read, or an entry is not valid.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["keys"]
        keys = [dacite.from_dict(ApiKey, entry, dacite.Config(strict=True, cast=[tuple])) for entry in entries]
    except OSError as error:
        raise UserError(f"API keys {path}: {error.strerror}; write the file with 'archlab keys create'") from None
    except (ValueError, KeyError, TypeError, dacite.DaciteError) as error:
        raise UserError(f"API keys {path}: damaged ({error}); write it with 'archlab keys create'") from None
    return {key.id: key for key in keys}


def create_key(
    path: Path,
    name: str,
    scopes: Sequence[Scope] = ("read",),
    requests_per_second: float | None = None,
    burst: int | None = None,
) -> str:
    """Add a key to a file, which is made if need be, readable by its owner alone.

    Args:
        path: of the file.
        name: id of the key.
        scopes: what it may do.
        requests_per_second, burst: its own rate limit.

    Returns:
        the key, which nothing can show again.

    Raises:
        UserError: the name is taken or has signs other than letters, digits and "-", or the file cannot be read.
    """
    if not name.replace("-", "").isalnum() or not name.isascii():
        raise UserError(f"key {name!r}: must be made of letters, digits and '-'")
    keys = read_keys(path) if path.exists() else {}
    if name in keys:
        raise UserError(f"key {name!r}: exists in {path}; revoke it first, or choose another name")
    secret = secrets.token_hex(32)
    keys[name] = ApiKey(
        id=name, hash=digest(secret), scopes=tuple(scopes), requests_per_second=requests_per_second, burst=burst
    )
    _write(path, keys)
    return f"{_PREFIX}_{name}_{secret}"


def revoke_key(path: Path, name: str) -> None:
    """Take a key out of a file.

    Raises:
        UserError: there is no such key.
    """
    keys = read_keys(path)
    if keys.pop(name, None) is None:
        raise UserError(f"key {name!r}: is not in {path}; its keys are {', '.join(keys) or 'none'}")
    _write(path, keys)


def digest(secret: str) -> str:
    """Hash of a secret, as it is stored."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


def _write(path: Path, keys: dict[str, ApiKey]) -> None:
    entries = [{name: value for name, value in asdict(key).items() if value is not None} for key in keys.values()]
    with atomic_write(path) as (partial,):
        partial.touch(mode=0o600)
        partial.write_text(json.dumps({"keys": entries}, indent=2) + "\n", encoding="utf-8")
