"""One small data set for the whole folder: building it is the slowest step."""

import pytest

from archlab.data.example import Dataset
from archlab.data.scenes.dataset import SceneDataConfig, build_scenes
from archlab.data.scenes.world import Scene, sample_scenes

CONFIG = SceneDataConfig(train_images=600, validation_images=60, test_images=120, paraphrases=4)


@pytest.fixture(scope="session")
def config() -> SceneDataConfig:
    return CONFIG


@pytest.fixture(scope="session")
def dataset() -> Dataset:
    return build_scenes(CONFIG)


@pytest.fixture(scope="session")
def train_scenes() -> list[Scene]:
    return sample_scenes(CONFIG.train_images, CONFIG, split="train")
