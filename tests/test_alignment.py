import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nmt import alignment
from nmt.alignment import argmax_links, format_links, link_counts, observe, threshold_links
from nmt.gold import Gold, Links, parse_gold
from nmt.words import Matrix, segment, share_out

THRESHOLD = 0.3
SHAPES = st.tuples(st.integers(0, 7), st.integers(0, 7))


def copy_attention(words: int) -> Matrix:
    """Each target word looks at the source word of its own place, none at the eos."""
    return np.eye(words, words + 1)


def random_attention(targets: int, sources: int, seed: int) -> Matrix:
    """Rows that sum to 1, of another sharpness each."""
    generator = np.random.default_rng(seed)
    weights = generator.random((targets, sources)) ** generator.integers(1, 9, (targets, 1)) + 1e-9
    return weights / weights.sum(axis=1, keepdims=True)


def averages(weights: Matrix, punctuation: list[bool] | None = None) -> dict[str, float | None]:
    """The statistics of one sentence."""
    return alignment.average([observe(weights, punctuation or [False] * (weights.shape[1] - 1), THRESHOLD)])


def test_word_attention_adds_source_pieces_and_averages_target_pieces() -> None:
    """Two pieces of a source word are looked at together; two pieces of a target word look half each."""
    source = segment(["▁wor", "ld", "▁peace", "</s>"], "en")
    target = segment(["▁Frie", "den", "▁x", "</s>"], "de")
    pieces = np.array([[0.1, 0.2, 0.3, 0.4], [0.5, 0.0, 0.1, 0.4], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    words = alignment.word_attention(pieces.astype(np.float32), source, target)
    np.testing.assert_allclose(words, [[0.4, 0.2, 0.4], [0.0, 1.0, 0.0]], atol=1e-7)


def test_word_attention_of_a_piece_that_straddles_two_words() -> None:
    """A source piece's weight is parted between its words; a target piece counts for each of its words in part."""
    source = segment(["于北", "京大学", "</s>"], "zh")  # 于 | 北京大学
    target = segment(["▁a", ",▁b", "</s>"], "en")  # a | , | b
    pieces = np.array([[0.6, 0.4, 0.0], [0.2, 0.8, 0.0], [0.0, 0.0, 1.0]])
    words = alignment.word_attention(pieces, source, target)
    np.testing.assert_allclose(words, [[0.3, 0.7, 0.0], [0.1, 0.9, 0.0], [0.1, 0.9, 0.0]])


@given(
    st.lists(st.sampled_from(["▁", "▁a", "b", ",▁c", "<0xE4>", "."]), max_size=6),
    st.lists(st.sampled_from(["▁", "你", "好。", "北京", "大学", "<0xE4>"]), max_size=6),
    st.integers(0, 99),
)
def test_rows_of_word_attention_sum_to_1(source_pieces: list[str], target_pieces: list[str], seed: int) -> None:
    """Whatever the pieces, nothing of a distribution gets lost on the way to words."""
    source, target = segment([*source_pieces, "</s>"], "en"), segment([*target_pieces, "</s>"], "zh")
    pieces = random_attention(len(target_pieces) + 1, len(source_pieces) + 1, seed)
    words = alignment.word_attention(pieces, source, target)
    assert words.shape == (len(target.words), len(source.words) + 1)
    np.testing.assert_allclose(words.sum(axis=1), 1.0)


def test_next_step_reads_the_row_after() -> None:
    """At t+1 a piece has the weights of its successor; the last keeps its own."""
    weights = np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
    assert alignment.next_step(weights).tolist() == [[0.0, 1.0], [0.5, 0.5], [0.5, 0.5]]
    assert alignment.next_step(np.zeros((0, 3))).shape == (0, 3)


def test_links_of_a_shifted_model() -> None:
    """A model that looks at each word one step late is read rightly at t+1, and wrongly at t."""
    source, target = segment(["▁a", "▁b", "</s>"], "en"), segment(["▁x", "▁y", "</s>"], "en")
    late = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    assert argmax_links(alignment.word_attention(late, source, target)) == {(0, 1)}
    assert argmax_links(alignment.word_attention(alignment.next_step(late), source, target)) == {(0, 0), (1, 1)}


@pytest.mark.parametrize(
    ("weights", "argmax", "threshold"),
    [
        ([[0.9, 0.05, 0.05]], {(0, 0)}, {(0, 0)}),
        ([[0.4, 0.4, 0.2]], {(0, 0)}, {(0, 0), (1, 0)}),  # of equals, argmax takes the first
        ([[0.1, 0.3, 0.6]], set(), {(1, 0)}),  # the eos is looked at most: no link; 0.3 is at the threshold
        ([[0.2, 0.2, 0.6], [0.0, 1.0, 0.0]], {(1, 1)}, {(1, 1)}),
        ([[1.0]], set(), set()),  # a source without words
        (np.zeros((0, 3)), set(), set()),
    ],
)
def test_links(weights: list[list[float]], argmax: set[tuple[int, int]], threshold: set[tuple[int, int]]) -> None:
    """Links are (source, target) pairs; none leads to the eos."""
    assert argmax_links(np.array(weights)) == argmax
    assert threshold_links(np.array(weights), THRESHOLD) == threshold


def test_format_links() -> None:
    """Pharaoh format is sorted by number, not by digit."""
    assert format_links({(10, 1), (2, 0), (2, 11)}) == "2-0 2-11 10-1"
    assert format_links(set()) == ""


def test_parse_gold() -> None:
    """Sure links are possible, too; `-P` marks those that are only possible."""
    assert parse_gold("0-0 3-4-P 10-2 ") == Gold({(0, 0), (10, 2)}, {(0, 0), (3, 4), (10, 2)})
    assert parse_gold("") == Gold(set(), set())


@pytest.mark.parametrize("line", ["0:0", "1-", "1-2-S", "a-b", "0-0 -1-2"])
def test_parse_gold_names_the_wrong_link(line: str) -> None:
    """What is no link is an error that shows it."""
    with pytest.raises(ValueError, match=f"'{line.split()[-1]}' is not a link"):
        parse_gold(line)


@pytest.mark.parametrize(
    ("links", "gold", "precision", "recall", "aer"),
    [
        (["0-0 1-1"], ["0-0 1-1"], 1, 1, 0),
        (["0-0 1-1"], ["0-0 1-1-P"], 1, 1, 0),  # a possible link costs nothing when found,
        (["0-0"], ["0-0 1-1-P"], 1, 1, 0),  # nor when missed
        (["0-1"], ["0-0"], 0, 0, 1),
        (["0-0 0-1 1-1"], ["0-0 1-2 0-1-P"], 2 / 3, 1 / 2, 1 - 3 / 5),
        (["0-0 0-1 1-1", "0-0"], ["0-0 1-2 0-1-P", "0-0"], 3 / 4, 2 / 3, 1 - 5 / 7),  # sums, not means, of sentences
        ([""], ["0-0"], None, 0, 1),
        (["0-0"], [""], 0, None, 1),
        (["0-0"], ["0-0-P"], 1, None, 0),
        ([""], [""], None, None, None),
    ],
)
def test_quality(
    links: list[str], gold: list[str], precision: float | None, recall: float | None, aer: float | None
) -> None:
    """Known answers, worked out by hand from the definition of Och & Ney (2003)."""
    counts = link_counts([parse_gold(line).sure for line in links], [parse_gold(line) for line in gold])
    assert alignment.quality(counts.sum(axis=0)) == {
        name: value if value is None else pytest.approx(value)
        for name, value in (("precision", precision), ("recall", recall), ("aer", aer))
    }


def test_copying_is_perfect() -> None:
    """A model that copies is monotone, covers every word once, is sure of itself, and its links have no error."""
    weights = copy_attention(6)
    assert averages(weights) == {
        "entropy": 0.0,
        "entropy_normalised": 0.0,
        "max_weight": 1.0,
        "eos_mass": 0.0,
        "punctuation_mass": 0.0,
        "coverage": 1.0,
        "coverage_deviation": 0.0,
        "never_looked_at": 0.0,
        "monotonicity": 1.0,
        "backward_jumps": 0.0,
    }
    gold = parse_gold("0-0 1-1 2-2 3-3 4-4 5-5")
    assert alignment.quality(link_counts([argmax_links(weights)], [gold]).sum(axis=0))["aer"] == 0.0


def test_looking_everywhere_is_uninformed() -> None:
    """Uniform weights have the entropy log S, look at each word T/S, and have no order."""
    measured = averages(alignment.uniform_like(np.zeros((3, 8))), [True, True, *[False] * 5])
    assert measured["entropy"] == pytest.approx(math.log(8), abs=1e-6)
    assert measured["entropy_normalised"] == 1.0
    assert measured["max_weight"] == measured["eos_mass"] == 0.125
    assert measured["punctuation_mass"] == 0.25
    assert measured["coverage"] == 0.375
    assert measured["coverage_deviation"] == 0.625
    assert measured["never_looked_at"] == 1.0
    assert measured["monotonicity"] == 0.0
    assert measured["backward_jumps"] == 0.0


def test_a_sentence_by_hand() -> None:
    """Known answers of every statistic for three target words over two source words, the second a mark."""
    weights = np.array([[0.25, 0.25, 0.5], [0.0, 1.0, 0.0], [0.5, 0.0, 0.5]])
    observed = observe(weights, [False, True], THRESHOLD)
    expected = {
        "entropy": [1.5 * math.log(2), 0.0, math.log(2)],
        "entropy_normalised": [1.5 * math.log(2) / math.log(3), 0.0, math.log(2) / math.log(3)],
        "max_weight": [0.5, 1.0, 0.5],
        "eos_mass": [0.5, 0.0, 0.5],
        "punctuation_mass": [0.25, 1.0, 0.0],
        "coverage": [0.75, 1.25],
        "coverage_deviation": [0.25, 0.25],
        "never_looked_at": [0.0, 0.0],
        "monotonicity": [-1 / 3],  # expected positions 0.5, 1, 0: one pair forward, two back
        "backward_jumps": [0.0, 1.0],
    }
    assert observed.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(observed[name], values, err_msg=name)


@pytest.mark.parametrize(("targets", "sources"), [(0, 3), (1, 3), (2, 0), (0, 0)])
def test_small_sentences(targets: int, sources: int) -> None:
    """An empty side, or a single word, gives no NaN and no warning; what cannot be said is None."""
    weights = random_attention(targets, sources + 1, seed=1)
    measured = averages(weights)
    json.dumps(measured, allow_nan=False)
    assert measured["monotonicity"] is None
    assert (measured["coverage"] is None) == (sources == 0)
    assert (measured["entropy"] is None) == (targets == 0)


def test_a_source_word_below_the_threshold_was_never_looked_at() -> None:
    """One target word that gives the threshold is enough; many that give a little are not."""
    weights = np.array([[0.3, 0.29, 0.41], [0.0, 0.29, 0.71]])
    assert observe(weights, [False, False], THRESHOLD)["never_looked_at"].tolist() == [0.0, 1.0]


@given(st.permutations(range(6)))
def test_monotonicity_counts_pairs(order: list[int]) -> None:
    """For hard attention it is Kendall's tau: the share of pairs in order less that of pairs out of order."""
    signs = [1 if later > earlier else -1 for earlier, later in itertools.combinations(order, 2)]
    jumps = [later < earlier for earlier, later in itertools.pairwise(order)]
    observed = observe(copy_attention(6)[order], [False] * 6, THRESHOLD)
    np.testing.assert_allclose(observed["monotonicity"], [np.mean(signs)])
    assert observed["backward_jumps"].tolist() == jumps


def test_monotonicity_leaves_out_words_that_look_at_eos_alone() -> None:
    """They stand nowhere in the source."""
    weights = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    assert observe(weights, [False, False], THRESHOLD)["monotonicity"].tolist() == [1.0]


def test_monotonicity_is_of_the_words_part_of_a_row() -> None:
    """Weight on the eos does not pull a word to the front of the source."""
    weights = np.array([[0.0, 0.0, 0.5, 0.5], [0.0, 1.0, 0.0, 0.0]])
    assert observe(weights, [False] * 3, THRESHOLD)["monotonicity"].tolist() == [-1.0]


@given(SHAPES)
def test_baselines_have_the_shape_and_are_distributions(shape: tuple[int, int]) -> None:
    """Rows sum to 1 on any shape; the diagonal never goes back and leaves the eos alone."""
    targets, words = shape
    weights = np.zeros((targets, words + 1))
    uniform, diagonal = alignment.uniform_like(weights), alignment.diagonal_like(weights)
    for baseline in (uniform, diagonal):
        assert baseline.shape == weights.shape
        np.testing.assert_allclose(baseline.sum(axis=1), 1.0)
    assert (np.diff(diagonal.argmax(axis=1)) >= 0).all()
    assert words == 0 or not diagonal[:, -1].any()


@pytest.mark.parametrize(
    ("targets", "words", "expected"),
    [(3, 3, [0, 1, 2]), (2, 4, [1, 3]), (4, 2, [0, 0, 1, 1]), (1, 5, [2]), (5, 1, [0] * 5)],
)
def test_diagonal(targets: int, words: int, expected: list[int]) -> None:
    """The middle of each target word falls into a source word; equal lengths give the plain diagonal."""
    assert alignment.diagonal_like(np.zeros((targets, words + 1))).argmax(axis=1).tolist() == expected


def test_average_is_over_words_not_over_sentences() -> None:
    """A sentence of two words counts twice as much as one of a single word; no sentence leaves nothing to average."""
    two, one = {"entropy": np.array([1.0, 1.0])}, {"entropy": np.array([4.0])}
    assert alignment.average([two, one]) == {"entropy": 2.0}
    assert alignment.average([{"entropy": np.zeros(0)}]) == {"entropy": None}
    assert alignment.average([]) == {}


@pytest.mark.parametrize(
    ("sentences", "expected"),
    [
        ([], None),
        (["a"], None),
        (["a b c"], 0.0),
        (["a b a b"], 1 / 3),  # ab ba ab
        (["a a a a"], 2 / 3),
        (["a b", "a b"], 0.0),  # across sentences nothing repeats
        (["a b a b", "c d"], 1 / 4),
    ],
)
def test_repeated_bigrams(sentences: list[str], expected: float | None) -> None:
    """Pairs of neighbours that stood before in the same sentence, among all pairs."""
    share = alignment.repeated_bigrams([sentence.split() for sentence in sentences])
    assert share == (expected if expected is None else pytest.approx(expected, abs=1e-6))


def test_text_statistics() -> None:
    """Lengths, repetitions and early ends of three translations, known by counting."""
    measured = alignment.text_statistics(
        sources=[["x"] * 4, ["x"] * 2, ["x"] * 2],
        hypotheses=[["a", "b", "a", "b"], ["a", "b"], []],
        references=[["a", "b", "c", "d"], ["a", "b", "c", "d"], ["a", "b"]],  # half as long is not under half
        finished=[False, True, True],
    )
    assert measured == {
        "sentences": 3,
        "words": {"source": 8, "hypothesis": 6, "reference": 10},
        "length_ratio": {"hypothesis_to_source": 0.75, "reference_to_source": 1.25, "hypothesis_to_reference": 0.6},
        "repeated_bigrams": {"hypotheses": 0.25, "references": 0.0},
        "empty": 0.333333,
        "unfinished": 0.333333,
        "under_half_of_reference": 0.333333,
    }


def test_text_statistics_of_nothing() -> None:
    """Empty outputs give None where nothing divides, never NaN."""
    measured = alignment.text_statistics(sources=[[]], hypotheses=[[]], references=[[]], finished=[True])
    assert measured["length_ratio"] == dict.fromkeys(
        ["hypothesis_to_source", "reference_to_source", "hypothesis_to_reference"]
    )
    assert measured["empty"] == 1.0
    json.dumps(measured, allow_nan=False)


@pytest.mark.parametrize(
    ("lengths", "values", "fewest", "expected"),
    [
        ([2, 1, 2, 1], [6, 1, 8, 3], 2, ([1.0, 2.0], [2.0, 7.0])),
        ([1, 1, 1, 2], [1, 1, 1, 5], 2, ([1.25], [2.0])),  # one sentence of length 2 is too few
        ([1, 2, 3, 4], [1, 2, 3, 4], 2, ([1.5, 3.5], [1.5, 3.5])),
        ([1, 2], [1, 2], 5, ([1.5], [1.5])),
        ([], [], 2, ([], [])),
    ],
)
def test_mean_by_length(
    lengths: list[int], values: list[int], fewest: int, expected: tuple[list[float], list[float]]
) -> None:
    """Lengths with too few sentences are taken together with their neighbours."""
    assert alignment.mean_by_length(lengths, values, fewest) == expected


def links(text: str) -> Links:
    """Links out of `i-j`."""
    return parse_gold(text).sure


@pytest.mark.parametrize(
    ("forward", "backward", "expected"),
    [
        ("0-0 1-1", "0-0 1-1", "0-0 1-1"),
        ("0-0 1-0", "0-0 0-1", "0-0 0-1 1-0"),  # both neighbours bring in a new word
        ("0-0 1-1", "0-0", "0-0 1-1"),  # a diagonal neighbour
        ("0-0 2-2", "0-0", "0-0"),  # no neighbour: stays out
        ("0-0 1-1 2-2", "0-0", "0-0 1-1 2-2"),  # grown step by step
        ("0-0 1-1 0-1", "0-0 1-1", "0-0 1-1"),  # 0-1 joins two words that are linked already
        ("0-0 0-1 1-1", "0-0", "0-0 0-1 1-1"),  # 0-1 first (target 1 is new), then 1-1 (source 1 is)
        ("0-0 0-1 1-0 1-1", "1-1", "0-1 1-0 1-1"),  # those beside it first; 0-0 then joins words that have links
        ("2-0 2-1 2-3 3-2 3-3", "2-0 2-3", "2-0 2-1 2-3 3-2"),  # 2-1 comes in and at once brings 3-2, before 2-3's turn
        ("0-0", "1-1", ""),  # nothing in common to grow from
        ("", "", ""),
    ],
)
def test_grow_diag(forward: str, backward: str, expected: str) -> None:
    """Known answers, worked out by hand from the description of Koehn, Och & Marcu (2003)."""
    grown = alignment.grow_diag(links(forward), links(backward))
    assert format_links(grown) == expected
    assert alignment.intersection(links(forward), links(backward)) <= grown <= links(forward) | links(backward)


def test_intersection_and_turned() -> None:
    """Both directions say it; a reverse model says (target, source)."""
    assert alignment.intersection(links("0-0 1-2"), links("1-2 2-1")) == {(1, 2)}
    assert alignment.turned({(5, 1), (0, 0)}) == {(1, 5), (0, 0)}


@given(
    st.sets(st.tuples(st.integers(0, 4), st.integers(0, 4))), st.sets(st.tuples(st.integers(0, 4), st.integers(0, 4)))
)
def test_grow_diag_is_the_same_in_both_orders(forward: Links, backward: Links) -> None:
    """Which model is called forward does not matter; a second growing adds nothing."""
    grown = alignment.grow_diag(forward, backward)
    assert grown == alignment.grow_diag(backward, forward)
    assert forward & backward <= grown <= forward | backward


def test_word_influence_adds_what_changes_the_pieces() -> None:
    """A word's log-probability is the sum of its pieces'; the eos belongs to no word."""
    target = segment(["▁Frie", "den", ",▁x", "</s>"], "de")  # Frieden | , | x
    found = alignment.word_influence([[1.0, 0.0], [0.5, -1.0], [0.2, 0.4], [9.0, 9.0]], target)
    np.testing.assert_allclose(found, [[1.5, -1.0], [0.1, 0.2], [0.1, 0.2]])


def test_influence_weights_are_the_shares_of_what_helped() -> None:
    """A word that hurt has none; where no word helped, the row stands on the last column."""
    weights = alignment.influence_weights(np.array([[3.0, -5.0, 1.0], [-1.0, 0.0, -2.0]]))
    np.testing.assert_allclose(weights, [[0.75, 0.0, 0.25, 0.0], [0.0, 0.0, 0.0, 1.0]])
    assert alignment.influence_weights(np.zeros((0, 2))).shape == (0, 3)


def test_a_word_without_pieces_has_no_attention() -> None:
    """Words that somebody else cut out may have lost all their characters."""
    target = share_out(["▁a", "</s>"], [(0, 1), (1, 1)])
    source = segment(["▁x", "</s>"], "en")
    np.testing.assert_allclose(alignment.word_attention([[0.5, 0.5], [0, 1]], source, target), [[0.5, 0.5], [0, 0]])


def test_random_links_by_hand() -> None:
    """Two target words drawn from four source words: a quarter of each gold link is found on average."""
    gold = [parse_gold("0-0 1-1 2-1-P"), parse_gold("")]
    counts = alignment.random_link_counts([(2, 4), (3, 0)], gold)
    np.testing.assert_allclose(counts, [[2, 2, 0.5, 0.75], [0, 0, 0, 0]])
    quality = alignment.quality(counts.sum(axis=0))
    assert quality == {"precision": 0.375, "recall": 0.25, "aer": pytest.approx(1 - 1.25 / 4)}
