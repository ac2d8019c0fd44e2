"""Show and measure what one model looked at, and what its words depended on."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nmt import agreement, alignment, paths, plots, readings, scoring, suspects, tracking
from nmt.alignment import Observations
from nmt.config import AnalyzeAttention, Corpus, Params, UnicodeForms, load_params
from nmt.decodings import Decodings, read_decodings
from nmt.errors import UserError
from nmt.files import fresh_folder, sha256, write_csv, write_json, write_json_lines, write_lines
from nmt.gold import Gold, Side, read_gold, word_links
from nmt.readings import STEPS, Pair
from nmt.records import Labelled, read_each
from nmt.scoring import Bootstrap
from nmt.stages.runner import run_for_model
from nmt.words import EOS, Matrix, Sentence, is_punctuation

_DRAWN = range(2, 17)  # words of a source whose heatmap fits a page
_FEWEST = 20  # sentences behind a point of the figure of lengths

Records = Sequence[dict[str, Any]]
"""The test sentences: ids, raw sources, raw references."""


def main(variant: str, seed: int) -> None:
    """Write word links, figures, statistics, and every sentence's matrices between words.

    Reads: data/prepared/test.jsonl, data/gold, reports/translations/<variant>/<seed>.
    Writes: reports/attention/<variant>/<seed>/{links,figures,words.jsonl,suspects.csv,summary.json}.
    Params: corpus, prepare.unicode, evaluate (the bootstrap), analyze_attention, variants.<variant>.
    """
    params = load_params()
    report, settings = paths.attention_report(variant, seed), params.analyze_attention
    decoded = read_decodings(variant, seed, params.variant(variant).attention != "none", params.corpus)
    records = read_records(len(decoded["hypotheses"].pairs))
    read = suspects.read_sentences(decoded["hypotheses"], records, params.corpus.target, settings)
    origin = {"variant": variant, "seed": seed, "hypotheses_sha256": translations_sha256(variant, seed)}
    summary: dict[str, Any] = origin | summarise(decoded, records, params, params.variant(variant).attention)
    with fresh_folder(report / "links", sealed=False) as folder:
        write_links(folder, decoded, settings.link_threshold)
    with fresh_folder(report / "figures", sealed=False) as folder:
        draw_lengths(folder / "length.png", decoded)
        draw_heatmaps(folder, decoded["hypotheses"], records, variant, settings.heatmaps)
        draw_alignment(folder / "alignment.png", summary["alignment"], variant)
    write_json_lines(report / "words.jsonl", suspects.word_records(records, read))
    write_csv(report / "suspects.csv", suspects.listing(records, read), suspects.COLUMNS)
    write_json(report / "summary.json", scoring.rounded(summary | {"suspects": suspects.counts(read)}))
    tracking.publish_model(variant, seed)


def summarise(decoded: dict[str, Decodings], records: Records, params: Params, kind: str) -> dict[str, Any]:
    """All statistics but those of single sentences; `kind` is the model's attention."""
    settings = params.analyze_attention
    bootstrap = scoring.bootstrap_of_scores(params)
    labelled = gold_pairs(decoded["references"], records, params.corpus, params.prepare.unicode)
    return {
        "text": text_summary(decoded),
        "attention": attention_summary(decoded, kind, settings),
        "alignment": alignment_table(labelled, paths.gold_links(params.corpus.name), settings, bootstrap),
        "influence": {name: agreement.agreements(decoded[name].pairs, bootstrap) for name in decoded},
    }


def translations_sha256(variant: str, seed: int) -> str:
    """What ties the report to the translations that it is about."""
    return sha256(paths.translations(variant, seed) / "hypotheses.jsonl")


def read_records(translations: int) -> Records:
    """The test sentences, as many as there are translations."""
    records = read_each(paths.prepared_records("test"), Labelled)
    if len(records) != translations:
        raise UserError(f"{translations} translations of {len(records)} test sentences; run `dvc repro translate`")
    return records


def write_links(folder: Path, decodings: dict[str, Decodings], threshold: float) -> None:
    """Write the words, a space between them, and the links between them: by argmax, and by threshold."""
    write_lines(folder / "source.words.txt", _words(decodings["hypotheses"].sources))
    for name, decoded in decodings.items():
        write_lines(folder / f"{name}.words.txt", _words(decoded.targets))
        for step in STEPS if decoded.attends else ():
            weights = decoded.weights(step)
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


def draw_heatmaps(folder: Path, decoded: Decodings, records: Records, variant: str, count: int) -> None:
    """Draw the attention of a few sentences, the same ones for every variant; an empty hypothesis has no picture."""
    if not decoded.attends:
        return
    weights = decoded.weights("t")
    for number, row in enumerate(choose([len(source.words) for source in decoded.sources], count), start=1):
        name = str(records[row]["id"])
        file = folder / f"{number:02d}-{re.sub(r'[^A-Za-z0-9._-]', '_', name)}.png"
        if decoded.targets[row].words:
            labels = [*decoded.sources[row].words, EOS]
            title = f"{variant}, test sentence {name}"
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


def gold_pairs(decoded: Decodings, records: Records, corpus: Corpus, forms: UnicodeForms) -> list[tuple[Pair, Gold]]:
    """The pairs that have hand-made links, and these between the words that the model was made to write."""
    labelled = read_gold(paths.gold_links(corpus.name))
    found = []
    for pair, record in zip(decoded.pairs, records, strict=True):
        if record["id"] in labelled:
            if not pair.influences:
                raise UserError(
                    f"nothing was measured of {record['id']}, which has gold links; run `dvc repro translate`"
                )
            source = Side(record["source"], corpus.source, forms.source, pair.source)
            target = Side(record["references"][0], corpus.target, forms.target, pair.target)
            found.append((pair, word_links(labelled[record["id"]], source, target)))
    return found


def alignment_table(
    labelled: Sequence[tuple[Pair, Gold]], gold: Path, settings: AnalyzeAttention, bootstrap: Bootstrap
) -> dict[str, Any] | None:
    """The quality of the links for each way to read them; None for a corpus without hand-made ones."""
    if not labelled:
        return None
    pairs, links = zip(*labelled, strict=True)
    rows = readings.table(pairs, links, settings.link_threshold, bootstrap)
    return {"gold": gold.as_posix(), "sentences": len(pairs), "rows": rows}


def draw_alignment(path: Path, aligned: dict[str, Any] | None, variant: str) -> None:
    """Draw the alignment error rates, where there are any."""
    if aligned:
        rates = {
            row["method"]: (row["aer"], row["low"], row["high"]) for row in aligned["rows"] if row["aer"] is not None
        }
        plots.dots(path, {variant: rates}, f"Word links of {variant} against labelled ones", "alignment error rate")


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
    if not decodings["hypotheses"].attends:
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

    now, after = (decoded.weights(step) for step in STEPS)
    return {
        "t": averages(now),
        "t+1": averages(after),
        "uniform": averages([alignment.uniform_like(weights) for weights in now]),
        "diagonal": averages([alignment.diagonal_like(weights) for weights in now]),
    }


if __name__ == "__main__":
    run_for_model(main)
