"""From a configuration to everything a run reads: data, tokenizer, cached features, meanings, order."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from archlab.config import RunConfig
from archlab.data.batch import Collator, meaning_ids
from archlab.data.device import find_device
from archlab.data.example import Dataset
from archlab.data.features import FeatureStore, Machine, cache_folder
from archlab.data.order import Order
from archlab.data.sources import load_dataset
from archlab.data.tokenizer import TextTokenizer
from archlab.data.vocabulary import learn_vocabulary
from archlab.errors import UserError
from archlab.vl.protocol import XEncoder
from archlab.vl.x_encoder import open_encoder


@dataclass(frozen=True)
class Setup:
    """What the runs of one comparison share.

    Attributes:
        config: any run of the comparison; only its data, tokenizer and encoder sections are read here.
        dataset: all splits.
        tokenizer: trained on the training texts, or pretrained.
        encoder: the frozen X-encoder.
        meanings: meaning -> class id, over the training split.
    """

    config: RunConfig
    dataset: Dataset
    tokenizer: TextTokenizer
    encoder: XEncoder
    meanings: dict[str, int]

    @classmethod
    def prepare(cls, config: RunConfig, tokenizer: TextTokenizer | None = None) -> Setup:
        """Load the data and the encoder; train the tokenizer unless one is given.

        Args:
            tokenizer: of a trained run, which draws no training batches from the data.

        Raises:
            UserError: the data cannot be read, or have fewer training examples than one batch of a run to train.
        """
        encoder = open_encoder(config.encoder, config.data.frames).to(find_device(config.device, "device"))
        dataset = load_dataset(config.data, encoder.image_size)
        train = dataset["train"]
        if tokenizer is None and len(train.examples) < config.optimizer.batch_size:
            raise UserError(
                f"data.source={config.data.source!r}: {len(train.examples)} training examples are fewer than "
                f"optimizer.batch_size={config.optimizer.batch_size}; lower it or add data"
            )
        if tokenizer is None:
            tokenizer = open_tokenizer(config, dataset)
        return cls(config, dataset, tokenizer, encoder.fitted(train, cache_folder()), meaning_ids(train))

    @property
    def device(self) -> torch.device:
        """Where arms are trained and asked, and images are encoded."""
        return find_device(self.config.device, "device")

    def features(self, split: str, machine: Machine | None = None) -> FeatureStore:
        """Cached features of a split; views are only made of training images. `machine`: see `FeatureStore.build`."""
        if split not in self._stores:
            views = self.config.encoder.views if split == "train" else 0
            self._stores[split] = FeatureStore.build(self.dataset[split], self.encoder, cache_folder(), views, machine)
        return self._stores[split]

    def read_images(self, machine: Machine | None = None) -> None:
        """Make or open the features of all splits: whatever is broken is found now, and nobody makes them twice.

        Args:
            machine: the processes that share the work; by default this one does it alone.

        Raises:
            UserError: an image is broken.
        """
        for split in self.dataset.splits:
            self.features(split, machine)

    def collator(self, split: str) -> Collator:
        """Draws batches from a split."""
        if split not in self._collators:
            limits = self.config.tokenizer
            self._collators[split] = Collator(
                self.dataset[split],
                self.features(split),
                self.tokenizer,
                self.meanings,
                limits.max_query,
                limits.max_target,
            )
        return self._collators[split]

    @cached_property
    def answers(self) -> list[str]:
        """Meanings of the training answers, in the order of their class ids; captions come after them."""
        answered = {example.meaning for example in self.dataset["train"].examples if example.task == "vqa"}
        return [meaning for meaning in self.meanings if meaning in answered]

    @cached_property
    def uncaptioned(self) -> list[str]:
        """Splits without any caption."""
        return [
            name
            for name, split in self.dataset.splits.items()
            if all(example.task != "caption" for example in split.examples)
        ]

    def digests(self) -> list[str]:
        """Hashes of all that a run reads besides its configuration."""
        return [*self.dataset.digest().values(), self.encoder.digest]

    def order(self, steps: int, batch_size: int, seed: int, tasks: tuple[str, ...] | None = None) -> Order:
        """The saved order of a run; a longer one begins with a shorter one. `tasks` leaves out all others."""
        of_example = np.array([example.task for example in self.dataset["train"].examples])
        groups = [
            np.flatnonzero(of_example == task) for task in np.unique(of_example) if tasks is None or task in tasks
        ]
        if not groups:
            raise UserError(f"data.source={self.config.data.source!r}: has no examples of {', '.join(tasks or ())}")
        return Order.draw(groups, steps, batch_size, seed, self.config.encoder.views)

    @cached_property
    def _stores(self) -> dict[str, FeatureStore]:
        return {}

    @cached_property
    def _collators(self) -> dict[str, Collator]:
        return {}


def open_tokenizer(config: RunConfig, dataset: Dataset) -> TextTokenizer:
    """That of the checkpoint that the run begins with, the one that is named, or one learnt from the training texts."""
    if config.language.weights:
        from archlab.interop.checkpoint import locate  # imports transformers, which takes seconds

        return TextTokenizer.load(locate(config.language.weights))
    if config.tokenizer.pretrained:
        return TextTokenizer.load(config.tokenizer.pretrained)
    return learn_vocabulary(dataset["train"].examples, config.tokenizer.vocab_size)
