"""One reference set for captions at every setting of the paraphrase dial."""

from __future__ import annotations

from dataclasses import replace

from archlab.data.example import Split
from archlab.data.scenes.language import in_all_forms
from archlab.train.setup import Setup


def with_all_references(setup: Setup) -> Setup:
    """The setup, whose test captions have every form of the largest dial as references, whatever its own dial says.

    CIDEr-D is comparable within one set of references and document frequencies alone, and those of a run's own data
    change with the dial. All forms, not the canonical one: what is said in another training form is not wrong, but an
    arm that heard K = 1 form would always hit the canonical one, and one that heard 32 would not. Nothing else reads
    these forms: queries, candidates and galleries are canonical at every K. Splits in held-out forms keep these.
    """
    splits = {
        name: _reworded(split) if name.startswith("test") else split for name, split in setup.dataset.splits.items()
    }
    return replace(setup, dataset=replace(setup.dataset, splits=splits))


def _reworded(split: Split) -> Split:
    return replace(
        split,
        examples=[
            replace(example, targets=in_all_forms(example.targets)) if example.task == "caption" else example
            for example in split.examples
        ],
    )
