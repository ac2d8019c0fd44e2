"""All variants and seeds side by side: one mapping that every table, figure and text of the comparison is made from."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from nmt import frequency, scoring
from nmt.config import Params
from nmt.corpus import text_lengths
from nmt.errors import UserError
from nmt.runs import SCORES, EnsembleRun, Run, Runs
from nmt.scoring import Bootstrap, Floats, Joined, Statistics
from nmt.significance import Effect, gap_slope, paired_bootstrap, paired_shares
from nmt.testset import Sentences

TRAINING_MEASURES = (
    "parameters",
    "updates",
    "epochs",
    "best_epoch",
    "source_tokens",
    "target_tokens",
    "flops",
    "train_loss",
    "dev_loss",
    "dev_perplexity",
)
SHARES = ("perplexity_per_token", "perplexity_per_word", "exact_match")
TESTED = ("bleu", "chrf")


def compare(
    params: Params,
    sentences: Sentences,
    runs: Runs,
    together: Mapping[str, EnsembleRun],
    words: Mapping[str, int],
) -> dict[str, Any]:
    """Return the whole comparison, ready for JSON.

    `together` are ensembles of the models of `runs`, `words` those of the training text with their counts.
    """
    first = next(iter(runs.values()))[0]
    return {
        "corpus": params.corpus.model_dump(),
        "sentences": len(sentences),
        "several_references": sum(len(several) > 1 for several in sentences.references),
        "baseline": params.compare.baseline,
        "seeds": list(params.seeds),
        "confidence": params.evaluate.confidence,
        "bootstrap_samples": params.compare.bootstrap_samples,
        "signatures": {metric: first.scores[metric]["signature"] for metric in SCORES},
        "variants": {name: summarise(several) for name, several in runs.items()},
        **ensembles(params, sentences, runs, together),
        "tests": tests(params, sentences, runs, words),
        "examples": examples(params, sentences, runs),
    }


def summarise(runs: Sequence[Run]) -> dict[str, Any]:
    """Return one variant's numbers: the mean over its seeds, and each run's own."""
    scores = [run.scores for run in runs]
    return {
        "attention": runs[0].scores["attention"],
        "training": {key: measure([run.training[key] for run in runs]) for key in TRAINING_MEASURES},
        "scores": main_scores(scores),
        "by_length": [by_length_row(rows) for rows in zip(*(score["by_length"] for score in scores), strict=True)],
        "joined": [joined_row(rows) for rows in zip(*(score["joined"] for score in scores), strict=True)],
        "by_frequency": [
            frequency_row(rows) for rows in zip(*(score["by_frequency"] for score in scores), strict=True)
        ],
        "ablations": ablations(scores),
        "alignment": alignment(runs),
        "attention_report": attention_measures(runs),
        "runs": [run_numbers(run) for run in runs],
    }


def main_scores(scores: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the means over seeds of what is told of the whole test set."""
    return {key: score_measure([score[key] for score in scores]) for key in SCORES} | {
        key: measure([score[key] for score in scores]) for key in SHARES
    }


def measure(values: Sequence[float]) -> dict[str, Any]:
    """Return the mean over seeds and, of several, the standard deviation (of the sample)."""
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": values[0] if deviation is None else statistics.fmean(values), "deviation": deviation}


def score_measure(scores: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the mean over seeds of a score; a single run keeps its bootstrap interval."""
    interval = {"low": scores[0]["low"], "high": scores[0]["high"]} if len(scores) == 1 else {}
    return measure([score["score"] for score in scores]) | interval


def by_length_row(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return one class of source length: it holds the same sentences whatever the seed."""
    shared = {key: rows[0][key] for key in ("low", "high", "sentences", "mean_length")}
    bleu = [{"score": row["bleu"], "low": row["bleu_low"], "high": row["bleu_high"]} for row in rows]
    return shared | {"bleu": score_measure(bleu), "chrf": measure([row["chrf"] for row in rows])}


def joined_row(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return one number of sentences per input."""
    bleu = [{"score": row["bleu"], "low": row["low"], "high": row["high"]} for row in rows]
    shared = {"joined": rows[0]["joined"], "sentences": rows[0]["sentences"]}
    return shared | {"bleu": score_measure(bleu), "chrf": measure([row["chrf"] for row in rows])}


def frequency_row(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return one class of reference words: it holds the same words whatever the seed."""
    recall = [{"score": row["recall"], "low": row["recall_low"], "high": row["recall_high"]} for row in rows]
    shared = {key: rows[0][key] for key in ("low", "high", "words")}
    return shared | {"recall": None if rows[0]["recall"] is None else score_measure(recall)}


def ablations(scores: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return BLEU for each way to disturb the attention."""
    return {
        name: score_measure(
            [{**score["ablations"][name], "score": score["ablations"][name]["bleu"]} for score in scores]
        )
        for name in scores[0]["ablations"]
    }


def alignment(runs: Sequence[Run]) -> list[dict[str, Any]] | None:
    """Return the quality of the word links for each way to read them; None without hand-made links."""
    tables = [table for run in runs if (table := run.attention.get("alignment"))]
    if len(tables) < len(runs):
        return None
    return [
        {
            "method": rows[0]["method"],
            "sentences": tables[0]["sentences"],
            **{key: _known([row[key] for row in rows]) for key in ("precision", "recall")},
            "aer": None if rows[0]["aer"] is None else score_measure([{**row, "score": row["aer"]} for row in rows]),
        }
        for rows in zip(*(table["rows"] for table in tables), strict=True)
    ]


def _known(values: Sequence[float | None]) -> dict[str, Any] | None:
    """Return the mean over seeds, None where a seed has none."""
    known = [value for value in values if value is not None]
    return measure(known) if len(known) == len(values) else None


def attention_measures(runs: Sequence[Run]) -> dict[str, Any]:
    """Return every number that the attention reports of all runs have, whatever it is called."""
    flat = [dict(numbers(run.attention)) for run in runs]
    return {key: measure([one[key] for one in flat]) for key in flat[0] if all(key in one for one in flat)}


def numbers(report: Mapping[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    """Return the numbers of nested mappings under dotted names; a report's own variant and seed are none."""
    found: list[tuple[str, float]] = []
    for key, value in report.items():
        if isinstance(value, Mapping):
            found += numbers(value, f"{prefix}{key}.")
        elif isinstance(value, int | float) and not isinstance(value, bool) and prefix + key != "seed":
            found.append((prefix + key, value))
    return found


def run_numbers(run: Run) -> dict[str, Any]:
    """Return what one run adds to the means: where it stands and its main scores."""
    scores = {key: {part: run.scores[key][part] for part in ("score", "low", "high")} for key in SCORES}
    return {
        "seed": run.seed,
        "result_id": run.scores["result_id"],
        "training": {key: run.training[key] for key in TRAINING_MEASURES},
        "scores": scores | {key: run.scores[key] for key in SHARES},
    }


def tests(params: Params, sentences: Sentences, runs: Runs, words: Mapping[str, int]) -> dict[str, Any]:
    """Test each variant against the baseline: BLEU, chrF, how the gap grows with joined sentences, recall of words."""
    baseline, language = params.compare.baseline, params.corpus.target
    bootstrap = scoring.bootstrap_of_tests(params)
    counts = {
        metric: {name: [count(run, sentences, metric, language) for run in several] for name, several in runs.items()}
        for metric in TESTED
    }
    joined = {name: [joined_of(run, sentences) for run in several] for name, several in runs.items()}
    classes = params.evaluate.frequency_classes
    recalled = {
        name: [recalled_of(run, sentences, language, classes, words) for run in several]
        for name, several in runs.items()
    }
    return {
        name: {
            metric: score_test(params.seeds, counts[metric][name], counts[metric][baseline], bootstrap)
            for metric in TESTED
        }
        | {
            "gap": gap_test(joined[name], joined[baseline], language, bootstrap),
            "recall": recall_tests(recalled[name], recalled[baseline], bootstrap),
        }
        for name in runs
        if name != baseline
    }


def ensembles(
    params: Params, sentences: Sentences, runs: Runs, together: Mapping[str, EnsembleRun]
) -> dict[str, dict[str, Any]]:
    """Return the numbers of each ensemble, and its tests against the mean of its models; nothing where there is none.

    A key that stands there only with ensembles leaves the comparisons of all others as they are.
    """
    language = params.corpus.target
    bootstrap = scoring.bootstrap_of_tests(params)
    found = {
        name: {
            "models": len(one.seeds),
            "parameters": sum(run.training["parameters"] for run in runs[name]),
            "scores": main_scores([one.scores]),
            "by_length": [by_length_row([row]) for row in one.scores["by_length"]],
            "joined": [joined_row([row]) for row in one.scores["joined"]],
            "tests": {
                metric: effect(
                    paired_bootstrap(
                        [count(one, sentences, metric, language)],
                        [count(run, sentences, metric, language) for run in runs[name]],
                        bootstrap,
                    )
                )
                for metric in TESTED
            },
        }
        for name, one in together.items()
    }
    return {"ensembles": found} if found else {}


def count(run: Run | EnsembleRun, sentences: Sentences, metric: str, language: str) -> Statistics:
    """Count one metric in the hypotheses of one run, or of an ensemble."""
    return scoring.statistics(scoring.METRICS[metric](language), run.translations.hypotheses, sentences.references)


def joined_of(run: Run, sentences: Sentences) -> list[Joined]:
    """Return one run's inputs by how many sentences they hold."""
    return scoring.joined_sets(run.translations.hypotheses, sentences.references, run.translations.joined)


def score_test(
    seeds: Sequence[int], systems: Sequence[Statistics], baselines: Sequence[Statistics], bootstrap: Bootstrap
) -> dict[str, Any]:
    """Return the paired test of the seeds' mean, and of each seed where there are several."""
    result = effect(paired_bootstrap(systems, baselines, bootstrap))
    if len(seeds) == 1:
        return result
    pairs = zip(seeds, systems, baselines, strict=True)
    return result | {"seeds": {str(seed): effect(paired_bootstrap([a], [b], bootstrap)) for seed, a, b in pairs}}


def gap_test(
    systems: Sequence[Sequence[Joined]], baselines: Sequence[Sequence[Joined]], language: str, bootstrap: Bootstrap
) -> dict[str, Any] | None:
    """Return the gap in BLEU at each number of joined sentences and its slope; None if none were joined."""
    sizes = [one.size for one in systems[0]]
    if any([one.size for one in several] != sizes for several in (*systems, *baselines)):
        raise UserError("the variants were translated with different `translate.joined`; run `dvc repro translate`")
    if len(sizes) < 2:
        return None
    gaps, slope = gap_slope(systems, baselines, scoring.bleu(language), bootstrap)
    return {"joined": sizes, "gaps": gaps, "slope": effect(slope)}


def recalled_of(
    run: Run, sentences: Sentences, language: str, classes: Sequence[int], words: Mapping[str, int]
) -> Floats:
    """Count the reference words, and those recalled, in each sentence and class of frequency."""
    own = [references[0] for references in sentences.references]
    return frequency.recalled(run.translations.hypotheses, own, words, classes, language)


def recall_tests(
    systems: Sequence[Floats], baselines: Sequence[Floats], bootstrap: Bootstrap
) -> list[dict[str, float] | None]:
    """Return the paired test of recall in each class of frequency; None for a class without words."""
    return [
        effect(paired_shares([one[:, k] for one in systems], [one[:, k] for one in baselines], bootstrap))
        if systems[0][:, k, 0].any()
        else None
        for k in range(systems[0].shape[1])
    ]


def effect(measured: Effect) -> dict[str, float]:
    """Return an effect as a mapping."""
    return asdict(measured)


def examples(params: Params, sentences: Sentences, runs: Runs) -> list[dict[str, Any]]:
    """Return the middle sentence of each of equally large classes of source length, with every variant's first seed.

    No translation is looked at in choosing.
    """
    if not params.compare.examples:
        return []
    lengths = text_lengths(sentences.sources, params.corpus.source)
    classes = scoring.length_bins(lengths, params.compare.examples)
    return [example(int(rows[len(rows) // 2]), sentences, runs) for rows in classes]


def example(row: int, sentences: Sentences, runs: Runs) -> dict[str, Any]:
    """Return one sentence with its translations."""
    reference_ids = sentences.reference_ids[row]
    return {
        "row": row,
        "source": sentences.sources[row],
        "source_id": sentences.source_ids[row],
        "reference": sentences.references[row][0],
        "reference_id": reference_ids[0] if reference_ids else None,
        "hypotheses": {name: several[0].translations.hypotheses[row] for name, several in runs.items()},
    }
