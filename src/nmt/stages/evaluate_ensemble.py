"""Score the translations that the models of all seeds of one variant made together."""

from nmt import identity, paths, scoring, testset
from nmt.config import load_params
from nmt.files import write_json
from nmt.stages.evaluate import recall, scores
from nmt.stages.runner import run_for_variant


def main(variant: str) -> None:
    """Write every metric of one ensemble, as `evaluate` does of one model.

    Reads: data/prepared/{test.jsonl,train.target.txt}, reports/translations/<variant>/ensemble,
        reports/training/<variant>/<seed> of each seed.
    Writes: reports/scores/<variant>/ensemble.json.
    Params: corpus, seeds, evaluate, translate (for the identity of the models' own results), variants.<variant>.
    """
    params = load_params()
    sentences = testset.read_sentences()
    translations = testset.read_translations(variant, paths.ENSEMBLE, sentences)
    trained = [testset.read_training(variant, seed)["training_id"] for seed in params.seeds]
    bootstrap = scoring.bootstrap_of_scores(params)
    report = {
        "result_ids": [identity.result_id(one, params) for one in trained],
        "variant": variant,
        "seeds": list(params.seeds),
        "attention": params.variant(variant).attention,
        "sentences": len(sentences),
        **scores(sentences, translations, params.corpus, params.evaluate, bootstrap),
        "by_frequency": recall(sentences, translations, params.corpus.target, params.evaluate, bootstrap),
    }
    write_json(paths.scores(variant, paths.ENSEMBLE), scoring.rounded(report))


if __name__ == "__main__":
    run_for_variant(main)
