"""The hand-made links: what their README says of them is true."""

import hashlib
import json
from pathlib import Path

import pytest

from nmt.files import read_json_lines

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
