from __future__ import annotations

from archlab.config import DataConfig, ScenesData
from archlab.data.example import Example
from archlab.data.sources import load_dataset
from archlab.data.vocabulary import learn_vocabulary

QUESTIONS = 4


def test_what_is_said_once_per_image_is_read_whatever_the_number_of_questions_before_it() -> None:
    """Every fifth example is a caption; with 60,000 examples a fixed stride would meet questions alone."""

    def example(row: int) -> Example:
        image, place = divmod(row, QUESTIONS + 1)
        said = ("what is it",) if place < QUESTIONS else ("describe the picture",)
        return Example(str(row), image, "vqa", "kind", said, ("a thing",), "meaning")

    tokenizer = learn_vocabulary([example(row) for row in range(60_000)], 400)
    for text in ("what is it", "describe the picture"):
        assert len(tokenizer.tokens([text])[0]) == len(text.split())


def test_how_often_things_are_reworded_does_not_change_the_vocabulary() -> None:
    def learnt(paraphrases: int) -> str:
        scenes = ScenesData(train_images=60, validation_images=5, test_images=5, paraphrases=paraphrases)
        examples = load_dataset(DataConfig(scenes=scenes), 32)["train"].examples
        assert max(len(one.targets) for one in examples) == paraphrases
        return learn_vocabulary(examples, 400).tokenizer.to_str()

    assert learnt(1) == learnt(32)
