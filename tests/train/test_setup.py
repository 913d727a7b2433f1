from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from archlab.config import RunConfig
from archlab.data.example import Split
from archlab.data.scenes.language import in_all_forms
from archlab.data.tokenizer import TextTokenizer
from archlab.errors import UserError
from archlab.train.setup import Setup


def test_both_arms_read_one_order_and_the_supervised_head_answers_alone(tiny_setup: Setup) -> None:
    tasks = np.array([example.task for example in tiny_setup.dataset["train"].examples])
    assert set(tasks[tiny_setup.order(40, 8, 0).rows.ravel()]) == {"vqa", "caption"}
    assert set(tasks[tiny_setup.order(40, 8, 0, ("vqa",)).rows.ravel()]) == {"vqa"}
    assert tiny_setup.order(40, 8, 0).digest() == tiny_setup.order(50, 8, 0).digest(40)
    assert tiny_setup.order(40, 8, 0).digest() != tiny_setup.order(40, 8, 1).digest()


def test_a_task_that_the_data_lack_is_refused(tiny_setup: Setup) -> None:
    with pytest.raises(UserError, match=r"data.source='scenes': has no examples of translation$"):
        tiny_setup.order(4, 8, 0, ("translation",))


def test_training_images_have_views_and_all_others_are_plain(tiny_setup: Setup) -> None:
    assert tiny_setup.features("train").array.shape[0] == 2
    assert tiny_setup.features("validation").array.shape[0] == 1
    assert set(tiny_setup.order(20, 8, 0).views.ravel()) == {0, 1}


def test_features_belong_to_their_split(tiny_setup: Setup) -> None:
    for name, split in tiny_setup.dataset.splits.items():
        assert tiny_setup.features(name).array.shape[1] == len(split.images)
    assert tiny_setup.features("test").digest == tiny_setup.features("test_forms").digest  # the same pictures
    assert tiny_setup.features("test").digest != tiny_setup.features("validation").digest


def test_collators_draw_from_their_split_with_the_classes_of_training(tiny_setup: Setup) -> None:
    for name in ("train", "test_forms"):
        collate = tiny_setup.collator(name)
        assert collate.split is tiny_setup.dataset[name]
        assert collate.meanings is tiny_setup.meanings
        limits = tiny_setup.config.tokenizer
        assert (collate.max_query, collate.max_target) == (limits.max_query, limits.max_target)
        assert tiny_setup.collator(name) is collate


def test_answers_are_the_first_classes(tiny_setup: Setup) -> None:
    examples = tiny_setup.dataset["train"].examples
    assert set(tiny_setup.answers) == {one.meaning for one in examples if one.task == "vqa"}
    assert [tiny_setup.meanings[meaning] for meaning in tiny_setup.answers] == list(range(len(tiny_setup.answers)))


def test_the_tokenizer_knows_queries_and_targets_of_training(tiny_setup: Setup) -> None:
    """It needs fewer tokens for either than one that was trained on the other alone."""
    examples, size = tiny_setup.dataset["train"].examples, tiny_setup.config.tokenizer.vocab_size
    texts = {
        name: [text for example in examples for text in in_all_forms(getattr(example, name))]
        for name in ("queries", "targets")
    }

    def tokens(tokenizer: TextTokenizer, name: str) -> int:
        return int(tokenizer.encode(texts[name], 999)[1].sum())

    for name, other in (("queries", "targets"), ("targets", "queries")):
        stranger = TextTokenizer.train(texts[other], size)
        assert tokens(tiny_setup.tokenizer, name) < 0.9 * tokens(stranger, name)
    assert tiny_setup.tokenizer.vocab_size == size


def test_a_pretrained_tokenizer_is_read_instead(tiny_config: RunConfig, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    TextTokenizer.train(["something else"], 265).save(path)
    config = replace(tiny_config, tokenizer=replace(tiny_config.tokenizer, pretrained=str(path)))
    assert Setup.prepare(config).tokenizer.vocab_size == 265


def test_the_tokenizer_of_a_checkpoint_is_kept(tiny_config: RunConfig) -> None:
    tokenizer = TextTokenizer.train(["something else"], 265)
    assert Setup.prepare(tiny_config, tokenizer).tokenizer is tokenizer


def test_preparing_twice_gives_the_same(tiny_config: RunConfig, tiny_setup: Setup) -> None:
    again = Setup.prepare(tiny_config)
    assert again.digests() == tiny_setup.digests()
    assert again.meanings == tiny_setup.meanings
    assert again.order(9, 8, 0).digest() == tiny_setup.order(9, 8, 0).digest()
    texts = ["two small red stars", "Is there a ring?"]
    np.testing.assert_array_equal(again.tokenizer.encode(texts, 40)[0], tiny_setup.tokenizer.encode(texts, 40)[0])


def test_digests_tell_data_and_encoders_apart(tiny_setup: Setup) -> None:
    changed: Split = replace(tiny_setup.dataset["test"], digest="changed")
    dataset = replace(tiny_setup.dataset, splits=tiny_setup.dataset.splits | {"test": changed})
    encoder = replace(tiny_setup.encoder, digest="changed")
    others = [replace(tiny_setup, dataset=dataset), replace(tiny_setup, encoder=encoder)]
    assert len({tuple(setup.digests()) for setup in (tiny_setup, *others)}) == 3


def test_fewer_examples_than_one_batch_are_refused(tiny_config: RunConfig) -> None:
    config = replace(tiny_config, optimizer=replace(tiny_config.optimizer, batch_size=301))
    with pytest.raises(UserError, match=r"300 training examples are fewer than optimizer.batch_size=301; lower it"):
        Setup.prepare(config)
    Setup.prepare(replace(tiny_config, optimizer=replace(tiny_config.optimizer, batch_size=300)))
