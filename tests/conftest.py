"""What all tests share: few threads, an own cache folder, the real data where they lie beside the checkout, and a tiny
world with a pretrained encoder and a trained run of each arm."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import settings
from tests.sharing import made_once

from archlab.config import (
    DataConfig,
    EmbeddingArmConfig,
    EncoderConfig,
    EvaluationConfig,
    LatentPredictionConfig,
    MaskedAutoencoderConfig,
    OptimizerConfig,
    PretrainConfig,
    RunConfig,
    ScenesData,
    TokenizerConfig,
    TransformerConfig,
)

if TYPE_CHECKING:  # imported where they are used: most tests need none of it
    from archlab.train.run import Run
    from archlab.train.setup import Setup

torch.set_num_threads(1)
# Derandomised: a run on another machine tries the same examples. No deadline: a slow machine is not a defect.
settings.register_profile("archlab", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("archlab")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("no GPU")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Cached features go to a temporary folder, not to the user's."""
    os.environ["ARCHLAB_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of the real data sets: `ARCHLAB_DATA`, or `../shared/data` beside the checkout."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("ARCHLAB_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set ARCHLAB_DATA to their folder")
    return folder


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One temporary folder for all workers of this run of the tests."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


TINY = TransformerConfig(width=16, depth=1, heads=2, feed_forward=32)


@pytest.fixture(scope="session")
def tiny_pretraining() -> PretrainConfig:
    """Pretraining of a tiny encoder, over in a second but for its probes; see `few_probes`."""
    return PretrainConfig(
        encoder=TINY,
        mae=MaskedAutoencoderConfig(decoder=TINY),
        jepa=LatentPredictionConfig(predictor=TINY),
        optimizer=OptimizerConfig(steps=2, batch_size=8),
    )


@contextmanager
def _few_scenes() -> Iterator[None]:
    from archlab.evaluate import encoder_probes

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoder_probes, "_COUNTS", {"train": 120, "fit": 40, "validation": 40})
        encoder_probes._scenes.cache_clear()
        yield
    encoder_probes._scenes.cache_clear()


@pytest.fixture
def few_probes() -> Iterator[None]:
    """Probe encoders on few scenes: the thousands that make a probe precise take longer than the tests around them."""
    with _few_scenes():
        yield


@pytest.fixture(scope="session")
def tiny_encoder(tiny_pretraining: PretrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an encoder that was pretrained for two steps."""
    from archlab.train.pretrain import pretrain

    folder = tmp_path_factory.mktemp("tiny") / "encoder"
    with _few_scenes():
        pretrain(tiny_pretraining, folder)
    return folder


@pytest.fixture(scope="session")
def tiny_config(tiny_encoder: Path) -> RunConfig:
    """Six steps of a tiny arm on tiny scenes, saved every two steps and scored at steps 2 and 6."""
    return RunConfig(
        data=DataConfig(scenes=ScenesData(train_images=60, validation_images=12, test_images=12)),
        tokenizer=TokenizerConfig(vocab_size=400),
        encoder=EncoderConfig(weights=str(tiny_encoder), views=1),
        trunk=replace(TINY, depth=2),
        vljepa=EmbeddingArmConfig(embedding=16, target=TINY, decoder=TINY, decoder_prefix=2),
        optimizer=OptimizerConfig(steps=6, batch_size=8, learning_rate=1e-2),
        evaluation=EvaluationConfig(checkpoints=2, first_checkpoint=2, items=16, resume_every=2),
    )


@pytest.fixture(scope="session")
def tiny_setup(tiny_config: RunConfig) -> Setup:
    """What the runs of `tiny_config` read."""
    from archlab.train.setup import Setup

    return Setup.prepare(tiny_config)


@pytest.fixture(scope="session")
def talkative_run(tiny_run: Callable[[str], Run], shared_folder: Path) -> Callable[[str], Path]:
    """`talkative_run(arm)`: folder of a copy of `tiny_run(arm)` with louder trunks, which says something else of each
    image; after six steps an arm says the same of all. The folder is shared, by all workers: copy it to change it.
    """
    from archlab.train.checkpoint import load_checkpoint, save_checkpoint

    def louder(arm: str, folder: Path) -> None:
        run = tiny_run(arm)
        checkpoint, model = load_checkpoint(run.folder, RunConfig), deepcopy(run.arm)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if ".trunk." in f".{name}":
                    parameter.mul_(2)
        metrics, card = checkpoint.metrics, checkpoint.card()
        save_checkpoint(folder, model, checkpoint.config, checkpoint.tokenizer, metrics, card)

    return made_once(shared_folder / "talkative", louder)


@pytest.fixture(scope="session")
def exported(talkative_run: Callable[[str], Path], shared_folder: Path) -> Callable[[str], Path]:
    """`exported(arm)`: folder of the ONNX export of `talkative_run(arm)`, int8 included; shared by all workers."""
    from archlab.export.onnx import export_onnx

    return made_once(shared_folder / "exports", lambda arm, folder: export_onnx(talkative_run(arm), folder, int8=True))


@pytest.fixture(scope="session")
def tiny_run(
    tiny_config: RunConfig, tiny_setup: Setup, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Run]:
    """`tiny_run(arm)`: the finished run of `tiny_config` for that arm. Its folder is shared: copy it to change it."""
    from archlab.train.run import train_run

    @cache
    def trained(arm: str) -> Run:
        config = replace(tiny_config, arm=arm)  # type: ignore[arg-type]
        return train_run(config, tiny_setup, tmp_path_factory.mktemp("runs") / arm, arm)

    return trained
