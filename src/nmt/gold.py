"""Hand-made word links between raw sentences, brought to the words of the text that the model reads.

A line of the file is one test sentence:

    {"id": "796979-268841", "sure": [[s0, s1, t0, t1], ...], "possible": [...]}

Spans are of characters, from the first to the one after the last, in the raw source and in the raw first reference, so
that the links hold for any normalisation and any segmentation.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from nmt.config import Natural, Section
from nmt.corpus import Form, normalise, normalise_lines
from nmt.errors import UserError
from nmt.files import read_json_lines
from nmt.records import explain
from nmt.words import Sentence, Span

Links = set[tuple[int, int]]
"""Pairs (source word, target word), from 0."""
SpanLink = Annotated[list[Natural], Field(min_length=4, max_length=4)]

_LINK = re.compile(r"(\d+)-(\d+)(-P)?")


@dataclass(frozen=True)
class Gold:
    """Hand-made links of one sentence; sure ones are possible, too."""

    sure: Links
    possible: Links


def parse_gold(line: str) -> Gold:
    """Read `i-j` for a sure and `i-j-P` for a possible link; ValueError for anything else."""
    sure: Links = set()
    possible: Links = set()
    for item in line.split():
        link = _LINK.fullmatch(item)
        if not link:
            raise ValueError(f"{item!r} is not a link: write i-j for a sure one, i-j-P for a possible one")
        pair = (int(link[1]), int(link[2]))
        possible.add(pair)
        if not link[3]:
            sure.add(pair)
    return Gold(sure, possible)


class SpanLinks(Section):
    """The links of one sentence."""

    id: str
    sure: list[SpanLink]
    possible: list[SpanLink]
    """Without the sure ones."""


def read_gold(path: Path) -> dict[str, SpanLinks]:
    """The labelled sentences by id; none where there is no such file."""
    found: dict[str, SpanLinks] = {}
    for number, line in enumerate(read_json_lines(path) if path.exists() else [], start=1):
        try:
            links = SpanLinks.model_validate(line)
        except ValidationError as error:
            raise UserError(f"{path}, line {number} does not hold gold links: {explain(error)}") from None
        if links.id in found:
            raise UserError(f"{path}, line {number}: {links.id!r} is labelled twice; keep one of the lines")
        found[links.id] = links
    return found


@dataclass(frozen=True)
class Side:
    """One side of a labelled pair: what was labelled, and what the model reads of it."""

    raw: str
    language: str
    form: Form
    read: Sentence
    """The normalised text, cut into words."""

    def touched(self, spans: Sequence[Span]) -> list[list[int]]:
        """For each span of the raw text the words that have a character of it."""
        if any(not 0 <= begin < end <= len(self.raw) for begin, end in spans):
            raise UserError(f"gold links reach beyond {self.raw!r}: they were made of another text")
        if normalise(self.raw, self.language, self.form) != self.read.text:
            raise UserError(f"gold links are of {self.raw!r}, the model read {self.read.text!r}; run `dvc repro`")
        return [
            [i for i, (start, stop) in enumerate(self.read.spans) if start < end and begin < stop]
            for begin, end in normalised_spans(self.raw, spans, self.language, self.form)
        ]


def word_links(links: SpanLinks, source: Side, target: Side) -> Gold:
    """Links between words: every word of a source span with every word of its target span."""
    sure, possible = (_between(spans, source, target) for spans in (links.sure, links.possible))
    return Gold(sure, sure | possible)


def _between(links: Sequence[Sequence[int]], source: Side, target: Side) -> Links:
    left = source.touched([(link[0], link[1]) for link in links])
    right = target.touched([(link[2], link[3]) for link in links])
    return {(i, j) for ours, theirs in zip(left, right, strict=True) for i in ours for j in theirs}


def normalised_spans(raw: str, spans: Sequence[Span], language: str, form: Form) -> list[Span]:
    """Where spans of a raw text lie in its normalised form, which may be longer or shorter.

    A text can be cut at a place if the normalised parts are as long as the normalised whole (a space that stood at the
    cut may be lost): then the cut falls between them. Where it cannot, as between a letter and its combining accent,
    the characters around are one, and a span that has a part of them gets all.
    """
    places = range(len(raw) + 1)
    parts = normalise_lines([raw, *(raw[:k] for k in places), *(raw[k:] for k in places)], language, form)
    whole, before, after = parts[0], parts[1 : len(raw) + 2], parts[len(raw) + 2 :]
    gaps = [len(whole) - len(left) - len(right) for left, right in zip(before, after, strict=True)]
    cuts = [k for k in places if gaps[k] == 0 or (gaps[k] == 1 and whole[len(before[k])] == " ")]
    return [
        (
            len(whole) - len(after[max(k for k in cuts if k <= begin)]),
            len(before[min(k for k in cuts if k >= end)]),
        )
        for begin, end in spans
    ]
