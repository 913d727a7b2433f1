"""What a convolutional network reaches that is trained on the pixels, label by label: the price of a frozen encoder.

It sees no query, so the data must ask one question alone: sets of classes. The network, its optimiser and its
augmentation are fixed beforehand; it is trained on the train split for a given number of epochs and scored on the test
split once, so that nothing is tuned on either.

Shape legend: B samples, H x W pixels, K classes.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from archlab.config import CompareConfig
from archlab.data.example import Split, questions_of
from archlab.errors import UserError
from archlab.evaluate.measure import Items, Measurement, measure_right
from archlab.models.resnet import ResNet
from archlab.progress import track
from archlab.train.setup import Setup
from archlab.vl.encoder import normalise

_BATCH, _LEARNING_RATE, _WEIGHT_DECAY, _SMOOTHING = 64, 2e-3, 0.05, 0.1
_SHIFT = 6  # pixels by which training images are moved at most, about a tenth of their side


def check_one_question(setup: Setup, config: CompareConfig) -> None:
    """Refuse data on which the network would have to guess what is asked.

    Raises:
        UserError: the training data ask several questions, or none.
    """
    asked = questions_of(setup.dataset["train"])
    if len(asked) != 1:
        raise UserError(
            f"end_to_end_epochs={config.end_to_end_epochs}: the data ask {len(asked)} questions, and a network of "
            "images alone answers one; leave it at 0"
        )


def train_end_to_end(setup: Setup, config: CompareConfig) -> Measurement:
    """Train the network and score its answers to the test questions; see `check_one_question`."""
    seed, train, test = config.seeds[0], setup.dataset["train"], setup.dataset["test"]
    rows = Items.first(train, len(train.examples)).vqa
    classes = {meaning: number for number, meaning in enumerate(setup.answers)}
    images = _pixels(train, rows)
    labels = torch.tensor([classes[train.examples[row].meaning] for row in rows])
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = ResNet(len(classes))
    model.to(setup.device)
    _fit(model, images, labels, config.end_to_end_epochs, generator)

    rows = Items.first(test, config.test_items).vqa
    examples = [test.examples[row] for row in rows]
    with torch.no_grad():
        logits = torch.cat([model.eval()(part.to(setup.device)).cpu() for part in _pixels(test, rows).split(256)])
    said = [setup.answers[number] for number in logits.argmax(1).tolist()]
    right = np.array([answer == one.meaning for answer, one in zip(said, examples, strict=True)], dtype=float)
    result = Measurement()
    measure_right(result, right, examples)
    return result


def _fit(model: nn.Module, images: Tensor, labels: Tensor, epochs: int, generator: torch.Generator) -> None:
    device = next(model.parameters()).device
    steps = epochs * -(-len(images) // _BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), _LEARNING_RATE, weight_decay=_WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _LEARNING_RATE, total_steps=steps)
    loss_of = nn.CrossEntropyLoss(label_smoothing=_SMOOTHING)
    model.train()
    with track("network trained end to end", steps) as tracker:
        for _ in range(epochs):
            for rows in torch.randperm(len(images), generator=generator).split(_BATCH):
                loss = loss_of(model(_augment(images[rows], generator).to(device)), labels[rows].to(device))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                tracker.advance(loss=loss.item())


def _augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Reflect half of the images (B, 3, H, W), and move each by a few pixels, the border repeated."""
    count, _, height, width = images.shape
    flipped = torch.rand(count, generator=generator) < 0.5
    images = torch.where(flipped[:, None, None, None], images.flip(3), images)
    padded = nn.functional.pad(images, [_SHIFT] * 4, mode="replicate")
    moves = torch.randint(0, 2 * _SHIFT + 1, (count, 2), generator=generator).tolist()
    return torch.stack([image[:, y : y + height, x : x + width] for image, (y, x) in zip(padded, moves, strict=True)])


def _pixels(split: Split, rows: np.ndarray) -> Tensor:
    """The images of the examples, normalised as the frozen encoder gets them: (n, 3, H, W)."""
    places = [split.examples[row].image for row in rows]
    return normalise(torch.from_numpy(np.stack([split.images[place : place + 1][0] for place in places])))
