"""SentencePiece models of T5 and Marian give the ids and texts that they give in `transformers`."""

import random

import pytest
from tests.sentencepieces import ADD
from tokenizers import Tokenizer, models

from archlab.errors import UserError
from archlab.generate.streaming import Detokenizer
from archlab.interop.text import Text, load_text

TEXTS = [
    "the cat sat on the mat",
    "",
    "  hello   world ",
    "a naïve café, ﬁle ½",
    "你好 cat",
    "The <extra_id_0> walks<extra_id_1>.",
    "a</s>b <unk>",
    ">>fra<< the cat",
    ">>xyz<<hello",
    "the >>fra<< cat",
    "mmm",
    "\tthe\nend",
]


@pytest.fixture(scope="module", params=ADD)
def pair(request, tmp_path_factory):
    """Our reading of the tokenizer of a family, and that of `transformers`."""
    folder = tmp_path_factory.mktemp(request.param)
    theirs = ADD[request.param](folder)
    return load_text(folder).tokenizer, theirs


def test_texts_get_the_ids_of_transformers(pair):
    ours, theirs = pair
    assert [ours.encode(text).ids for text in TEXTS] == [theirs(text)["input_ids"] for text in TEXTS]


def test_the_texts_hold_what_is_unknown_and_what_is_special(pair):
    _, theirs = pair
    ids = [theirs(text)["input_ids"] for text in TEXTS]
    assert any(theirs.unk_token_id in row for row in ids)
    assert any(theirs.eos_token_id in row[:-1] for row in ids)
    special = theirs.convert_tokens_to_ids(">>fra<<" if hasattr(theirs, "spm_source") else "<extra_id_0>")
    assert sum(row.count(special) for row in ids) == 1


def random_ids(theirs, count):
    numbers = random.Random(0)
    return [[numbers.randrange(len(theirs)) for _ in range(numbers.randrange(9))] for _ in range(count)]


def test_ids_get_the_texts_of_transformers(pair):
    ours, theirs = pair
    rows = random_ids(theirs, 200)
    expected = [theirs.decode(row, skip_special_tokens=True, clean_up_tokenization_spaces=False) for row in rows]
    found = [ours.decode(row) for row in rows]
    if hasattr(theirs, "spm_source"):  # spaces at the ends are cut off there
        found = [text.strip() for text in found]
    assert found == expected
    assert len(set(expected)) > 50


def test_the_pieces_of_a_text_that_arrives_add_up_to_it(pair):
    ours, theirs = pair
    for row in random_ids(theirs, 100):
        writer = Detokenizer(ours, [theirs.pad_token_id])
        assert "".join([*map(writer.push, row), writer.flush()]) == ours.decode(row)


def test_the_vocabulary_is_that_of_transformers_and_says_what_was_added(pair):
    ours, theirs = pair
    assert ours.get_vocab() == theirs.get_vocab()
    assert [ours.id_to_token(i) for i in range(len(theirs))] == theirs.convert_ids_to_tokens(range(len(theirs)))
    assert ours.id_to_token(len(theirs)) is None
    added = ours.get_vocab().keys() - ours.get_vocab(with_added_tokens=False).keys()
    assert len(added) == (0 if hasattr(theirs, "spm_source") else 100)
    assert all(token.startswith("<extra_id_") for token in added)


def test_the_number_of_sentinels_is_read(tmp_path):
    theirs = ADD["t5"](tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"extra_ids": 3}')
    tokenizer = load_text(tmp_path).tokenizer
    assert len(tokenizer.get_vocab()) == len(theirs) - 97
    assert tokenizer.id_to_token(len(theirs) - 98) == "<extra_id_0>"


def test_a_tokenizer_of_the_tokenizers_library_comes_first(tmp_path):
    ADD["t5"](tmp_path)
    Tokenizer(models.WordLevel({"hello": 0})).save(str(tmp_path / "tokenizer.json"))
    assert load_text(tmp_path).tokenizer.get_vocab() == {"hello": 0}


@pytest.mark.parametrize(
    ("name", "file", "content", "message"),
    [
        ("t5", "spiece.model", b"nothing", "spiece.model: is damaged"),
        ("t5", "spiece.model", b"", "spiece.model: is damaged"),
        ("t5", "tokenizer_config.json", b'{"extra_ids": "3"}', "extra_ids='3': must be the number of sentinels"),
        ("encoder_decoder", "source.spm", b"nothing", "source.spm: is damaged"),
        ("encoder_decoder", "vocab.json", b"[]", "vocab.json: is damaged"),
        ("encoder_decoder", "vocab.json", None, "vocab.json: has no </s>"),
        ("encoder_decoder", "vocab.json", b'{"</s>": 0}', "vocab.json: has no <unk>"),
        ("encoder_decoder", "vocab.json", b'{"</s>": 0, "<unk>": "1"}', "vocab.json: holds ids that are no numbers"),
    ],
)
def test_what_is_damaged_is_said_in_one_line(tmp_path, name, file, content, message):
    ADD[name](tmp_path)
    if content is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        load_text(tmp_path)
    assert "\n" not in str(caught.value)


def test_what_is_not_written_is_refused(tmp_path):
    ADD["t5"](tmp_path)
    with pytest.raises(UserError, match="a SentencePiece model is not written"):
        Text(tokenizer=load_text(tmp_path).tokenizer).files()
