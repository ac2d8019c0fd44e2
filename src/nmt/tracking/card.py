"""The model card that stands beside a registered model."""

from typing import Any

from nmt import paths
from nmt.config import load_yaml
from nmt.tracking.result import Result


def model_card(result: Result, address: str) -> str:
    """Markdown: what the model is, what it learnt from, how good it is, how to call it, what not to expect.

    `address` is the model's name in the registry with its alias.
    """
    parts = _head(result), _data(result), _scores(result.scores or {}), _usage(result, address), _limits()
    return "\n".join(line for part in parts for line in part) + "\n"


def _head(result: Result) -> list[str]:
    corpus, model, summary = result.params.corpus, result.params.model, result.training_summary or {}
    attention = result.params.variant(result.variant).attention
    direction = "bidirectional" if model.encoder.bidirectional else "unidirectional"
    return [
        f"# {result.name}: {corpus.source} to {corpus.target}",
        "",
        f"A recurrent sequence-to-sequence model ({model.cell.upper()}, {direction} encoder of "
        f"{model.encoder.hidden_size} units per direction, decoder of {model.decoder.hidden_size}), "
        f"attention: {attention}; {summary.get('parameters', 0):,} parameters, "
        f"{summary.get('updates', 0):,} updates, seed {result.seed}.",
        "",
    ]


def _data(result: Result) -> list[str]:
    entry = _corpus_entry(result.params.corpus.name)
    facts = [f"{key}: {entry[key]}" for key in ("licence", "attribution") if entry.get(key)]
    return [
        "## Data",
        "",
        f"Trained on `{result.params.corpus.name}`" + (f" ({'; '.join(facts)})." if facts else "."),
        "The scores are those of its test set.",
        "",
    ]


def _corpus_entry(name: str) -> dict[str, Any]:
    """What `data/corpora.yaml` says of a corpus; empty where the file has it in another place."""
    corpora = load_yaml(paths.CORPORA) if paths.CORPORA.exists() else {}
    entry = corpora.get(name, {}) if isinstance(corpora, dict) else {}
    return entry if isinstance(entry, dict) else {}


def _scores(scores: dict[str, Any]) -> list[str]:
    rows = []
    for key, label in (("bleu", "BLEU"), ("chrf", "chrF"), ("ter", "TER")):
        if metric := scores.get(key):
            interval = f"{metric['low']:.2f} to {metric['high']:.2f}"
            rows.append(f"| {label} | {metric['score']:.2f} | {interval} | `{metric['signature']}` |")
    return ["## Scores", "", "| metric | score | interval | signature |", "|---|--:|---|---|", *rows, ""]


def _usage(result: Result, address: str) -> list[str]:
    translate = result.params.translate
    return [
        "## Use",
        "",
        f"    nmt translate --model models:/{address}",
        "",
        "or `mlflow.pyfunc.load_model`: a table with the column `source` in, `translation` and `score` out. Beam "
        f"{translate.beam_size}, length penalty {translate.length_penalty}. The weights are safetensors: no pickle.",
        "",
    ]


def _limits() -> list[str]:
    return [
        "## Limits",
        "",
        "One or a few sentences at a time, in language like that of the training data. Names, numbers, rare words and "
        "long inputs come out wrong more often than the scores suggest; do not rely on a translation where an error "
        "would do harm.",
    ]
