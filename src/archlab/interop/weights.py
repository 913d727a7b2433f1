"""A declarative map between our parameter names and those of checkpoint files, strict in both directions."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from archlab.errors import UserError
from archlab.interop.transforms import Same, Transform

_SHOWN = 3  # names in one message


@dataclass(frozen=True)
class Rule:
    """Some of our tensors are some of theirs.

    Attributes:
        ours: our name or names, with placeholders as `{layer}`.
        theirs: theirs, with the same placeholders.
        transform: how the tensors differ.
    """

    ours: str | tuple[str, ...]
    theirs: str | tuple[str, ...]
    transform: Transform = field(default_factory=Same)

    def expand(self, values: Mapping[str, Iterable[Any]]) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
        """Our names and theirs for every combination of the placeholders' values."""
        ours, theirs = (names if isinstance(names, tuple) else (names,) for names in (self.ours, self.theirs))
        used = [name for name in values if any(f"{{{name}}}" in pattern for pattern in (*ours, *theirs))]
        for chosen in itertools.product(*(values[name] for name in used)):
            filled = dict(zip(used, chosen, strict=True))
            yield tuple(name.format(**filled) for name in ours), tuple(name.format(**filled) for name in theirs)


@dataclass(frozen=True)
class WeightMap:
    """All tensors of a model.

    Attributes:
        rules: each tensor of ours and of theirs is named by exactly one.
        values: placeholder -> what it stands for, such as `{"layer": range(12), "part": ("weight", "bias")}`.
        prefix: files may lack it, or have it in addition, depending on the class that wrote them.
        tied: names in files -> names of the tensors that they repeat; they may be missing, and are never written.
        zeros: names in files of parts that we do not have and that change nothing while they are zero; never written.
        ignored: patterns of names that are left out on purpose, such as heads that we do not have.
        renamed: ends of names in old files -> what they are now.
    """

    rules: tuple[Rule, ...]
    values: Mapping[str, Iterable[Any]]
    prefix: str = ""
    tied: Mapping[str, str] = field(default_factory=dict)
    zeros: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    renamed: Mapping[str, str] = field(default_factory=dict)

    def names(self) -> dict[str, tuple[str, ...]]:
        """Each of our names, and the names in files that it is made of."""
        return {name: theirs for _, ours, theirs in self._expanded() for name in ours}

    def from_hf(self, theirs: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
        """Our tensors of theirs.

        Args:
            theirs: tensors of a file; each is asked for once.
            shapes: what our model wants, by our names.

        Raises:
            UserError: tensors are missing, unexpected, of a wrong shape, or tied ones differ.
        """
        source = self.canonical(theirs)
        expected = {name for names in self.names().values() for name in names}
        problems = [
            _listed("missing", sorted(expected - source.keys())),
            _listed("unexpected", sorted(source.keys() - expected - self.tied.keys() - {*self.zeros})),
        ]
        _refuse(problems)
        ours: dict[str, Tensor] = {}
        for rule, our_names, their_names in self._expanded():
            tensors = tuple(theirs[source[name]] for name in their_names)
            try:
                made = rule.transform.to_ours(tensors)
                wrong = [tuple(tensor.shape) for tensor in made] != [tuple(shapes[name]) for name in our_names]
            except RuntimeError:
                wrong = True
            if wrong:
                had = ", ".join(f"{name} {tuple(t.shape)}" for name, t in zip(their_names, tensors, strict=True))
                want = ", ".join(f"{name} {tuple(shapes[name])}" for name in our_names)
                problems.append(f"wrong shape: {had} for {want}")
            else:
                ours |= zip(our_names, made, strict=True)
        problems += [
            f"{name} differs from {other}, to which the configuration ties it"
            for name, other in self.tied.items()
            if name in source and not torch.equal(theirs[source[name]], theirs[source[other]])
        ]
        problems += [
            f"{name} is not zero; it is not implemented"
            for name in self.zeros
            if name in source and bool(theirs[source[name]].any())
        ]
        _refuse(problems)
        return ours

    def to_hf(self, ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Their tensors of ours; those of `tied`, `zeros` and `ignored` are left out.

        Raises:
            UserError: tensors are missing or unexpected.
        """
        expected = self.names().keys()
        _refuse(
            [
                _listed("missing", sorted(expected - ours.keys())),
                _listed("unexpected", sorted(ours.keys() - expected)),
            ]
        )
        theirs: dict[str, Tensor] = {}
        for rule, our_names, their_names in self._expanded():
            made = rule.transform.to_theirs(tuple(ours[name] for name in our_names))
            theirs |= {name: tensor.contiguous() for name, tensor in zip(their_names, made, strict=True)}
        return theirs

    def canonical(self, theirs: Iterable[str]) -> dict[str, str]:
        """The name that this map uses -> the name in the file, without the ignored ones.

        Raises:
            UserError: two names in the file stand for one tensor.
        """
        known = {name for names in self.names().values() for name in names} | self.tied.keys() | {*self.zeros}
        source: dict[str, str] = {}
        for name in theirs:
            now = name
            for old, new in self.renamed.items():
                if name.endswith(old):
                    now = name.removesuffix(old) + new
            bare = now.removeprefix(self.prefix)
            if any(re.fullmatch(pattern, bare) for pattern in self.ignored):
                continue
            canonical = next((form for form in (now, self.prefix + now, bare) if form in known), name)
            if canonical in source:
                raise UserError(f"weights: {name} and {source[canonical]} are the same tensor; remove one of them")
            source[canonical] = name
        return source

    def _expanded(self) -> Iterator[tuple[Rule, tuple[str, ...], tuple[str, ...]]]:
        for rule in self.rules:
            for ours, theirs in rule.expand(self.values):
                yield rule, ours, theirs


def _listed(what: str, names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{what}: {', '.join(names[:_SHOWN])}{more}" if names else ""


def _refuse(problems: list[str]) -> None:
    problems = [problem for problem in problems if problem]
    if problems:
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise UserError(
            f"weights do not fit the configuration: {'; '.join(problems[:_SHOWN])}{more}; "
            f"take config.json and weights from the same checkpoint"
        )
