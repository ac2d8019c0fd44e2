"""The hand-made links: what their README says of them is true, and how they reach the words that a model reads."""

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nmt.corpus import Form, normalise
from nmt.errors import UserError
from nmt.files import read_json_lines, write_json_lines
from nmt.gold import Gold, Side, SpanLinks, normalised_spans, read_gold, word_links
from nmt.words import segment

GOLD = Path(__file__).parent.parent / "data" / "gold"
FILES = ("tatoeba-zh-en.jsonl", "passes/first.jsonl", "passes/second.jsonl")

Span = tuple[int, int, int, int]


def spans(line: dict[str, list[list[int]]], *kinds: str) -> set[Span]:
    """The links of these kinds."""
    return {(s0, s1, t0, t1) for kind in kinds for s0, s1, t0, t1 in line[kind]}


def meeting(one: Span, other: Span) -> Span | None:
    """What two links have in common."""
    begin_s, end_s = max(one[0], other[0]), min(one[1], other[1])
    begin_t, end_t = max(one[2], other[2]), min(one[3], other[3])
    return (begin_s, end_s, begin_t, end_t) if begin_s < end_s and begin_t < end_t else None


@pytest.mark.parametrize("name", FILES)
def test_ids_and_spans_only(name: str) -> None:
    """100 pairs, in the order of their hashes; every span holds a character on both sides; no link is of both kinds."""
    lines = read_json_lines(GOLD / name)
    assert len(lines) == 100
    digests = [hashlib.sha256(f"gold:{line['id']}".encode()).hexdigest() for line in lines]
    assert digests == sorted(digests)
    for line in lines:
        assert set(line) == {"id", "sure", "possible"}
        assert all(0 <= s0 < s1 and 0 <= t0 < t1 for s0, s1, t0, t1 in spans(line, "sure", "possible"))
        assert not spans(line, "sure") & spans(line, "possible")


def test_gold_follows_from_the_passes() -> None:
    """Sure: what both passes call sure; possible: all else."""
    for line, *passes in zip(*(read_json_lines(GOLD / name) for name in FILES), strict=True):
        first, second = (spans(one, "sure") for one in passes)
        sure = {common for one in first for other in second if (common := meeting(one, other))}
        every = set().union(*(spans(one, "sure", "possible") for one in passes))
        assert spans(line, "sure") == sure, line["id"]
        assert spans(line, "possible") == every - sure, line["id"]


def test_agreement() -> None:
    """The README's figures."""
    first, second = (read_json_lines(GOLD / name) for name in FILES[1:])
    for kinds, stated in ((("sure",), "610 and 614, 593 in both"), (("sure", "possible"), "885 and 866, 814 in both")):
        ours, theirs = ([spans(line, *kinds) for line in lines] for lines in (first, second))
        common = sum(len(a & b) for a, b in zip(ours, theirs, strict=True))
        a, b = sum(map(len, ours)), sum(map(len, theirs))
        text = " ".join((GOLD / "README.md").read_text(encoding="utf-8").split())
        assert f"{a} and {b}, {common} in both" == stated
        assert stated in text
        assert f"{2 * common / (a + b):.3f}" in text


def test_no_sentence_is_committed() -> None:
    """The files hold no text but ids."""
    for name in FILES:
        for line in (GOLD / name).read_text(encoding="utf-8").splitlines():
            assert line.isascii()
            assert json.loads(line)["id"].replace("-", "").isdigit()


def raw_parts(raw: str, language: str, form: Form) -> list[str]:
    """What each character of a raw text has become."""
    text = normalise(raw, language, form)
    spans = normalised_spans(raw, [(i, i + 1) for i in range(len(raw))], language, form)
    return [text[begin:end] for begin, end in spans]


@pytest.mark.parametrize(
    ("raw", "language", "form", "parts"),
    [
        ("等到綠色。", "zh", "NFKC", ["等", "到", "绿", "色", "。"]),
        ("艺术很瞭解", "zh", "NFKC", ["艺", "术", "很", "了", "解"]),  # 瞭 alone would stay: its phrase decides
        ("㍿有…", "zh", "NFKC", ["株式会社", "有", "..."]),  # longer
        ("①２ｋｇ", "zh", "NFKC", ["1", "2", "k", "g"]),
        ("cafe\u0301 x", "en", "NFC", ["c", "a", "f", "é", "é", "", "x"]),  # shorter: letter and accent are one
        ("  a \u3000 b ", "en", "NFC", ["", "", "a", "", "", "", "b", ""]),
        ("a\u200bb", "en", "NFC", ["a", "", "b"]),  # a character that is left out
        ("各\u1100\u1161가", "ko", "NFC", ["各", "가", "가", "가"]),
    ],
)
def test_where_characters_go(raw: str, language: str, form: Form, parts: list[str]) -> None:
    """Through changes of length, context and spaces, each character finds what it has become."""
    assert raw_parts(raw, language, form) == parts


@given(st.text(alphabet="ab é\u0301\u3000綠乾瞭解①㍿…\u200b가ᅡᄀ", max_size=12), st.integers(0, 12), st.integers(0, 12))
def test_spans_of_any_text(raw: str, one: int, other: int) -> None:
    """A span's text is that of its own characters, or of more where they cannot be parted; the whole is the whole."""
    begin, end = sorted((min(one, len(raw)), min(other, len(raw))))
    text = normalise(raw, "zh", "NFKC")
    (start, stop), whole = normalised_spans(raw, [(begin, end), (0, len(raw))], "zh", "NFKC")
    assert whole == (0, len(text))
    if raw[begin:end].strip():
        assert len(text[start:stop]) >= len(normalise(raw[begin:end], "zh", "NFKC")) - raw[begin:end].count("\u0301")
    assert 0 <= start <= len(text)
    assert 0 <= stop <= len(text)


def side(raw: str, language: str, form: Form, pieces: list[str]) -> Side:
    """A side whose text the model reads in these pieces."""
    return Side(raw, language, form, segment([*pieces, "</s>"], language))


SOURCE = side("我喜歡 北京大學。", "zh", "NFKC", ["我", "喜欢", "▁北京大学", "。"])  # 我 | 喜欢 | 北京大学 | 。
TARGET = side("I like\u00a0Peking University.", "en", "NFC", ["▁I", "▁like", "▁Peking", "▁University", "."])


def test_links_between_words() -> None:
    """A span's words are all that have a character of it, and each is linked with each of the other span's."""
    links = SpanLinks(
        id="1", sure=[[0, 1, 0, 1], [1, 3, 2, 6], [6, 8, 14, 24]], possible=[[4, 6, 7, 13], [8, 9, 24, 25]]
    )
    gold = word_links(links, SOURCE, TARGET)
    assert gold.sure == {(0, 0), (1, 1), (2, 3)}
    assert gold.possible == gold.sure | {(2, 2), (3, 4)}


def test_part_of_a_word_and_several_words() -> None:
    """A labelled character links the word that holds it; a span over words links all of them."""
    gold = word_links(SpanLinks(id="1", sure=[[2, 3, 0, 6]], possible=[[2, 3, 2, 4]]), SOURCE, TARGET)
    assert gold == Gold(sure={(1, 0), (1, 1)}, possible={(1, 0), (1, 1)})


def test_links_of_another_text_are_refused(tmp_path: Path) -> None:
    """Spans beyond the text, a text that the model did not read, and lines of another form are named."""
    with pytest.raises(UserError, match="beyond"):
        word_links(SpanLinks(id="1", sure=[[0, 99, 0, 1]], possible=[]), SOURCE, TARGET)
    with pytest.raises(UserError, match="the model read 'You'"):
        word_links(SpanLinks(id="1", sure=[], possible=[]), SOURCE, side("I", "en", "NFC", ["▁You"]))
    write_json_lines(tmp_path / "gold.jsonl", [{"id": "1", "sure": [[0, 1, 2]], "possible": []}])
    with pytest.raises(UserError, match=r"gold\.jsonl, line 1 does not hold gold links"):
        read_gold(tmp_path / "gold.jsonl")
    assert read_gold(tmp_path / "none.jsonl") == {}
    assert len(read_gold(GOLD / FILES[0])) == 100
