import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nmt import words
from nmt.subwords import BOS, EOS, Subwords, train_subwords
from nmt.words import is_punctuation, piece_shares, segment, spell, word_spans

SENTENCES = [
    "你好，我叫汤姆。",
    "他明天去北京大学读书。",
    "What's your name, please?",
    "Der Käse ist gut — sehr gut!",
    "我喜欢 iPhone。",
]
CONTROLS = dict.fromkeys([*range(0x20), *range(0x7F, 0xA0)], " ")  # as Subwords.decode replaces them
TEXTS = st.one_of(st.text(), st.text("你好北京。，ab ,.'\u2581é😀\t\n", max_size=30))


@pytest.fixture(scope="module")
def subwords() -> Subwords:
    """A tiny model with byte fallback: most characters of other texts are spelt in bytes."""
    return Subwords(train_subwords(SENTENCES * 4, kind="unigram", size=330, character_coverage=1.0, spaced=True))


def words_of(text: str, language: str) -> list[str]:
    """The words themselves."""
    return [text[start:end] for start, end in word_spans(text, language)]


@pytest.mark.parametrize(
    ("pieces", "text", "spans"),
    [
        ([], "", []),
        (["</s>"], "", [(0, 0)]),
        (["▁Hel", "lo", ".", "</s>"], "Hello.", [(0, 3), (3, 5), (5, 6), (6, 6)]),
        (["▁a", "▁b"], "a b", [(0, 1), (1, 3)]),
        (["▁", "你好", "。"], "你好。", [(0, 0), (0, 2), (2, 3)]),
        (["你", "<0xE5>", "<0xA5>", "<0xBD>", "x"], "你好x", [(0, 1), (1, 2), (1, 2), (1, 2), (2, 3)]),
        (["<0xF0>", "<0x9F>", "<0x98>", "<0x80>"], "😀", [(0, 1)] * 4),
        (["<0x41>", "<0xC3>", "<0xA9>"], "Aé", [(0, 1), (1, 2), (1, 2)]),
        (["<0xE5>", "<0xA5>", "b"], "\ufffd\ufffdb", [(0, 1), (1, 2), (2, 3)]),  # a character cut off
        (["<0xE5>", "<0xC3>", "<0xA9>"], "\ufffdé", [(0, 1), (1, 2), (1, 2)]),  # and another after it
        (["<0xA5>"], "\ufffd", [(0, 1)]),  # the middle of a character
        (["▁a", "<unk>", "b"], "a \u2047 b", [(0, 1), (1, 4), (4, 5)]),
        (["<0xe5>"], "<0xe5>", [(0, 6)]),  # SentencePiece writes capitals: this is text
    ],
)
def test_spell(pieces: list[str], text: str, spans: list[tuple[int, int]]) -> None:
    """Pieces spell their text, bytes of one character share its span, broken bytes become U+FFFD one by one."""
    assert spell(pieces) == (text, spans)


@given(text=TEXTS)
def test_spell_is_the_decoded_text(subwords: Subwords, text: str) -> None:
    """Of any text's pieces, what is spelt is what SentencePiece decodes, and the spans tile it without a gap."""
    ids = [*subwords.encode([text])[0], EOS]
    spelt, spans = spell(subwords.pieces(ids))
    assert spelt.translate(CONTROLS) == subwords.decode([ids])[0]
    distinct = [span for span in dict.fromkeys(spans) if span[0] < span[1]]
    assert "".join(spelt[start:end] for start, end in distinct) == spelt


@given(data=st.data())
def test_spell_any_pieces(subwords: Subwords, data: st.DataObject) -> None:
    """A model may write any sequence, broken bytes included; but for spaces in front, SentencePiece reads it alike."""
    byte = st.sampled_from([piece for piece in range(subwords.size) if subwords.is_byte(piece)])
    ids = data.draw(st.lists(st.one_of(byte, st.integers(BOS, subwords.size - 1)), max_size=12))
    spelt, spans = spell(subwords.pieces(ids))
    assert spelt.translate(CONTROLS).lstrip(" ") == subwords.decode([ids])[0].lstrip(" ")
    assert len(spans) == len(ids)


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("zh", "我喜欢 iPhone。", ["我", "喜欢", "iPhone", "。"]),
        ("zh", "他毕业于北京大学", ["他", "毕业", "于", "北京大学"]),
        ("zh", "他来到了网易杭研大厦", ["他", "来到", "了", "网易", "杭研", "大厦"]),  # 杭研 by the HMM alone
        ("zh", "", []),
        ("yue", "我喜欢 iPhone。", ["我", "喜欢", "iPhone", "。"]),
        ("ja", "私は 元気", ["私", "は", "元", "気"]),
        ("th", "ชา ดี", ["ช", "า", "ด", "ี"]),
        ("en", "", []),
        ("en", "  \t ", []),
        ("en", "Hello, world!", ["Hello", ",", "world", "!"]),
        ("en", "I don't (really) know...", ["I", "don't", "(", "really", ")", "know", "..."]),
        ("en", "What?!", ["What", "?", "!"]),
        ("en", "3.14 well-known U.S.", ["3.14", "well-known", "U.S", "."]),
        ("en", "Yes—but no…", ["Yes", "—", "but", "no", "…"]),
        ("en", '"$5"', ['"', "$", "5", '"']),
        ("de", "„Käse“ für 3 €", ["„", "Käse", "“", "für", "3", "€"]),
        ("en", "...", ["..."]),
    ],
)
def test_word_spans(language: str, text: str, expected: list[str]) -> None:
    """Chinese by jieba, others without spaces by character, the rest at spaces with the punctuation split off."""
    assert words_of(text, language) == expected


@given(text=TEXTS, language=st.sampled_from(["zh", "ja", "en"]))
def test_words_cover_the_text(text: str, language: str) -> None:
    """Words stand in order, do not overlap, hold no white space, and together hold every other character."""
    spans = word_spans(text, language)
    assert [i for start, end in spans for i in range(start, end)] == [
        i for i, character in enumerate(text) if not character.isspace()
    ]


@pytest.mark.parametrize(
    ("pieces", "language", "expected"),
    [
        # 北京大 | 学: the first piece lies in the word alone; 于北 straddles two words, a character in each
        (["于北", "京大学", "</s>"], "zh", [[0.5, 0.5, 0], [0, 1, 0], [0, 0, 1]]),
        (["▁a", ",▁b", "</s>"], "en", [[1, 0, 0, 0], [0, 0.5, 0.5, 0], [0, 0, 0, 1]]),
        (["▁a", "▁", "b"], "en", [[1, 0, 0], [0, 1, 0], [0, 1, 0]]),  # a lone space goes to the word after it
        (["▁a", "▁", "</s>"], "en", [[1, 0], [1, 0], [0, 1]]),  # or to the last word
        (["▁", "</s>"], "en", [[1], [1]]),  # or, where there is no word, to the eos
        (["▁don", "'", "t"], "en", [[1, 0]] * 3),
        (["<0xE5>", "<0xA5>", "<0xBD>"], "zh", [[1, 0]] * 3),
    ],
)
def test_shares(pieces: list[str], language: str, expected: list[list[float]]) -> None:
    """A piece belongs to the word that it lies in, or in parts to those that it straddles."""
    assert segment(pieces, language).shares.tolist() == expected


def test_shares_are_by_characters() -> None:
    """Three of a piece's four characters in a word make three quarters of it; spaces count for nothing."""
    assert piece_shares([(0, 5)], [(0, 3), (4, 5)], has_eos=False).tolist() == [[0.75, 0.25, 0.0]]


@given(text=TEXTS, language=st.sampled_from(["zh", "en"]))
def test_every_piece_and_every_word_has_its_share(subwords: Subwords, text: str, language: str) -> None:
    """Rows sum to 1, no word is without a piece, and of a whole sentence only the eos fills the last column."""
    sentence = segment([*subwords.pieces(subwords.encode([text])[0]), "</s>"], language)
    np.testing.assert_allclose(sentence.shares.sum(axis=1), 1.0, rtol=1e-12)
    assert (sentence.shares[:, :-1].sum(axis=0) > 0).all()
    assert sentence.shares[-1, -1] == 1.0
    assert not sentence.words or (sentence.shares[:-1, -1] == 0).all()
    assert sentence.words == [sentence.text[start:end] for start, end in sentence.spans]


@pytest.mark.parametrize(
    ("word", "expected"), [("。", True), ("...", True), ("€", True), ("a.", False), ("你", False), ("3", False)]
)
def test_is_punctuation(word: str, expected: bool) -> None:
    """Marks and symbols alone are punctuation."""
    assert is_punctuation(word) is expected


def test_jieba_leaves_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Loading the dictionary neither logs nor writes jieba's cache into the temp folder."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    words._jieba.cache_clear()
    with caplog.at_level(logging.DEBUG):
        assert words_of("你好", "zh") == ["你好"]
    assert caplog.records == []
    assert list(tmp_path.iterdir()) == []


def test_jieba_compiled_with_warnings_as_errors(tmp_path: Path) -> None:
    """The first import of jieba, when Python compiles it and finds its escapes, does not warn; nor does it print."""
    code = "from nmt.words import word_spans; print(word_spans('你好。', 'zh'))"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, "PYTHONPATH": "src", "PYTHONPYCACHEPREFIX": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("[(0, 2), (2, 3)]\n", "")
