"""Show and measure what one model looked at."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nmt import alignment, paths, plots, tracking
from nmt.alignment import Observations
from nmt.config import AnalyzeAttention, Corpus, Params, load_params
from nmt.errors import UserError
from nmt.files import fresh_folder, read_json_lines, read_matrices, sha256, write_json, write_lines
from nmt.stages.runner import run_for_model
from nmt.words import EOS, Matrix, Sentence, is_punctuation, segment

STEPS = ("t", "t+1")
_DRAWN = range(2, 17)  # words of a source whose heatmap fits a page
_FEWEST = 20  # sentences behind a point of the figure of lengths


@dataclass(frozen=True)
class Decodings:
    """One target text per test sentence, decoded freely or forced, and what was looked at on the way."""

    sources: list[Sentence]
    targets: list[Sentence]
    finished: list[bool]
    """Whether a text ends in eos rather than at the length limit."""
    pieces: list[np.ndarray] | None
    """Attention between pieces [T, S] of each pair; None for a model without."""

    def attention(self, step: str) -> list[Matrix]:
        """Attention between words, read out at step `t` or `t+1` (see `alignment.next_step`)."""
        assert self.pieces is not None, "a model without attention"
        rows = [alignment.next_step(weights) if step == "t+1" else weights for weights in self.pieces]
        return [
            alignment.word_attention(weights, source, target)
            for weights, source, target in zip(rows, self.sources, self.targets, strict=True)
        ]


def main(variant: str, seed: int) -> None:
    """Write word links, figures and statistics; for a model without attention, what there is to say of its output.

    Reads: data/prepared/test.jsonl, reports/translations/<variant>/<seed>.
    Writes: reports/attention/<variant>/<seed>/{links,figures,summary.json}.
    Params: corpus, analyze_attention, variants.<variant>.
    """
    params = load_params()
    report = paths.attention_report(variant, seed)
    decodings = read_decodings(params, variant, seed)
    names = read_names(len(decodings["hypotheses"].sources))
    with fresh_folder(report / "links") as folder:
        write_links(folder, decodings, params.analyze_attention.link_threshold)
    with fresh_folder(report / "figures") as folder:
        draw_lengths(folder / "length.png", decodings)
        draw_heatmaps(folder, decodings["hypotheses"], names, variant, params.analyze_attention.heatmaps)
    summary = {
        "variant": variant,
        "seed": seed,
        "hypotheses_sha256": sha256(paths.translations(variant, seed) / "hypotheses.jsonl"),
        "text": text_summary(decodings),
        "attention": attention_summary(decodings, params.variant(variant).attention, params.analyze_attention),
    }
    write_json(report / "summary.json", summary)
    tracking.publish_model(variant, seed)


def read_decodings(params: Params, variant: str, seed: int) -> dict[str, Decodings]:
    """Read `hypotheses` (the best of each) and `references`, cut into words."""
    folder = paths.translations(variant, seed)
    attends = params.variant(variant).attention != "none"
    hypotheses = read_json_lines(folder / "hypotheses.jsonl")
    best = [{**line["hypotheses"][0], "source_pieces": line["source_pieces"]} for line in hypotheses]
    forced = read_json_lines(folder / "references.jsonl")
    matrices = ("attention.npz", "references.attention.npz")
    return {
        name: _decodings(lines, folder / file if attends else None, params.corpus)
        for name, lines, file in zip(("hypotheses", "references"), (best, forced), matrices, strict=True)
    }


def read_names(translations: int) -> list[str]:
    """The ids of the test sentences, as many as there are translations."""
    names = [str(record["id"]) for record in read_json_lines(paths.prepared_records("test"))]
    if len(names) != translations:
        raise UserError(f"{translations} translations of {len(names)} test sentences; run `dvc repro translate`")
    return names


def _decodings(lines: Sequence[dict[str, Any]], matrices: Path | None, corpus: Corpus) -> Decodings:
    if matrices and not matrices.exists():
        raise UserError(f"{matrices} does not exist, though the model has attention; run `dvc repro translate`")
    pieces = read_matrices(matrices) if matrices else None
    shapes = [(len(line["pieces"]), len(line["source_pieces"])) for line in lines]
    if pieces is not None and shapes != [weights.shape for weights in pieces]:
        raise UserError(f"{matrices} does not fit the pieces in the file beside it; run `dvc repro --force translate`")
    return Decodings(
        sources=[segment(line["source_pieces"], corpus.source) for line in lines],
        targets=[segment(line["pieces"], corpus.target) for line in lines],
        finished=[line["pieces"][-1:] == [EOS] for line in lines],
        pieces=pieces,
    )


def write_links(folder: Path, decodings: dict[str, Decodings], threshold: float) -> None:
    """Write the words, a space between them, and the links between them: by argmax, and by threshold."""
    write_lines(folder / "source.words.txt", _words(decodings["hypotheses"].sources))
    for name, decoded in decodings.items():
        write_lines(folder / f"{name}.words.txt", _words(decoded.targets))
        for step in STEPS if decoded.pieces is not None else ():
            weights = decoded.attention(step)
            best = [alignment.argmax_links(sentence) for sentence in weights]
            strong = [alignment.threshold_links(sentence, threshold) for sentence in weights]
            write_lines(folder / f"{name}.{step}.pharaoh", map(alignment.format_links, best))
            write_lines(folder / f"{name}.{step}.threshold.pharaoh", map(alignment.format_links, strong))


def _words(sentences: Sequence[Sentence]) -> list[str]:
    return [" ".join(sentence.words) for sentence in sentences]


def draw_lengths(path: Path, decodings: dict[str, Decodings]) -> None:
    """Draw how many words are written for how many words read."""
    lengths = [len(source.words) for source in decodings["hypotheses"].sources]
    series = []
    for name, decoded in decodings.items():
        written = [len(target.words) for target in decoded.targets]
        series.append(plots.Series(name, *alignment.mean_by_length(lengths, written, _FEWEST)))
    plots.curves(path, series, "Length of the output", "words in the source", "words in the target (mean)")


def draw_heatmaps(folder: Path, decoded: Decodings, names: Sequence[str], variant: str, count: int) -> None:
    """Draw the attention of a few sentences, the same ones for every variant; an empty hypothesis has no picture."""
    if decoded.pieces is None:
        return
    weights = decoded.attention("t")
    for number, row in enumerate(choose([len(source.words) for source in decoded.sources], count), start=1):
        file = folder / f"{number:02d}-{re.sub(r'[^A-Za-z0-9._-]', '_', names[row])}.png"
        if decoded.targets[row].words:
            labels = [*decoded.sources[row].words, EOS]
            title = f"{variant}, test sentence {names[row]}"
            plots.heatmap(file, weights[row], labels, decoded.targets[row].words, title)


def choose(lengths: Sequence[int], count: int) -> list[int]:
    """Rows of up to `count` sentences, short to medium, at even steps of length; of equal ones the first.

    It looks at the sources alone, so that it falls on the same sentences for every variant.
    """
    left = [row for row, length in enumerate(lengths) if length in _DRAWN]
    chosen: list[int] = []
    for wanted in np.linspace(_DRAWN[0], _DRAWN[-1], count)[: len(left)]:
        chosen.append(min(left, key=lambda row: (abs(lengths[row] - wanted), row)))
        left.remove(chosen[-1])
    return sorted(chosen, key=lambda row: (lengths[row], row))


def text_summary(decodings: dict[str, Decodings]) -> dict[str, object]:
    """Lengths and repetitions, which every model's output has."""
    hypotheses, references = decodings["hypotheses"], decodings["references"]
    return alignment.text_statistics(
        sources=[source.words for source in hypotheses.sources],
        hypotheses=[target.words for target in hypotheses.targets],
        references=[target.words for target in references.targets],
        finished=hypotheses.finished,
    )


def attention_summary(
    decodings: dict[str, Decodings], kind: str, settings: AnalyzeAttention
) -> dict[str, object] | None:
    """Statistics at both steps beside those of the two baselines; None for a model without attention."""
    if decodings["hypotheses"].pieces is None:
        return None
    measured = {name: _measure(decoded, settings.link_threshold) for name, decoded in decodings.items()}
    return {"kind": kind, "link_threshold": settings.link_threshold, **measured}


def _measure(decoded: Decodings, threshold: float) -> dict[str, dict[str, float | None]]:
    marks = [[is_punctuation(word) for word in source.words] for source in decoded.sources]

    def averages(matrices: Sequence[Matrix]) -> dict[str, float | None]:
        observations: list[Observations] = [
            alignment.observe(weights, punctuation, threshold)
            for weights, punctuation in zip(matrices, marks, strict=True)
        ]
        return alignment.average(observations)

    now, after = (decoded.attention(step) for step in STEPS)
    return {
        "t": averages(now),
        "t+1": averages(after),
        "uniform": averages([alignment.uniform_like(weights) for weights in now]),
        "diagonal": averages([alignment.diagonal_like(weights) for weights in now]),
    }


if __name__ == "__main__":
    run_for_model(main)
