"""Known answers for the analysis: a model that copies must look at, and depend on, the token that it copies.

The vocabulary is large on purpose. Of ten symbols a decoder can read a whole string out of a mean of the encoder's
states, and has no need to look anywhere; of a hundred it cannot.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from nmt import scoring
from nmt.ablation import ABLATIONS, ablated
from nmt.agreement import agreements
from nmt.batching import ParallelText, TokenStore, pad
from nmt.gold import Gold
from nmt.influence import Given, influence
from nmt.model.seq2seq import Seq2Seq
from nmt.readings import Pair, table
from nmt.scoring import Bootstrap
from nmt.search import greedy_search
from nmt.subwords import EOS
from nmt.training import Trainer
from nmt.words import Sentence

from .models import learning_model, learning_recipe

SYMBOLS, FIRST = 100, 4
BOOTSTRAP = Bootstrap(100, 0.95, 1)


def strings(count: int, seed: int) -> list[list[int]]:
    """Random strings of 4 to 9 symbols, as ids."""
    random = np.random.default_rng(seed)
    return [(FIRST + random.integers(0, SYMBOLS, random.integers(4, 10))).tolist() for _ in range(count)]


def copies(folder: Path, name: str, count: int, seed: int) -> ParallelText:
    """Strings as both sides of a corpus."""
    for side in ("source", "target"):
        TokenStore.write(folder / f"{name}.{side}", strings(count, seed))
    return ParallelText.open(folder / f"{name}.source", folder / f"{name}.target")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Seq2Seq:
    """A small attention model that has learnt to copy."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("copies")
    copier = Seq2Seq(learning_model(encoder_size=24), "additive", SYMBOLS + FIRST, SYMBOLS + FIRST)
    copier.initialize(1)
    train, dev = copies(folder, "train", 8000, 1), copies(folder, "dev", 100, 2)
    trainer = Trainer(copier, train, dev, learning_recipe(learning_rate=0.01), 1, on_update=lambda _: None)
    for _ in trainer.epochs():
        pass
    return trainer.averaged.eval()


@pytest.fixture(scope="module")
def pairs(model: Seq2Seq) -> list[Pair]:
    """New strings, each symbol a word, forced to be copied: attention and influence."""
    found = []
    sources = strings(100, 9)
    given = [Given([*s, EOS], [*s, EOS], np.eye(len(s) + 1, len(s))) for s in sources]
    for source, measured in zip(sources, influence(model, given), strict=True):
        rows, lengths = pad([[*source, EOS]])
        with torch.no_grad():
            _, weights = model.force(model.encode(rows, lengths), torch.tensor([[2, *source]]))
        assert weights is not None
        words = Sentence("", list(map(str, source)), [(0, 0)] * len(source), np.eye(len(source) + 1))
        influences = {"erasure": measured.erasure, "gradient": measured.gradient}
        found.append(Pair(words, words, weights[0].numpy(), influences))
    return found


def test_attention_points_at_the_copied_token(pairs: list[Pair]) -> None:
    """An alignment error rate below 0.05 by attention and by erasure, near it by gradient; far below the chance."""
    gold = [Gold(links, links) for links in ({(i, i) for i in range(len(pair.source.words))} for pair in pairs)]
    rates = {row["method"]: row["aer"] for row in table(pairs, gold, 0.3, BOOTSTRAP)}
    assert rates["attention t argmax"] < 0.05
    assert rates["attention t threshold"] < 0.05
    assert rates["erasure argmax"] < 0.05
    assert rates["gradient argmax"] < 0.2
    assert rates["diagonal"] == 0.0
    assert rates["uniform"] > 0.8
    assert rates["attention t+1 argmax"] > 0.5  # the model looks at what it is about to write


def test_influence_agrees_with_attention(pairs: list[Pair]) -> None:
    """The token looked at is the one that matters, by erasure in nearly all steps, by gradient in most."""
    found = agreements(pairs, BOOTSTRAP)
    assert (found["attention_erasure"]["top"] or 0.0) > 0.95
    assert (found["attention_gradient"]["top"] or 0.0) > 0.8
    assert (found["erasure_gradient"]["top"] or 0.0) > 0.8
    assert all((one["tau_low"] or 0.0) > 0.0 for one in found.values())


def bleu(model: Seq2Seq) -> float:
    """BLEU of greedy copies of new strings, a symbol a word."""
    sources = strings(200, 11)
    rows, lengths = pad([[*source, EOS] for source in sources])
    found = greedy_search(model, rows, lengths, length_penalty=1.0, coverage_penalty=0.0, max_lengths_B=lengths + 5)
    texts = [" ".join(str(i) for i in ids if i >= FIRST) for ids in found.ids_BNT[:, 0].tolist()]
    references = [[" ".join(map(str, source))] for source in sources]
    return scoring.statistics(scoring.bleu("en"), texts, references).score()


def test_disturbed_attention_hurts(model: Seq2Seq) -> None:
    """Whole, it copies; with each disturbance BLEU falls by more than half; afterwards it copies again.

    Shifted weights give strings that are shifted, too, and still have many n-grams right; without looking, few are.
    """
    whole = bleu(model)
    assert whole > 95.0
    for name in ABLATIONS:
        with ablated(model, name):
            assert bleu(model) < (50.0 if name == "shifted" else 20.0), name
    assert bleu(model) == whole
