"""Normalised text, lengths and identity keys."""

import unicodedata
from typing import Literal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nmt.corpus import (
    identity_key,
    identity_keys,
    join_sentences,
    normalise,
    normalise_lines,
    simplify_lines,
    text_length,
)

LANGUAGES = st.sampled_from(["zh", "en", "de"])
FORMS: st.SearchStrategy[Literal["NFC", "NFKC"]] = st.sampled_from(["NFC", "NFKC"])
ANY_TEXT = st.text(st.characters(exclude_categories=[]))


@pytest.mark.parametrize(
    ("text", "language", "form", "expected"),
    [
        ("我們試試看！", "zh", "NFKC", "我们试试看!"),
        ("我們試試看！", "zh", "NFC", "我们试试看！"),
        ("頭髮和發現", "zh", "NFC", "头发和发现"),
        ("乾燥，乾隆", "zh", "NFC", "干燥，乾隆"),  # by phrase, not by character
        ("我們", "en", "NFC", "我們"),
        ("  two \t spaces\u3000here ", "en", "NFC", "two spaces here"),
        ("out \u200b\u200bof pa\u00adper", "en", "NFC", "out of paper"),
        ("bell\x07, null\x00, \ufeffmark", "en", "NFC", "bell, null, mark"),
        ("line\nfeed\r\nand\u2028more", "en", "NFC", "line feed and more"),
        ("e\u200b\u0301", "en", "NFC", "é"),
        ("ﬁn… １２", "en", "NFC", "ﬁn… １２"),
        ("ﬁn… １２", "en", "NFKC", "fin... 12"),
        ("👨\u200d👩\u200d👧", "en", "NFC", "👨\u200d👩\u200d👧"),
        ("a\u2581b", "en", "NFC", "a_b"),
        ("broken \ud83d half", "en", "NFC", "broken half"),
        ("", "zh", "NFKC", ""),
        ("\u200b", "zh", "NFKC", ""),
    ],
)
def test_normalise(text: str, language: str, form: Literal["NFC", "NFKC"], expected: str) -> None:
    """Each rule of normalisation on a case of its own."""
    assert normalise(text, language, form) == expected


@given(ANY_TEXT, LANGUAGES, FORMS)
@example("\u0344\u0301 \u3000\u0300", "en", "NFKC")
def test_normalised_text_is_clean(text: str, language: str, form: Literal["NFC", "NFKC"]) -> None:
    """Normalised text is one line of UTF-8 in the Unicode form, single-spaced."""
    clean = normalise(text, language, form)
    assert unicodedata.is_normalized(form, clean)
    assert clean == " ".join(clean.split()) or not clean.strip()
    assert not any(unicodedata.category(character) == "Cc" for character in clean)
    assert clean.encode().decode() == clean


@given(ANY_TEXT, st.sampled_from(["en", "de"]), FORMS)
def test_normalising_twice_changes_nothing(text: str, language: str, form: Literal["NFC", "NFKC"]) -> None:
    """What was normalised is normal."""
    once = normalise(text, language, form)
    assert normalise(once, language, form) == once


@given(st.lists(ANY_TEXT, max_size=8), LANGUAGES, FORMS)
def test_many_sentences_as_one(lines: list[str], language: str, form: Literal["NFC", "NFKC"]) -> None:
    """Sentences do not touch each other when they are worked on together."""
    assert normalise_lines(lines, language, form) == [normalise(line, language, form) for line in lines]
    assert identity_keys(lines, language) == [identity_key(line, language) for line in lines]


def test_simplify_touches_nothing_else() -> None:
    """Raw references keep their spaces and punctuation."""
    assert simplify_lines(["說：「你好」 ！", " plain  "]) == ["说：「你好」 ！", " plain  "]
    assert simplify_lines([]) == []


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("我们 走吧!", "zh", 5),
        ("東京 へ", "ja", 3),
        ("We are going home!", "en", 4),
        ("안녕 하세요", "ko", 2),
        ("", "en", 0),
        (" ", "zh", 0),
    ],
)
def test_text_length(text: str, language: str, expected: int) -> None:
    """Characters where words are not written apart, words elsewhere."""
    assert text_length(text, language) == expected


def test_join_sentences() -> None:
    """A space between sentences where the language writes one."""
    assert join_sentences(["你好。", "再见。"], "zh") == "你好。再见。"
    assert join_sentences(["Hello.", "Bye."], "en") == "Hello. Bye."
    assert join_sentences([], "en") == ""


@pytest.mark.parametrize(
    ("one", "other", "language"),
    [
        ("我們試試看！", "我们试试看", "zh"),
        ("Don't  STOP!", "dont stop", "en"),
        ("ＡＢＣ１", "abc1", "en"),
        ("Straße", "STRASSE", "de"),
        ("A\u200b.", "a", "en"),
    ],
)
def test_same_key(one: str, other: str, language: str) -> None:
    """Sentences that differ in script, width, case, punctuation or spaces only count as the same."""
    assert identity_key(one, language) == identity_key(other, language) != ""


@pytest.mark.parametrize(
    ("one", "other", "language"),
    [
        ("?!", "...", "en"),
        ("。。。", "", "zh"),
        ("They're", "There", "en"),
        ("我們", "我们", "en"),
        ("😀", "😂", "en"),
        ("1+1", "11", "en"),
    ],
)
def test_different_keys(one: str, other: str, language: str) -> None:
    """Different sentences keep different keys, those of nothing but punctuation included."""
    assert identity_key(one, language) != identity_key(other, language)
