"""Real checkpoints in the format of `transformers`: a folder with `config.json` and weights, or a hub id."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoConfig, PretrainedConfig

from archlab.errors import UserError
from archlab.interop import pieces
from archlab.interop.family import Head
from archlab.interop.text import Text
from archlab.models.families.family import Family
from archlab.models.registry import family_of, find_by_model_type
from archlab.train.folder import atomic_write

_CONFIG = "config.json"
_SAFE, _PICKLED = "model.safetensors", "pytorch_model.bin"
_PACKAGE = "package:"
_INDEX = ".index.json"  # after the name of the weights: which tensor is in which shard
_DOWNLOADED = ("*.json", "*.safetensors", pieces.T5_MODEL, pieces.MARIAN_MODEL)
_OLDER = "pytorch_model*.bin"  # where there is nothing newer
_TWICE = "consolidated*"  # the same weights in the format of the model's authors


def load_pretrained(source: str | Path, *, head: str | None = None, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Our model with the weights of a checkpoint, in evaluation mode.

    Args:
        source: folder, or id on the Hugging Face hub.
        head: one of the family's `HEADS`, such as "masked-lm" of BERT; None: the family's own model.
        dtype: of the parameters.

    Raises:
        UserError: there is no such checkpoint, its family, one of its options or the head is not implemented, a file
            is missing or damaged, or the weights do not fit the configuration.
    """
    folder = locate(source)
    try:
        theirs = read_config(folder)
        family = find_by_model_type(theirs.model_type)
        config = family.interop.config_from_hf(theirs)
        kind = _head(family, head)
        with torch.device("meta"):
            shapes = {name: tensor.shape for name, tensor in kind.model(config, theirs).state_dict().items()}
        weights = kind.weights(config).from_hf(_weights(folder), shapes)
    except UserError as error:
        raise UserError(f"checkpoint {source}: {error}") from None
    model = kind.model(config, theirs).to(dtype)
    model.load_state_dict(weights, strict=True)
    return model.eval()


def save_pretrained(model: nn.Module, folder: Path, *, text: Text | None = None) -> None:
    """Write a checkpoint that `transformers` loads.

    Args:
        text: tokenizer and special tokens, where they are known; without them the configuration names none.

    Raises:
        UserError: the model belongs to no family, `transformers` cannot express it, or a checkpoint is there already.
    """
    extra = [] if text is None else text.files()
    names = (_CONFIG, _SAFE, _SAFE + _INDEX, _PICKLED, _PICKLED + _INDEX, *extra)
    there = [name for name in names if (folder / name).exists()]
    if there:
        raise UserError(f"output folder {folder}: holds {there[0]}; name another folder, or remove the checkpoint")
    family = family_of(model)
    theirs = family.interop.config_to_hf(model.config)
    with torch.device("meta"):
        theirs.architectures = [type(family.interop.reference(theirs)).__name__]
    theirs.dtype = next(model.parameters()).dtype
    weights = family.interop.weights(model.config).to_hf(
        {name: value.detach() for name, value in model.state_dict().items()}
    )
    if text is not None:
        for name, value in text.ids().items():
            setattr(theirs, name, value)
    written = [folder / name for name in (_CONFIG, _SAFE, *extra)]
    with atomic_write(*written) as (config_path, weights_path, *text_paths):
        config_path.write_text(theirs.to_json_string(), encoding="utf-8")
        save_file(weights, weights_path, metadata={"format": "pt"})
        if text is not None:
            text.write(text_paths)


def model_type_of(folder: Path) -> str:
    """The `model_type` in a checkpoint's folder.

    Raises:
        UserError: its configuration is missing, damaged, or names none.
    """
    model_type = read_json(folder / _CONFIG).get("model_type")
    if not isinstance(model_type, str):
        raise UserError(f"{_CONFIG} names no model_type; it must be written by transformers")
    return model_type


def read_config(folder: Path) -> PretrainedConfig:
    """The configuration in a checkpoint's folder, with the defaults of `transformers` for what it leaves out.

    Raises:
        UserError: it is missing, damaged, or of a family that is not implemented.
    """
    find_by_model_type(model_type_of(folder))
    try:
        return AutoConfig.for_model(**read_json(folder / _CONFIG))
    except Exception as error:  # validation raises errors of many classes, all about a value in the file
        raise UserError(f"{_CONFIG}: {' '.join(str(error).split())}") from None


def _head(family: Family, name: str | None) -> Head:
    if name is None:
        return Head(lambda config, _: family.model_class(config), family.interop.weights)
    heads: dict[str, Head] = getattr(family.interop, "HEADS", {})
    if name not in heads:
        raise UserError(f"head {name!r}: {family.name} has {', '.join(map(repr, heads)) or 'no heads'}")
    return heads[name]


class _Weights(Mapping[str, Tensor]):
    """Tensors of all weight files by name; each is read when it is asked for."""

    def __init__(self, files: Mapping[str, Any]) -> None:
        self.files = files  # name of a tensor -> the open file, or the tensors of a pickled one

    def __getitem__(self, name: str) -> Tensor:
        file = self.files[name]
        return file[name] if isinstance(file, dict) else file.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.files)

    def __len__(self) -> int:
        return len(self.files)


def _weights(folder: Path) -> _Weights:
    for single in (_SAFE, _PICKLED):
        if (folder / single).exists():
            names = [single]
        elif (folder / (single + _INDEX)).exists():
            shards = read_json(folder / (single + _INDEX)).get("weight_map")
            if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
                raise UserError(f"{single}{_INDEX} is damaged; download it again")
            names = sorted(set(shards.values()))
        else:
            continue
        files: dict[str, Any] = {}
        for name in names:
            opened = _open(folder, name)
            files |= dict.fromkeys(opened.keys(), opened)
        return _Weights(files)
    raise UserError(f"holds neither {_SAFE} nor {_PICKLED}; give the folder of a checkpoint of transformers")


def _open(folder: Path, name: str) -> Any:
    """One weight file: tensors by name, read lazily where the format can."""
    path = folder / name
    if Path(name).name != name or not path.is_file():
        raise UserError(f"{name} is missing; download it again")
    try:
        if path.suffix == ".safetensors":
            return safe_open(path, "pt")
        # weights_only: the file may come from anywhere, and unrestricted unpickling would run what it likes.
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{name} is damaged or cut short ({reason}); download it again") from None
    if not isinstance(tensors, dict) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise UserError(f"{name} holds no tensors by name; give the weights of a model")
    return tensors


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file of a checkpoint.

    Raises:
        UserError: it is missing, damaged or no mapping.
    """
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path.name} is missing; give the folder of a checkpoint of transformers") from None
    except ValueError:
        read = None
    if not isinstance(read, dict):
        raise UserError(f"{path.name} is damaged; download it again")
    return read


def locate(source: str | Path) -> Path:
    """The folder itself, or the downloaded copy of what the hub has under this id.

    Args:
        source: folder, hub id, or `package:NAME/PATH`, a folder that an installed Python package brings.

    Raises:
        UserError: there is neither.
    """
    if Path(source).is_dir():
        return Path(source)
    if str(source).startswith(_PACKAGE):
        return _packaged(str(source))
    if isinstance(source, Path) or len(source.split("/")) > 2 or source.startswith((".", "~", "/")):
        raise UserError(f"checkpoint {source}: no such folder; give a folder with {_CONFIG}, or a hub id")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(source, allow_patterns=list(_DOWNLOADED), ignore_patterns=[_TWICE]))
        if not any((folder / name).exists() for name in (_SAFE, _SAFE + _INDEX)):
            folder = Path(snapshot_download(source, allow_patterns=[_OLDER]))
        return folder
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"checkpoint {source}: no such folder, and the hub does not give it ({reason})") from None


def _packaged(source: str) -> Path:
    """The folder inside an installed package, which is not imported."""
    name, _, inside = source.removeprefix(_PACKAGE).partition("/")
    found = find_spec(name) if name.isidentifier() else None
    roots = [] if found is None else list(found.submodule_search_locations or ())
    for root in roots:
        if (Path(root) / inside).is_dir():
            return Path(root) / inside
    problem = f"has no folder {inside!r}" if roots else "is not installed"
    raise UserError(f"checkpoint {source}: the Python package {name!r} {problem}; give a folder or a hub id")
