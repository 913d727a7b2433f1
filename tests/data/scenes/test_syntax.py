"""Promises about captions in unseen syntax: they say the same in words that every setting of the dial has heard."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from archlab.data.scenes.language import HELD_OUT_WORDINGS, PARAPHRASES, caption_forms, wordings
from archlab.data.scenes.parser import parse, slot_accuracy
from archlab.data.scenes.questions import scene_caption
from archlab.data.scenes.syntax import SYNTAX, SYNTAXES, in_new_syntax, syntax_forms
from archlab.data.scenes.video import VideoConfig, sample_videos, video_caption
from archlab.data.scenes.world import SceneConfig, sample_scenes
from archlab.data.tokenizer import TextTokenizer
from archlab.errors import UserError


def pictures(split, count):
    return [scene_caption(scene) for scene in sample_scenes(count, SceneConfig(), split=split)]


def videos(split, count):
    return [video_caption(video) for video in sample_videos(count, VideoConfig(), split=split)]


def words(texts):
    return {word for text in texts for word in re.findall(r"[\w-]+|[^\w\s]", text)}


def heard(captions, dial):
    return [text for caption in captions for text in caption_forms(caption, wordings(dial))]


@pytest.mark.parametrize("dial", PARAPHRASES)
@pytest.mark.parametrize("sort", [pictures, videos])
def test_every_word_and_token_is_one_that_training_targets_have_at_every_k(dial, sort):
    """Which is not so of the held-out wordings: they bring words that no caption has, more of them the smaller K is."""
    trained, tested = heard(sort("train", 600), dial), sort("test", 300)
    new = [text for caption in tested for text in syntax_forms(caption)]
    assert words(new) <= words(trained)
    tokenizer = TextTokenizer.train(trained, 600)
    known = {token for text in tokenizer.tokens(trained) for token in text}
    assert {token for text in tokenizer.tokens(new) for token in text} <= known
    held_out = words(text for caption in tested for text in caption_forms(caption, HELD_OUT_WORDINGS))
    assert len(held_out - words(trained)) >= (20 if dial == 1 else 1)


@pytest.mark.parametrize("sort", [pictures, videos])
def test_no_form_is_one_that_training_or_the_held_out_wordings_have(sort):
    for caption in sort("test", 200):
        new = list(syntax_forms(caption))
        assert len(set(new)) == len(SYNTAXES)
        assert not set(new) & set(caption_forms(caption, wordings(32) + HELD_OUT_WORDINGS))


@pytest.mark.parametrize("sort", [pictures, videos])
def test_every_form_says_what_the_canonical_caption_says(sort):
    for caption in sort("test_combinations", 200):
        (canonical,) = caption_forms(caption, wordings(1))
        for text in syntax_forms(caption):
            assert sorted(parse(text).objects) == sorted(parse(canonical).objects), text
            assert slot_accuracy(text, canonical) == 1, text


def test_the_split_differs_in_its_captions_alone(dataset):
    plain, new = dataset["test"], in_new_syntax(dataset["test"])
    assert new.name == SYNTAX
    assert new.images is plain.images
    assert new.image_digest == plain.image_digest
    assert new.digest != plain.digest
    for one, other in zip(plain.examples, new.examples, strict=True):
        if one.task == "caption":
            assert replace(other, targets=one.targets) == one
            assert list(other.targets) != list(one.targets)
        else:
            assert other == one


def test_each_syntax_is_the_first_of_about_as_many_captions(dataset):
    firsts = [one.targets.wordings[0] for one in in_new_syntax(dataset["test"]).examples if one.task == "caption"]
    assert {firsts.count(syntax) for syntax in SYNTAXES} == {len(firsts) // len(SYNTAXES)}


def test_captions_of_other_data_are_not_reworded(dataset):
    written = [replace(one, targets=list(one.targets)) for one in dataset["test"].examples]
    with pytest.raises(UserError, match="split 'test_syntax': rewords captions of the built-in scenes alone"):
        in_new_syntax(replace(dataset["test"], examples=written))
