"""Cut validation and test images from data that brings none: by image, never by row, and the same on every machine."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping

from archlab.errors import UserError


def units(images: Iterable[tuple[str, str]]) -> dict[str, str]:
    """What must stay in one split: images of one group, and groups that share an image.

    Args:
        images: (fingerprint, group) of each row; an empty group joins nothing.

    Returns:
        fingerprint -> id of its unit, which does not depend on the order of the rows.
    """
    parent: dict[str, str] = {}

    def root(node: str) -> str:
        while parent.setdefault(node, node) != node:
            parent[node] = node = parent[parent[node]]
        return node

    fingerprints = set()
    for fingerprint, group in images:
        fingerprints.add(fingerprint)
        here = root(fingerprint)
        if group:
            parent[root(f"group {group}")] = here
    smallest: dict[str, str] = {}
    for fingerprint in sorted(fingerprints):
        smallest.setdefault(root(fingerprint), fingerprint)
    return {fingerprint: smallest[root(fingerprint)] for fingerprint in fingerprints}


def hold_out(unit_of: Mapping[str, str], shares: Mapping[str, float], seed: int, place: str) -> dict[str, str]:
    """Draw whole units into the splits of `shares`, in the order of a seeded hash of their ids.

    A unit that is larger than what a split still lacks stays in training, unless the split would be empty.

    Args:
        unit_of: fingerprint -> unit, of `units`.
        shares: split -> share of all images; their sum is below 1.
        place: what messages call the data.

    Returns:
        fingerprint -> split; "train" for what is left.

    Raises:
        UserError: a share is 0, or there are fewer units than splits.
    """
    for name, share in shares.items():
        if share <= 0:
            raise UserError(
                f"data.pairs.{name}_fraction={share}: {place} brings no {name} split, so it must be above 0; "
                f"give 0.1, or rows of that split"
            )
    sizes = Counter(unit_of.values())
    waiting = sorted(sizes, key=lambda unit: hashlib.sha256(f"{seed} {unit}".encode()).digest())
    if len(waiting) <= len(shares):
        raise UserError(
            f"{place}: {len(waiting)} images (or groups of images) cannot be cut into train, {' and '.join(shares)}; "
            f"at least {len(shares) + 1} must be usable"
        )
    split_of_unit: dict[str, str] = {}
    for name, share in shares.items():
        lacking = max(1, round(share * len(unit_of)))
        drawn = []
        for unit in waiting:
            if sizes[unit] <= lacking:
                drawn.append(unit)
                lacking -= sizes[unit]
        # Leave something for the splits that follow, training among them.
        later = len(shares) - len(set(split_of_unit.values()))
        drawn = drawn[: len(waiting) - later] or [min(waiting, key=sizes.__getitem__)]
        split_of_unit |= dict.fromkeys(drawn, name)
        waiting = [unit for unit in waiting if unit not in split_of_unit]
    return {fingerprint: split_of_unit.get(unit, "train") for fingerprint, unit in unit_of.items()}
