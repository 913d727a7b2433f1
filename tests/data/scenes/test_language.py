"""Promises about the paraphrase dial: nested, distinct, unambiguous, and ever less alike as it is turned up."""

import itertools
import pickle
import re
from collections import defaultdict

import numpy as np
import pytest

from archlab.data.scenes import frames, lexicon
from archlab.data.scenes.language import (
    HELD_OUT_WORDINGS,
    PARAPHRASES,
    Caption,
    Clause,
    Description,
    Question,
    answer_forms,
    caption_forms,
    caption_meaning,
    question_forms,
    wordings,
)
from archlab.data.scenes.questions import candidates, scene_caption
from archlab.data.scenes.video import video_candidates
from archlab.data.scenes.world import COLOURS, SHAPES, SIZES, SceneConfig, sample_scenes
from archlab.errors import UserError

MEANINGS = sorted(
    {meaning for table in (candidates(5), video_candidates()) for texts in table.values() for meaning in texts.values()}
)
ALL_WORDINGS = wordings(32) + HELD_OUT_WORDINGS
SOME = (Description(), Description(colour="red"), Description(size="small"), Description("large", "pink", "heart"))


def questions():
    """Questions of every kind, about things of every sort."""
    things = [Description(*names) for names in itertools.product((None, *SIZES), (None, *COLOURS), (None, *SHAPES))]
    for frame in ("colour", "shape", "size", "position", "exists", "count", "motion", "event"):
        yield from (Question(frame, thing) for thing in things[:: 1 if frame == "exists" else 5])
    for relation in lexicon.INVERSE:
        yield from (Question("relation", one, other, relation) for one in things[::41] for other in things[::37])
        yield from (Question("relation_shape", second=other, relation=relation) for other in things[::5])
    yield from (Question("object"), Question("caption"))


def captions():
    triples = [Description(*names) for names in itertools.product(SIZES, COLOURS, SHAPES)]
    rng = np.random.default_rng(0)
    for number in (1, 2, 3, 4):
        for _ in range(60):
            chosen = [triples[row] for row in sorted(rng.choice(len(triples), number, replace=False))]
            relation = str(rng.choice(list(lexicon.INVERSE))) if number == 2 else None
            yield Caption(tuple(map(Clause, chosen)), relation)
            motions = rng.choice(list(lexicon.MOTION_WORDS), number)
            events = rng.choice([*lexicon.EVENT_WORDS, None], number)
            yield Caption(tuple(itertools.starmap(Clause, zip(chosen, motions, events, strict=True))))


def overlap(forms):
    """Mean Jaccard overlap of the words of all pairs of forms."""
    words = [set(re.findall(r"[\w-]+", form)) for form in forms]
    return np.mean([len(a & b) / len(a | b) for a, b in itertools.combinations(words, 2)])


def test_smaller_dials_are_prefixes_of_larger_ones():
    for small, large in itertools.pairwise(PARAPHRASES):
        assert wordings(large)[:small] == wordings(small)
        assert len(wordings(large)) == large


@pytest.mark.parametrize("wrong", [0, 3, 64, -1, True, "4", None, 2.5])
def test_a_setting_off_the_dial_is_an_error(wrong):
    with pytest.raises(UserError, match="dial"):
        wordings(wrong)


def test_all_forms_of_a_meaning_differ():
    everything = [
        *(answer_forms(meaning, ALL_WORDINGS) for meaning in MEANINGS),
        *(question_forms(question, ALL_WORDINGS) for question in questions()),
        *(caption_forms(caption, ALL_WORDINGS) for caption in captions()),
    ]
    for forms in everything:
        assert len(set(forms)) == len(ALL_WORDINGS), forms.meaning


def test_no_target_text_has_two_meanings():
    meanings_of = defaultdict(set)
    for meaning in MEANINGS:
        for text in answer_forms(meaning, ALL_WORDINGS):
            meanings_of[text].add(meaning)
    for caption in captions():
        for text in caption_forms(caption, ALL_WORDINGS):
            meanings_of[text].add(caption_meaning(caption))
    assert [(text, meanings) for text, meanings in meanings_of.items() if len(meanings) > 1] == []


def test_no_query_text_asks_two_things():
    questions_of = defaultdict(set)
    for question in questions():
        for text in question_forms(question, ALL_WORDINGS):
            questions_of[text].add(question)
    assert [(text, asked) for text, asked in questions_of.items() if len(asked) > 1] == []


def test_token_overlap_falls_as_the_dial_is_turned_up():
    groups = defaultdict(list)
    for meaning in MEANINGS:
        groups["answer", meaning.split(":")[0]].append(answer_forms(meaning, wordings(32)))
    for frame in frames.QUESTIONS:
        for one in SOME:
            question = Question(frame, one, Description(shape="square"), "above")
            groups["question", frame].append(question_forms(question, wordings(32)))
    for caption in captions():
        groups["caption", len(caption.clauses)].append(caption_forms(caption, wordings(32)))
    for group, members in groups.items():
        mean = [np.mean([overlap(forms[:dial]) for forms in members]) for dial in (2, 4, 8, 32)]
        assert all(large < small for small, large in itertools.pairwise(mean)), (group, mean)
        assert mean[-1] < 0.6 * mean[0], (group, mean)


def test_the_canonical_form_is_among_the_shortest():
    for scene in sample_scenes(50, SceneConfig()):
        lengths = [len(form.split()) for form in caption_forms(scene_caption(scene), wordings(32))]
        assert lengths[0] <= np.median(lengths)
    assert all(
        answer_forms(meaning, wordings(1))[0] == min(answer_forms(meaning, wordings(4)), key=lambda t: len(t.split()))
        for meaning in MEANINGS
    )


def test_held_out_forms_share_no_text_with_training_forms():
    for forms in (
        *(answer_forms(meaning, ALL_WORDINGS) for meaning in MEANINGS),
        *(question_forms(question, ALL_WORDINGS) for question in questions()),
    ):
        assert not set(forms[:32]) & set(forms[32:])
    assert len(HELD_OUT_WORDINGS) >= 4


def test_held_out_forms_use_no_word_unknown_to_the_full_dial():
    def words(spoken):
        texts = [text for meaning in MEANINGS for text in answer_forms(meaning, spoken)]
        texts += [text for question in questions() for text in question_forms(question, spoken)]
        texts += [text for caption in captions() for text in caption_forms(caption, spoken)]
        return {word for text in texts for word in re.findall(r"[\w-]+", text)}

    unseen = words(HELD_OUT_WORDINGS) - words(wordings(32))
    assert unseen == set()


def test_no_lexicon_word_means_two_things():
    tables = [table for name, table in vars(lexicon).items() if name.endswith("_WORDS") and isinstance(table, dict)]
    phrases = [phrase for table in tables for row in table.values() for phrase in row]
    assert len(set(phrases)) == len(phrases)
    assert all(len(row) == 4 for table in tables for row in table.values())


def test_a_caption_means_the_same_whatever_the_positions_beyond_its_relation():
    caption = Caption(
        (Clause(Description("large", "red", "star")), Clause(Description("small", "red", "star"))), "above"
    )
    assert caption_meaning(caption) == "caption:a large red star above a small red star"
    assert caption_meaning(caption) != caption_meaning(caption._replace(relation="below"))


def test_articles_fit_the_word_that_follows():
    texts = [text for caption in captions() for text in caption_forms(caption, ALL_WORDINGS)]
    texts += [text for meaning in MEANINGS for text in answer_forms(meaning, ALL_WORDINGS)]
    assert not any(re.search(r"\ba [aeiou]|\ban [^aeiou]", text) for text in texts)


def test_forms_behave_as_a_sequence_and_survive_pickling():
    forms = answer_forms("colour:red", wordings(4))
    assert len(forms) == 4
    assert forms[-1] == list(forms)[3]
    assert forms[1:3] == (forms[1], forms[2])
    assert "it is red" in forms
    assert list(pickle.loads(pickle.dumps(forms))) == list(forms)
    with pytest.raises(IndexError):
        forms[4]
