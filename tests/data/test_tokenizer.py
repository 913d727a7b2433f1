from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from archlab.data.tokenizer import TextTokenizer
from archlab.errors import UserError

CORPUS = ["a large red circle", "two small blue squares", "Is there a star? Yes.", "naïve café"]
TOKENIZER = TextTokenizer.train(CORPUS, 320)


def plain(text: str) -> str:
    """What survives a round trip: all but composed forms and white space at the ends."""
    return unicodedata.normalize("NFC", text).strip()


@given(st.text())
def test_any_text_comes_back(text: str) -> None:
    ids, _ = TOKENIZER.encode([text], 10_000)
    assert TOKENIZER.decode(ids[0].tolist()) == plain(text)


@pytest.mark.parametrize("text", ["日本語のテキスト", "👩‍👩‍👧 emoji", "e\u0301", "tab\tand\nline", "a  b", "\x00"])
def test_text_that_the_corpus_never_had_comes_back(text: str) -> None:
    ids, _ = TOKENIZER.encode([text], 100)
    assert TOKENIZER.decode(ids[0].tolist()) == plain(text)


@pytest.mark.parametrize("name", ["[PAD]", "[BOS]", "[EOS]"])
def test_a_text_that_spells_a_special_token_is_text(name: str, tmp_path: Path) -> None:
    """Else a user's text could end its own target, or hide from the loss."""
    text = f"press {name} twice"
    TOKENIZER.save(tmp_path / "tokenizer.json")
    for tokenizer in (TOKENIZER, TextTokenizer.load(tmp_path)):
        ids, _ = tokenizer.encode([text], 100)
        assert not set(ids[0, 1:-1]) & {tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id}
        assert tokenizer.decode(ids[0].tolist()) == text


@given(st.lists(st.text(), min_size=1, max_size=5), st.integers(3, 12))
def test_rows_are_bos_tokens_eos_padding_and_the_mask_says_so(texts: list[str], longest: int) -> None:
    ids, mask = TOKENIZER.encode(texts, longest)
    assert ids.dtype == np.int64
    assert mask.dtype == bool
    assert ids.shape == mask.shape
    assert ids.shape[1] == mask.sum(1).max() <= longest  # padded to the longest, no further
    for text, row, real in zip(texts, ids, mask, strict=True):
        whole = TOKENIZER.encode([text], 10_000)[0][0]
        length = min(len(whole), longest)
        assert real.tolist() == [True] * length + [False] * (len(row) - length)
        assert row[0] == TOKENIZER.bos_id
        assert row[length - 1] == TOKENIZER.eos_id  # truncation keeps it
        np.testing.assert_array_equal(row[1 : length - 1], whole[1 : length - 1])
        assert (row[length:] == TOKENIZER.pad_id).all()


def test_a_word_is_the_same_token_at_the_beginning_and_inside_of_a_text() -> None:
    alone, inside = (TOKENIZER.encode([text], 20)[0][0].tolist() for text in ("red", "a large red"))
    assert inside[-1 - len(alone[1:-1]) : -1] == alone[1:-1]


def test_no_text_is_no_token() -> None:
    ids, mask = TOKENIZER.encode(["", "red"], 8)
    assert ids[0].tolist()[:2] == [TOKENIZER.bos_id, TOKENIZER.eos_id]
    assert mask[0].sum() == 2
    assert TOKENIZER.encode([], 8)[0].shape == (0, 0)


def test_decoding_stops_at_the_end_and_leaves_special_tokens_out() -> None:
    row = TOKENIZER.encode(["red circle"], 20)[0][0].tolist()
    after = TOKENIZER.encode(["blue"], 20)[0][0].tolist()
    assert TOKENIZER.decode([TOKENIZER.pad_id, *row, *after]) == "red circle"


def test_ids_fit_the_vocabulary_and_special_tokens_are_three() -> None:
    assert TOKENIZER.vocab_size <= 320
    assert len({TOKENIZER.pad_id, TOKENIZER.bos_id, TOKENIZER.eos_id}) == 3
    ids, _ = TOKENIZER.encode(["".join(map(chr, range(32, 0x2FF)))], 10_000)
    assert ids.min() >= 0
    assert ids.max() < TOKENIZER.vocab_size


def test_training_shortens_its_own_texts_and_is_deterministic() -> None:
    again, small = TextTokenizer.train(CORPUS, 320), TextTokenizer.train(CORPUS, 259)
    np.testing.assert_array_equal(again.encode(CORPUS, 99)[0], TOKENIZER.encode(CORPUS, 99)[0])
    assert TOKENIZER.encode(CORPUS, 99)[1].sum() < 0.8 * small.encode(CORPUS, 99)[1].sum()


@pytest.mark.parametrize("place", ["", "tokenizer.json"])
def test_a_saved_tokenizer_is_the_same_by_folder_and_by_file(place: str, tmp_path: Path) -> None:
    TOKENIZER.save(tmp_path / "tokenizer.json")
    loaded = TextTokenizer.load(tmp_path / place)
    texts = [*CORPUS, "ünknown [EOS] 字"]
    np.testing.assert_array_equal(loaded.encode(texts, 30)[0], TOKENIZER.encode(texts, 30)[0])
    assert (loaded.pad_id, loaded.bos_id, loaded.eos_id) == (TOKENIZER.pad_id, TOKENIZER.bos_id, TOKENIZER.eos_id)
    assert loaded.vocab_size == TOKENIZER.vocab_size


def pretrained(path: Path, *special: str) -> Path:
    """A tokenizer of another maker: whole words, padding and truncation of its own, other names."""
    vocabulary = {name: i for i, name in enumerate([*special, "?", "red", "circle"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(list(special))
    tokenizer.enable_truncation(1)
    tokenizer.enable_padding(length=7)
    tokenizer.save(str(path))
    return path


@pytest.mark.parametrize(
    ("special", "wanted"),
    [(("<pad>", "<s>", "</s>"), (0, 1, 2)), (("[PAD]", "[CLS]", "[SEP]"), (0, 1, 2)), (("<|endoftext|>",), (0, 0, 0))],
)
def test_a_pretrained_tokenizer_serves_under_its_own_names(
    special: tuple[str, ...], wanted: tuple[int, ...], tmp_path: Path
) -> None:
    tokenizer = TextTokenizer.load(pretrained(tmp_path / "theirs.json", *special))
    assert (tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id) == wanted
    ids, mask = tokenizer.encode(["red circle", "red"], 9)
    words = len(special) + 1, len(special) + 2  # red, circle
    assert ids.tolist() == [[wanted[1], *words, wanted[2]], [wanted[1], words[0], wanted[2], wanted[0]]]
    assert mask.tolist() == [[True] * 4, [True] * 3 + [False]]
    assert tokenizer.decode(ids[0].tolist()[1:]) == "red circle"


def test_a_tokenizer_without_an_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tokenizer: has no \[EOS\] token; it must know one of \[EOS\], </s>"):
        TextTokenizer.load(pretrained(tmp_path / "theirs.json", "[PAD]", "[BOS]"))


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe not json", None])
def test_an_unreadable_tokenizer_is_one_line(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    if content is None:
        path.mkdir()  # a folder without a tokenizer in it
    else:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"cannot be read .*; give a tokenizer\.json or a hub id$") as caught:
        TextTokenizer.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_vocabulary_too_small_for_all_bytes_is_refused() -> None:
    with pytest.raises(UserError, match=r"vocab_size=258: must be at least 259"):
        TextTokenizer.train(CORPUS, 258)
    assert TextTokenizer.train(CORPUS, 259).vocab_size == 259
