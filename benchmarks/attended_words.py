"""Which words the weights are good links for, on the hand-made links of the test set.

    python benchmarks/attended_words.py              # after `dvc repro`; --variant and --seed for another model

Prints, for target words with a sure link by class, how often the source word with the largest weight is one of those
linked: weights of step t and t+1, erasure, and how often step t looks at the word beside the linked one or at `</s>`.
Then the quality of links of step t read in other ways. It is the table in docs/attention.md.
"""

import argparse
from collections.abc import Callable

import numpy as np

from nmt import alignment
from nmt.alignment import Links
from nmt.config import load_params
from nmt.decodings import read_decodings
from nmt.gold import Gold
from nmt.readings import Pair
from nmt.stages.analyze_attention import gold_pairs, read_records

FUNCTION_WORDS = frozenset(
    "a about after am an and are as at be been before by can could did do does for from had has have he "
    "her him his i if in into is it its may me might must my no nor not of on or our shall she should so "
    "than that the their them then there these they this those to us was we were what when where which "
    "who will with would you your 'd 'll 'm 're 's 've".split()
)
COLUMNS = ("words", "step t", "step t+1", "erasure", "t: beside", "t: </s>")


def kind(word: str) -> str:
    """The class of an English word."""
    if not any(character.isalnum() for character in word):
        return "mark"
    return "function word" if word.casefold() in FUNCTION_WORDS else "content word"


def looks(pair: Pair, gold: Gold) -> dict[str, np.ndarray]:
    """Counts of COLUMNS by class in one sentence."""
    now, later = pair.weights("t"), pair.weights("t+1")
    erasure = alignment.influence_weights(pair.influence("erasure"))
    counts: dict[str, np.ndarray] = {}
    for t, word in enumerate(pair.target.words):
        linked = {source for source, target in gold.sure if target == t}
        if linked:
            best = int(now[t].argmax())
            beside = best not in linked and any(abs(best - source) == 1 for source in linked)
            hits = [int(weights[t].argmax()) in linked for weights in (now, later, erasure)]
            row = np.array([True, *hits, beside, best == now.shape[1] - 1], dtype=np.int64)
            counts[kind(word)] = counts.get(kind(word), 0) + row
    return counts


def by_target(pair: Pair) -> Links:
    """Each target word's most looked-at word, `</s>` not counted."""
    return {(int(source), target) for target, source in enumerate(pair.weights("t")[:, :-1].argmax(axis=1))}


def by_source(pair: Pair) -> Links:
    """For each source word the target word that looks at it most."""
    return {(source, int(target)) for source, target in enumerate(pair.weights("t")[:, :-1].argmax(axis=0))}


WAYS: dict[str, Callable[[Pair], Links]] = {
    "largest weight of a target word, `</s>` left out": by_target,
    "largest weight of a source word": by_source,
    "both agree": lambda pair: by_target(pair) & by_source(pair),
    "either": lambda pair: by_target(pair) | by_source(pair),
    **{
        f"at least {least}": lambda pair, least=least: alignment.threshold_links(pair.weights("t"), least)
        for least in (0.1, 0.2, 0.25, 0.3, 0.5)
    },
}


def main() -> None:
    """Count and print two tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--variant", default="attention")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    params = load_params()
    decoded = read_decodings(arguments.variant, arguments.seed, True, params.corpus)
    records = read_records(len(decoded["references"].pairs))
    labelled = gold_pairs(decoded["references"], records, params.corpus, params.prepare.unicode)
    totals: dict[str, np.ndarray] = {}
    for pair, gold in labelled:
        for name, counts in looks(pair, gold).items():
            totals[name] = totals.get(name, 0) + counts
    print(f"| | {' | '.join(COLUMNS)} |\n|---|{'--:|' * len(COLUMNS)}")
    for name, counts in totals.items():
        print(f"| {name}s | {counts[0]} | {' | '.join(f'{share:.0%}' for share in counts[1:] / counts[0])} |")
    print("\n| links | precision | recall | AER |\n|---|--:|--:|--:|")
    for name, way in WAYS.items():
        counts = alignment.link_counts([way(pair) for pair, _ in labelled], [gold for _, gold in labelled])
        quality = alignment.quality(counts.sum(axis=0))
        print(f"| {name} | {quality['precision']:.3f} | {quality['recall']:.3f} | {quality['aer']:.3f} |")


if __name__ == "__main__":
    main()
