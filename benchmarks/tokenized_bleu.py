"""Every model's BLEU as papers on Multi30k count it (`lc-tok`) beside ours: lower case, Moses tokens.

    python benchmarks/tokenized_bleu.py        # after `nmt preset multi30k-… && make repro`

Needs sacremoses (`pip install sacremoses`). Both sides are lower-cased raw text, then tokenized (`escape=False`, no
aggressive hyphens) and scored without further tokenization. test_2016_flickr must have 12,103 German or 12,968 English
reference tokens so; another number means another test set or another tokenizer, and figures that do not compare.
"""

from sacrebleu.metrics.bleu import BLEU
from sacremoses import MosesTokenizer

from nmt import paths, testset
from nmt.config import load_params
from nmt.errors import UserError
from nmt.scoring import Bootstrap, bleu, statistics

REFERENCE_TOKENS = {"de": 12_103, "en": 12_968}


def main() -> None:
    """Print a row for each model that has been translated with, ensembles included."""
    params = load_params()
    language, settings = params.corpus.target, params.evaluate
    tokenizer = MosesTokenizer(lang=language)
    bootstrap = Bootstrap(settings.bootstrap_samples, settings.confidence, settings.bootstrap_seed)

    def tokenized(text: str) -> str:
        return " ".join(tokenizer.tokenize(text.lower(), escape=False))

    sentences = testset.read_sentences()
    references = [[tokenized(one) for one in several] for several in sentences.references]
    tokens = sum(len(several[0].split()) for several in references)
    if tokens != REFERENCE_TOKENS.get(language):
        raise UserError(f"the references have {tokens} tokens, those of test_2016_flickr {REFERENCE_TOKENS}")
    print("| model | BLEU, cased 13a | lc-tok |\n|---|--:|--:|")
    for path in sorted(paths.TRANSLATIONS.glob("*/*/hypotheses.txt")):
        variant, seed = path.parent.parts[-2:]
        hypotheses = testset.read_translations(variant, seed, sentences).hypotheses
        cased = bootstrap.score(statistics(bleu(language), hypotheses, sentences.references))
        lowered = statistics(BLEU(tokenize="none"), [tokenized(one) for one in hypotheses], references)
        lower = bootstrap.score(lowered)
        cells = (f"{one.score:.2f} [{one.low:.2f}, {one.high:.2f}]" for one in (cased, lower))
        print(f"| {variant}, {seed} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
