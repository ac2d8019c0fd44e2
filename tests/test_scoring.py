"""Scores equal sacrebleu's, intervals and tests say what they should on cases whose answer is known."""

import itertools
import math
import random
from collections.abc import Sequence

import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from sacrebleu.metrics.bleu import BLEU

from nmt import scoring, significance
from nmt.scoring import Bootstrap, Joined

WORDS = "the a cat dog sat ran on to mat home I you like tea do not , . and we saw it".split()
BOOTSTRAP = Bootstrap(samples=400, confidence=0.95, seed=7)


def sentence(source: random.Random, low: int = 3, high: int = 12) -> str:
    """Return random words."""
    return " ".join(source.choice(WORDS) for _ in range(source.randint(low, high)))


def garbled(text: str, rate: float, source: random.Random) -> str:
    """Return `text` with a share of its words replaced."""
    return " ".join(word if source.random() > rate else source.choice(WORDS) for word in text.split())


def corpus(size: int, rate: float, seed: int) -> tuple[list[str], list[list[str]]]:
    """Return hypotheses and one to three references each; another rate garbles the same first references."""
    source = random.Random(1)
    references = [[sentence(source) for _ in range(source.choice([1, 1, 2, 3]))] for _ in range(size)]
    noise = random.Random(seed)
    return [garbled(several[0], rate, noise) for several in references], references


def streams(references: Sequence[Sequence[str]]) -> list[list[str | None]]:
    """Return references as sacrebleu's `corpus_score` takes them."""
    return [list(stream) for stream in itertools.zip_longest(*references)]


@pytest.mark.parametrize("metric", ["bleu", "chrf", "ter"])
def test_scores_equal_sacrebleu(metric: str) -> None:
    """Every metric gives sacrebleu's own number to the last bit, with one and with varying numbers of references."""
    hypotheses, references = corpus(200, 0.3, 2)
    for several in (references, [one[:1] for one in references]):
        ours = scoring.statistics(scoring.METRICS[metric]("en"), hypotheses, several)
        theirs = getattr(sacrebleu, f"corpus_{metric}")(hypotheses, streams(several))
        assert ours.score() == theirs.score
    assert "nrefs:1|" in ours.signature


def test_scores_by_hand() -> None:
    """One sentence counted by hand: BLEU with a brevity penalty, TER over the mean length of the references."""
    hypotheses, references = ["the cat sat on the mat"], [["the cat sat on the mat today"]]
    bleu = scoring.statistics(scoring.bleu("en"), hypotheses, references)
    assert bleu.values.tolist() == [[6, 7, 6, 5, 4, 3, 6, 5, 4, 3]]
    assert bleu.score() == pytest.approx(100 * math.exp(1 - 7 / 6))
    two = scoring.statistics(scoring.ter("en"), hypotheses, [["the cat sat on the mat today", "a cat sat"]])
    assert two.values.tolist() == [[1, 5]]
    assert two.score() == 20.0


def test_a_missing_reference_is_no_empty_one() -> None:
    """A sentence with fewer references than another is scored against those that it has, not against nothing."""
    hypotheses, references = ["a cat sat", "we ran home ."], [["a cat sat"], ["we ran home .", "we went home ."]]
    assert scoring.statistics(scoring.ter("en"), hypotheses, references).values.tolist() == [[0, 3], [0, 4]]
    padded = [["a cat sat", ""], references[1]]
    assert scoring.statistics(scoring.ter("en"), hypotheses, padded).values.tolist() == [[0, 1.5], [0, 4]]


def test_signatures_follow_the_target_language() -> None:
    """Chinese is scored over characters, other languages over words; the signature tells."""
    hypothesis, references = ["我喜欢喝茶。"], [["我喜欢喝绿茶。"]]
    assert "tok:zh" in scoring.statistics(scoring.bleu("zh"), hypothesis, references).signature
    assert "tok:13a" in scoring.statistics(scoring.bleu("de"), hypothesis, references).signature
    assert scoring.bleu_tokenizer("ja") in ("char", "ja-mecab")
    assert scoring.bleu_tokenizer("th") == "char"
    assert scoring.statistics(scoring.bleu("th"), ["ผมชอบดื่มน้ำ"], [["ผมชอบดื่มชา"]]).score() > 50.0
    edits = scoring.statistics(scoring.ter("zh"), hypothesis, references)
    assert edits.values.tolist() == [[1, 7]]
    assert "asian:yes" in edits.signature
    assert "nrefs:var" in scoring.statistics(scoring.bleu("en"), ["a", "b"], [["a"], ["b", "c"]]).signature


def test_resampled_scores_are_scores_of_resampled_sentences() -> None:
    """A bootstrap sample's score is sacrebleu's score of the sentences drawn, written out one by one."""
    hypotheses, references = corpus(30, 0.4, 3)
    counts = scoring.statistics(scoring.bleu("en"), hypotheses, references)
    scores = counts.scores(BOOTSTRAP.totals(counts.values))
    draws = np.random.default_rng(7).integers(30, size=(400, 30))
    for row, score in list(zip(draws.tolist(), scores, strict=True))[:20]:
        drawn = BLEU().corpus_score([hypotheses[i] for i in row], streams([references[i] for i in row]))
        assert score == drawn.score


def test_resampling_in_parts_is_resampling_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory limit on draws changes no sum."""
    table = np.random.default_rng(1).integers(9, size=(50, 3)).astype(np.float64)
    whole = BOOTSTRAP.totals(table)
    monkeypatch.setattr(scoring, "_CELLS", 150)
    assert np.array_equal(BOOTSTRAP.totals(table), whole)


@pytest.mark.parametrize("metric", ["bleu", "chrf", "ter"])
def test_interval_holds_the_score(metric: str) -> None:
    """The interval lies around the score, grows with the confidence and shrinks with the number of sentences."""
    few, many = (scoring.statistics(scoring.METRICS[metric]("en"), *corpus(size, 0.3, 2)) for size in (60, 600))
    score, wide = BOOTSTRAP.score(many), Bootstrap(400, 0.99, 7).score(many)
    assert wide.low < score.low < score.score < score.high < wide.high
    narrow, broad = BOOTSTRAP.score(many), BOOTSTRAP.score(few)
    assert 2 * (narrow.high - narrow.low) < broad.high - broad.low
    assert BOOTSTRAP.score(many) == score


def test_interval_covers_as_often_as_it_says() -> None:
    """Nine in ten 90% intervals of a mean hold the true one."""
    generator = np.random.default_rng(3)
    held = 0
    for trial in range(200):
        bootstrap = Bootstrap(200, 0.9, trial)
        low, high = bootstrap.interval(bootstrap.totals(generator.normal(size=(80, 1)))[:, 0])
        held += low <= 0.0 <= high
    assert 165 <= held <= 193


def test_exact_match() -> None:
    """A hypothesis counts if it equals any of its references, spaces around it aside."""
    assert scoring.exact_match(["a b ", "a c", "d"], [["x", "a b"], ["a  c"], ["D"]]) == pytest.approx(1 / 3)


def test_perplexity_by_hand() -> None:
    """Uniform guesses among four have perplexity 4, whatever the lengths."""
    assert scoring.perplexity([3 * math.log(0.25), 5 * math.log(0.25)], [3, 5]) == pytest.approx(4.0)
    assert scoring.perplexity([math.log(0.5), math.log(0.125)], [1, 1]) == pytest.approx(4.0)


@given(st.lists(st.integers(0, 20), min_size=1, max_size=60), st.integers(1, 9))
@settings(deadline=None)
def test_length_bins(lengths: list[int], bins: int) -> None:
    """Every sentence is in one bin, bins are equally large but for one, and go from short to long."""
    array = np.array(lengths)
    parts = scoring.length_bins(array, bins)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(lengths)))
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1
    assert len(sizes) == min(bins, len(lengths))
    assert all(array[a].max() <= array[b].min() for a, b in itertools.pairwise(parts))


def test_scores_by_length_are_scores_of_the_class() -> None:
    """A row's BLEU is sacrebleu's of just these sentences; worse translations of long sentences show."""
    source = random.Random(5)
    references = [[sentence(source, 2, 30)] for _ in range(300)]
    hypotheses = [garbled(one[0], 0.02 * len(one[0].split()), source) for one in references]
    lengths = np.array([len(one[0].split()) for one in references])
    counts = [scoring.statistics(metric("en"), hypotheses, references) for metric in (scoring.bleu, scoring.chrf)]
    rows = scoring.scores_by_length(lengths, 3, counts[0], counts[1], BOOTSTRAP)
    assert [row["sentences"] for row in rows] == [100, 100, 100]
    last = np.argsort(lengths, kind="stable")[200:]
    expected = BLEU().corpus_score([hypotheses[i] for i in last], [[references[i][0] for i in last]])
    assert rows[-1]["bleu"] == expected.score
    assert rows[-1]["mean_length"] == lengths[last].mean()
    assert rows[-1]["high"] == lengths.max()
    assert rows[0]["bleu_low"] < rows[0]["bleu"] < rows[0]["bleu_high"]
    assert rows[0]["bleu"] > rows[1]["bleu"] > rows[2]["bleu"]
    assert rows[0]["chrf"] > rows[2]["chrf"]


def test_joined_sets_use_the_own_reference_alone() -> None:
    """Size 1 is the plain test set against the first references, the others come from the records, sizes in order."""
    records = [
        {"joined": 3, "members": [0, 1, 2], "references": ["a b c"], "hypothesis": "a b"},
        {"joined": 2, "members": [2, 3], "references": ["c d"], "hypothesis": "c d"},
        {"joined": 2, "members": [0, 1], "references": ["a b"], "hypothesis": "b"},
    ]
    sets = scoring.joined_sets(["a", "b", "c", "d"], [["a", "x"], ["b"], ["c"], ["d", "y"]], records)
    assert [one.size for one in sets] == [1, 2, 3]
    assert sets[0].references == [["a"], ["b"], ["c"], ["d"]]
    assert sets[1].starts.tolist() == [2, 0]
    assert sets[1].hypotheses == ["c d", "b"]
    rows = scoring.scores_of_joined(sets, "en", BOOTSTRAP)
    assert [(row["joined"], row["sentences"]) for row in rows] == [(1, 4), (2, 2), (3, 1)]


def test_identical_systems_do_not_differ() -> None:
    """A system tested against itself has difference 0 and p 1."""
    counts = scoring.statistics(scoring.bleu("en"), *corpus(100, 0.3, 2))
    assert significance.paired_bootstrap([counts], [counts], BOOTSTRAP) == significance.Effect(0.0, 0.0, 0.0, 1.0)


@pytest.mark.parametrize("metric", ["bleu", "chrf"])
def test_a_clearly_better_system_is_found(metric: str) -> None:
    """A large difference has p < 0.01, both ways round, with the interval on its side of 0."""
    good, bad = (scoring.statistics(scoring.METRICS[metric]("en"), *corpus(300, rate, 2)) for rate in (0.2, 0.4))
    better, worse = (significance.paired_bootstrap([a], [b], BOOTSTRAP) for a, b in ((good, bad), (bad, good)))
    assert better.value == good.score() - bad.score() > 0
    assert better.p == worse.p == pytest.approx(2 / 401)
    assert 0 < better.low < better.value < better.high
    assert worse.value == -better.value
    assert worse.high < 0


def test_chance_is_not_taken_for_a_difference() -> None:
    """Of pairs of equally good systems, about one in twenty has p < 0.05, not many more."""
    generator = np.random.default_rng(11)
    found = 0
    for trial in range(200):
        bootstrap = Bootstrap(300, 0.95, trial)
        samples = bootstrap.totals(generator.normal(size=(100, 1)))[:, 0]
        found += significance.p_value(samples) < 0.05
    assert 2 <= found <= 22


def test_seeds_are_averaged() -> None:
    """With several seeds the difference is that of their means, and lies among those of the pairs."""
    good = [scoring.statistics(scoring.bleu("en"), *corpus(200, 0.30, seed)) for seed in (2, 3)]
    bad = [scoring.statistics(scoring.bleu("en"), *corpus(200, 0.33, seed)) for seed in (4, 5)]
    pooled = significance.paired_bootstrap(good, bad, BOOTSTRAP)
    alone = [significance.paired_bootstrap([a], [b], BOOTSTRAP) for a, b in zip(good, bad, strict=True)]
    assert pooled.value == pytest.approx(np.mean([one.value for one in alone]))
    assert pooled.high - pooled.low < max(one.high - one.low for one in alone)


def joined(rates: dict[int, float], seed: int, sentences: int = 480) -> list[Joined]:
    """Return inputs of k sentences, garbled at the rate of k; references depend on nothing but k."""
    plain = [several[0] for several in corpus(sentences, 0.0, 0)[1]]
    noise = random.Random(seed)
    sets = []
    for size, rate in rates.items():
        starts = np.arange(0, sentences - size + 1, size)
        references = [" ".join(plain[start : start + size]) for start in starts]
        sets.append(
            Joined(size, starts, [garbled(one, rate, noise) for one in references], [[one] for one in references])
        )
    return sets


def test_gap_slope_finds_a_growing_gap() -> None:
    """Systems equal on single sentences, of which one decays with joined ones, have a slope above 0 with p < 0.01."""
    steady = joined(dict.fromkeys((1, 2, 3, 4), 0.2), 2)
    decaying = joined({1: 0.2, 2: 0.25, 3: 0.3, 4: 0.35}, 3)
    gaps, slope = significance.gap_slope([steady], [decaying], scoring.bleu("en"), BOOTSTRAP)
    assert gaps == sorted(gaps)
    assert slope.p < 0.01
    assert slope.low > 0
    fitted = np.polyfit([1, 2, 3, 4], gaps, 1)[0]
    assert slope.value == pytest.approx(fitted)
    _, mirrored = significance.gap_slope([decaying], [steady], scoring.bleu("en"), BOOTSTRAP)
    assert mirrored.value == pytest.approx(-slope.value)
    assert mirrored.p == slope.p


def test_gap_slope_of_a_steady_gap_is_none() -> None:
    """A gap that is there at every size, but does not grow, gives no slope."""
    good, bad = (joined(dict.fromkeys((1, 2, 3, 4), rate), 4) for rate in (0.1, 0.12))
    gaps, slope = significance.gap_slope([good], [bad], scoring.bleu("en"), BOOTSTRAP)
    assert min(gaps) > 0
    assert slope.p > 0.05
    assert slope.low < 0 < slope.high
    _, nothing = significance.gap_slope([good], [good], scoring.bleu("en"), BOOTSTRAP)
    assert nothing == significance.Effect(0.0, 0.0, 0.0, 1.0)


def test_every_size_has_the_same_blocks() -> None:
    """A rest of sentences that only some sizes cover does not make their samples differ; all inputs are counted."""
    for one in joined(dict.fromkeys((1, 2, 3, 4), 0.3), 4, sentences=481):
        blocks = significance._by_block(one, scoring.bleu("en"), 12, 481)
        assert len(blocks) == 41
        assert blocks.score() == one.count(scoring.bleu("en")).score()


def test_blocks_hold_whole_inputs_if_there_are_enough() -> None:
    """Sizes 1 to 4 are resampled in blocks of 12; a test set too small for 30 such blocks takes the largest size."""
    assert significance.block_length([1, 2, 3, 4], 2000) == 12
    assert significance.block_length([1, 2, 3, 4], 300) == 4
    assert significance.block_length([1], 40) == 1


def test_rounding_reaches_every_number() -> None:
    """Floats are rounded wherever they stand, whole numbers and texts stay."""
    report = {"a": 0.123456789, "b": [{"c": 2.00000049}, 3], "d": "1.123456789", "e": True}
    assert scoring.rounded(report) == {"a": 0.123457, "b": [{"c": 2.0}, 3], "d": "1.123456789", "e": True}
