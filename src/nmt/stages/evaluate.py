"""Score one model's translations of the test set."""

from dataclasses import asdict
from typing import Any

from nmt import frequency, identity, paths, scoring, testset, tracking
from nmt.config import Corpus, Evaluate, load_params
from nmt.corpus import text_lengths
from nmt.files import each_line, write_json
from nmt.stages.runner import run_for_model
from nmt.testset import Sentences, Translations


def main(variant: str, seed: int) -> None:
    """Write every metric of one model.

    Reads: data/prepared/{test.jsonl,train.target.txt}, reports/{translations,training}/<variant>/<seed>.
    Writes: reports/scores/<variant>/<seed>.json.
    Params: corpus, evaluate, translate (for the identity of the result), variants.<variant>.
    """
    params = load_params()
    sentences = testset.read_sentences()
    translations = testset.read_translations(variant, seed, sentences)
    training_id = testset.read_training(variant, seed)["training_id"]
    bootstrap = scoring.bootstrap_of_scores(params)
    report = {
        "result_id": identity.result_id(training_id, params),
        "variant": variant,
        "seed": seed,
        "attention": params.variant(variant).attention,
        "sentences": len(sentences),
        **scores(sentences, translations, params.corpus, params.evaluate, bootstrap),
        "by_frequency": recall(sentences, translations, params.corpus.target, params.evaluate, bootstrap),
    }
    write_json(paths.scores(variant, seed), scoring.rounded(report))
    tracking.publish_model(variant, seed)


def scores(
    sentences: Sentences,
    translations: Translations,
    corpus: Corpus,
    evaluate: Evaluate,
    bootstrap: scoring.Bootstrap,
) -> dict[str, Any]:
    """Return all scores of a report, by name."""
    hypotheses, references = translations.hypotheses, sentences.references
    counts = {
        name: scoring.statistics(metric(corpus.target), hypotheses, references)
        for name, metric in scoring.METRICS.items()
    }
    lengths = text_lengths(sentences.sources, corpus.source)
    joined = scoring.joined_sets(hypotheses, references, translations.joined)
    return {
        **{name: asdict(bootstrap.score(one)) | {"signature": one.signature} for name, one in counts.items()},
        **perplexities(sentences, translations, corpus.target),
        "exact_match": scoring.exact_match(hypotheses, references),
        "by_length": scoring.scores_by_length(lengths, evaluate.length_bins, counts["bleu"], counts["chrf"], bootstrap),
        "joined": scoring.scores_of_joined(joined, corpus.target, bootstrap),
        "ablations": ablations(translations, references, corpus.target, bootstrap),
    }


def ablations(
    translations: Translations, references: scoring.References, language: str, bootstrap: scoring.Bootstrap
) -> dict[str, dict[str, float]]:
    """Return BLEU with the attention disturbed, by the name of the disturbance."""
    found = {}
    for name, hypotheses in translations.ablations.items():
        score = bootstrap.score(scoring.statistics(scoring.bleu(language), hypotheses, references))
        found[name] = {"bleu": score.score, "low": score.low, "high": score.high}
    return found


def recall(
    sentences: Sentences,
    translations: Translations,
    language: str,
    evaluate: Evaluate,
    bootstrap: scoring.Bootstrap,
) -> list[dict[str, float | int | None]]:
    """Return the share of the own references' words that the hypotheses have, by their frequency in training."""
    counts = frequency.word_counts(each_line(paths.prepared_text("train", "target")), language)
    own = [references[0] for references in sentences.references]
    table = frequency.recalled(translations.hypotheses, own, counts, evaluate.frequency_classes, language)
    return frequency.recall_by_class(table, evaluate.frequency_classes, bootstrap)


def perplexities(sentences: Sentences, translations: Translations, language: str) -> dict[str, float]:
    """Return the perplexity of the pairs' own references, per token and per word (character, in Chinese)."""
    log_probabilities = [forced["log_probability"] for forced in translations.forced]
    tokens = [len(forced["pieces"]) for forced in translations.forced]
    words = text_lengths([references[0] for references in sentences.references], language) + 1
    return {
        "perplexity_per_token": scoring.perplexity(log_probabilities, tokens),
        "perplexity_per_word": scoring.perplexity(log_probabilities, words.tolist()),
    }


if __name__ == "__main__":
    run_for_model(main)
