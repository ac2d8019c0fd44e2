"""Search against models that are tables: small enough to enumerate every translation."""

import functools
import itertools
import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nmt import search
from nmt.places import Places
from nmt.search import Hypotheses, beam_search, greedy_search
from nmt.subwords import BOS, EOS, PAD, UNK

CODES = 997
POSITIONS = 12
REAL = (EOS, 4, 5, 6)
PENALTIES = {"length_penalty": 1.0, "coverage_penalty": 0.0}
COVERAGE = st.sampled_from([0.0, 0.3, 2.0])
Scored = list[tuple[float, list[int]]]
"""Scores and ids."""


@dataclass
class TableMemory:
    source: Tensor
    lengths: Tensor

    def select(self, rows: Tensor) -> "TableMemory":
        return TableMemory(self.source[rows], self.lengths[rows])


@dataclass
class TableState:
    code: Tensor

    def select(self, rows: Tensor) -> "TableState":
        return TableState(self.code[rows])


class TableModel:
    """Looks its logits up under a hash of the source and all tokens written: no wrong row can go unseen."""

    def __init__(self, seed: int, vocabulary: int = 7, attention: bool = True) -> None:
        random = torch.Generator().manual_seed(seed)
        self.logits = 2.0 * torch.randn(CODES, vocabulary, generator=random)
        self.log_p = self.logits.double().log_softmax(1).tolist()
        self.attention = torch.randn(CODES, POSITIONS, generator=random)
        self.has_attention = attention
        self.rows_computed = self.sentences_held = 0

    def encode(self, source: Tensor, lengths: Tensor) -> TableMemory:
        return TableMemory(source, lengths)

    def start(self, memory: TableMemory) -> TableState:
        return TableState((memory.source * (memory.source != PAD)).sum(1) % CODES)

    def step(
        self, memory: TableMemory, state: TableState, previous: Tensor, places: Places
    ) -> tuple[Tensor, TableState, Tensor | None]:
        assert places.sentences == len(memory.source)
        memory = memory.select(places.sentence_R(previous.device))
        assert len(previous) == len(state.code) == len(memory.source)
        self.rows_computed += len(previous)
        self.sentences_held += places.sentences
        code = (state.code * 31 + previous * 7 + memory.source[:, 0]) % CODES
        scores = self.attention[code, : memory.source.shape[1]]
        padding = torch.arange(memory.source.shape[1]) >= memory.lengths[:, None]
        weights = scores.masked_fill(padding, -torch.inf).softmax(1) if self.has_attention else None
        return self.logits[code].clone(), TableState(code), weights


def sources(seed: int, count: int) -> tuple[Tensor, Tensor]:
    """Random padded sources of 1 to POSITIONS ids."""
    random = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, POSITIONS + 1, (count,), generator=random)
    source = torch.randint(4, 300, (count, int(lengths.max())), generator=random)
    return source.masked_fill(torch.arange(source.shape[1]) >= lengths[:, None], PAD), lengths


def force(model: TableModel, source: Tensor, ids: list[int]) -> tuple[float, Tensor]:
    """The log p of `ids` and the attention [T, S] for a single unpadded source, looked up without `TableModel.step`."""
    code, codes, log_p = int(source.sum()) % CODES, [], 0.0
    for previous, token in itertools.pairwise([BOS, *ids]):
        code = (code * 31 + previous * 7 + int(source[0])) % CODES
        codes.append(code)
        log_p += model.log_p[code][token]
    return log_p, model.attention[codes, : len(source)].softmax(1)


def score(model: TableModel, source: Tensor, ids: list[int], penalty: float, coverage: float) -> float:
    """What ended hypotheses are compared by, word for word as the equation has it."""
    log_p, attention = force(model, source, ids)
    covered = [sum(weights) for weights in attention.t().tolist()] if model.has_attention else []
    return log_p / len(ids) ** penalty + coverage * sum(math.log(min(one, 1.0)) for one in covered)


def brute_force(model: TableModel, source: Tensor, longest: int, penalty: float, coverage: float) -> Scored:
    """Every translation of at most `longest` tokens, best first."""
    inner = [token for token in REAL if token != EOS]
    all_ids = [[*head, EOS] for length in range(longest) for head in itertools.product(inner, repeat=length)]
    all_ids += [list(ids) for ids in itertools.product(inner, repeat=longest)]
    scored = [(score(model, source, ids, penalty, coverage), ids) for ids in all_ids]
    return sorted(scored, key=lambda pair: -pair[0])


def beam_by_hand(model: TableModel, source: Tensor, beam: int, longest: int, penalty: float, coverage: float) -> Scored:
    """The beam search that the docstring describes, for one sentence, in plain Python and without the bound."""
    running: Scored = [(0.0, [])]
    ended: Scored = []
    for length in range(1, longest + 1):
        grown = [([*ids, token]) for _, ids in running for token in REAL]
        best = sorted(((force(model, source, ids)[0], ids) for ids in grown), key=lambda pair: -pair[0])
        best = best[: beam - len(ended)]
        ends = [ids for _, ids in best if ids[-1] == EOS or length == longest]
        ended += [(score(model, source, ids, penalty, coverage), ids) for ids in ends]
        running = [(log_p, ids) for log_p, ids in best if ids[-1] != EOS and length < longest]
    return sorted(ended, key=lambda pair: -pair[0])


def listed(found: Hypotheses, row: int) -> Scored:
    """(score, ids) of one sentence's hypotheses."""
    pairs = zip(found.scores_BN[row].tolist(), found.lengths_BN[row].tolist(), found.ids_BNT[row].tolist(), strict=True)
    return [(score, ids[:length]) for score, length, ids in pairs if length]


def assert_same(left: Hypotheses, right: Hypotheses) -> None:
    """Equal to the last bit."""
    assert torch.equal(left.ids_BNT, right.ids_BNT)
    assert torch.equal(left.lengths_BN, right.lengths_BN)
    assert torch.equal(left.scores_BN, right.scores_BN)
    assert torch.equal(left.log_probabilities_BN, right.log_probabilities_BN)
    assert left.attention_BNTS is not None
    assert right.attention_BNTS is not None
    assert torch.equal(left.attention_BNTS, right.attention_BNTS)


@settings(max_examples=60)
@given(seed=st.integers(0, 10**6), penalty=st.sampled_from([0.0, 0.6, 1.0, 2.0]), coverage=COVERAGE)
def test_beam_of_one_is_greedy(seed: int, penalty: float, coverage: float) -> None:
    """Ids, scores, log-probabilities and attention are equal to the last bit."""
    model, (source, lengths) = TableModel(seed), sources(seed, 9)
    limits = torch.randint(1, 15, (9,), generator=torch.Generator().manual_seed(seed))
    arguments = {"length_penalty": penalty, "coverage_penalty": coverage, "max_lengths_B": limits}
    greedy = greedy_search(model, source, lengths, **arguments)
    assert_same(beam_search(model, source, lengths, beam_size=1, n_best=1, **arguments), greedy)


@settings(max_examples=25)
@given(
    seed=st.integers(0, 10**6),
    penalty=st.sampled_from([0.0, 0.6, 1.0, 2.0]),
    coverage=COVERAGE,
    longest=st.integers(1, 4),
)
def test_wide_beam_finds_what_brute_force_finds(seed: int, penalty: float, coverage: float, longest: int) -> None:
    """A beam with a place for everything returns the five best of all translations, in order."""
    model, (source, lengths) = TableModel(seed), sources(seed, 3)
    limits = torch.tensor([longest, 1, max(1, longest - 1)])
    arguments = {"length_penalty": penalty, "coverage_penalty": coverage, "max_lengths_B": limits}
    found = beam_search(model, source, lengths, beam_size=200, n_best=5, **arguments)
    for row in range(3):
        expected = brute_force(model, source[row, : lengths[row]], int(limits[row]), penalty, coverage)[:5]
        assert [ids for _, ids in listed(found, row)] == [ids for _, ids in expected]
        assert [score for score, _ in listed(found, row)] == pytest.approx([score for score, _ in expected], rel=1e-5)


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    penalty=st.sampled_from([0.0, 0.6, 1.0, 2.0]),
    coverage=COVERAGE,
    beam=st.integers(2, 5),
)
def test_narrow_beam_does_what_its_docstring_says(seed: int, penalty: float, coverage: float, beam: int) -> None:
    """The batched search keeps and drops exactly what a plain loop over one sentence's hypotheses does."""
    model, (source, lengths) = TableModel(seed), sources(seed, 6)
    arguments = {"length_penalty": penalty, "coverage_penalty": coverage, "max_lengths_B": torch.full((6,), 6)}
    found = beam_search(model, source, lengths, beam_size=beam, n_best=beam, **arguments)
    for row in range(6):
        expected = beam_by_hand(model, source[row, : lengths[row]], beam, 6, penalty, coverage)
        assert [ids for _, ids in listed(found, row)] == [ids for _, ids in expected]
        assert [score for score, _ in listed(found, row)] == pytest.approx([score for score, _ in expected], rel=1e-5)


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), penalty=st.sampled_from([0.0, 0.6, 1.0, 2.0]), coverage=COVERAGE)
def test_stopping_early_never_loses_the_best(seed: int, penalty: float, coverage: float) -> None:
    """The bound is sound: asking for fewer hypotheses stops sooner and changes none of those that are returned."""
    model, (source, lengths) = TableModel(seed), sources(seed, 8)
    rows = {}
    found = {}
    for n_best in (1, 2, 5):
        model.rows_computed = 0
        arguments = {"length_penalty": penalty, "coverage_penalty": coverage, "max_lengths_B": torch.full((8,), 12)}
        found[n_best] = beam_search(model, source, lengths, beam_size=5, n_best=n_best, **arguments)
        rows[n_best] = model.rows_computed
    for row in range(8):
        everything = listed(found[5], row)
        assert listed(found[1], row) == everything[:1]
        assert listed(found[2], row) == everything[:2]
    assert rows[1] <= rows[2] <= rows[5]


def test_bound_saves_work() -> None:
    """With little normalisation most sentences are done long before their beams are."""
    model, (source, lengths) = TableModel(3), sources(3, 40)
    work = []
    for n_best in (1, 8):
        model.rows_computed = 0
        beam_search(
            model, source, lengths, beam_size=8, n_best=n_best, length_penalty=0.0, coverage_penalty=0.0,
            max_lengths_B=torch.full((40,), 30),
        )  # fmt: skip
        work.append(model.rows_computed)
    assert work[0] < work[1] / 2


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), beam=st.integers(1, 6))
def test_n_best_is_sorted_and_distinct(seed: int, beam: int) -> None:
    """Best first, no sequence twice, scores as defined, pad, bos and unk never written."""
    model, (source, lengths) = TableModel(seed), sources(seed, 5)
    found = beam_search(
        model, source, lengths, beam_size=beam, n_best=beam, length_penalty=0.7, coverage_penalty=0.0,
        max_lengths_B=torch.full((5,), 7),
    )  # fmt: skip
    for row in range(5):
        pairs = listed(found, row)
        scores = [score for score, _ in pairs]
        assert scores == sorted(scores, reverse=True)
        assert len({tuple(ids) for _, ids in pairs}) == len(pairs) == beam
        for i, (score, ids) in enumerate(pairs):
            assert not {PAD, UNK, BOS} & set(ids)
            assert EOS not in ids[:-1]
            assert ids[-1] == EOS or len(ids) == 7
            log_p, _ = force(model, source[row, : lengths[row]], ids)
            assert float(found.log_probabilities_BN[row, i]) == pytest.approx(log_p, rel=1e-5)
            assert score == pytest.approx(log_p / len(ids) ** 0.7, rel=1e-5)


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), beam=st.integers(1, 4))
def test_attention_is_that_of_forced_decoding(seed: int, beam: int) -> None:
    """Each kept hypothesis, not only the best, has the rows with which it was written, and none at padding."""
    model, (source, lengths) = TableModel(seed), sources(seed, 5)
    found = beam_search(
        model, source, lengths, beam_size=beam, n_best=beam, **PENALTIES, max_lengths_B=torch.full((5,), 9)
    )
    assert found.attention_BNTS is not None
    for row in range(5):
        for i, (_, ids) in enumerate(listed(found, row)):
            matrix = found.attention_BNTS[row, i]
            _, expected = force(model, source[row, : lengths[row]], ids)
            torch.testing.assert_close(matrix[: len(ids), : lengths[row]], expected)
            torch.testing.assert_close(matrix[: len(ids)].sum(1), torch.ones(len(ids)))
            assert not matrix[len(ids) :].any()
            assert not matrix[:, lengths[row] :].any()


def test_model_without_attention_has_no_matrix() -> None:
    """None all the way, from both searches."""
    model, (source, lengths) = TableModel(1, attention=False), sources(1, 4)
    arguments = {**PENALTIES, "max_lengths_B": torch.full((4,), 5)}
    assert beam_search(model, source, lengths, beam_size=3, n_best=2, **arguments).attention_BNTS is None
    assert greedy_search(model, source, lengths, **arguments).attention_BNTS is None


def test_coverage_of_no_attention_is_nothing() -> None:
    """A penalty changes no score of a model without attention, so both variants can share the parameter."""
    model, (source, lengths) = TableModel(1, attention=False), sources(1, 4)
    limits = {"max_lengths_B": torch.full((4,), 5), "length_penalty": 1.0}
    for search_all in (greedy_search, functools.partial(beam_search, beam_size=3, n_best=3)):
        without, with_penalty = (
            search_all(model, source, lengths, coverage_penalty=penalty, **limits) for penalty in (0.0, 0.5)
        )
        assert torch.equal(without.ids_BNT, with_penalty.ids_BNT)
        assert torch.equal(without.scores_BN, with_penalty.scores_BN)


def test_coverage_prefers_what_looked_everywhere() -> None:
    """A penalty makes the search take a less probable translation that left less of the source out."""
    model, (source, lengths) = TableModel(4), (torch.tensor([[7, 8, 9, 10, 11]]), torch.tensor([5]))
    arguments = {"length_penalty": 0.0, "max_lengths_B": torch.tensor([4])}
    log_p, coverage = [], []
    for penalty in (0.0, 10.0):
        found = beam_search(model, source, lengths, beam_size=200, n_best=1, coverage_penalty=penalty, **arguments)
        assert found.attention_BNTS is not None
        log_p.append(float(found.log_probabilities_BN[0, 0]))
        coverage.append(float(found.attention_BNTS[0, 0].sum(0).clamp(max=1.0).log().sum()))
    assert log_p[0] > log_p[1]
    assert coverage[0] < coverage[1]


def test_a_weight_of_zero_keeps_scores_finite() -> None:
    """What float32 rounds to no attention at all costs much, but not everything."""
    model, (source, lengths) = TableModel(6), (torch.tensor([[7, 8]]), torch.tensor([2]))
    model.attention[:, 1] = -1000.0
    arguments = {"length_penalty": 1.0, "coverage_penalty": 0.2, "max_lengths_B": torch.tensor([4])}
    greedy = greedy_search(model, source, lengths, **arguments)
    assert_same(beam_search(model, source, lengths, beam_size=1, n_best=1, **arguments), greedy)
    assert -100.0 < float(greedy.scores_BN[0, 0]) < -10.0


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), beam=st.integers(1, 4), coverage=COVERAGE, data=st.data())
def test_order_and_padding_change_nothing(seed: int, beam: int, coverage: float, data: st.DataObject) -> None:
    """A sentence alone gets what it gets anywhere in a padded batch."""
    model, (source, lengths) = TableModel(seed), sources(seed, 6)
    order = torch.tensor(data.draw(st.permutations(range(6))))
    limits = lengths + 3
    arguments = {"beam_size": beam, "n_best": beam, "length_penalty": 1.0, "coverage_penalty": coverage}
    whole = beam_search(model, source, lengths, max_lengths_B=limits, **arguments)
    shuffled = beam_search(model, source[order], lengths[order], max_lengths_B=limits[order], **arguments)
    for place, row in enumerate(order.tolist()):
        only = slice(row, row + 1)
        alone = beam_search(model, source[only, : lengths[row]], lengths[only], max_lengths_B=limits[only], **arguments)
        assert listed(whole, row) == listed(shuffled, place) == listed(alone, 0)


@pytest.mark.parametrize("beam", [1, 3])
def test_retiring_changes_nothing(beam: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Giving memory back late, soon or at once is a matter of space; what has ended is never computed again."""
    model, (source, lengths) = TableModel(5), sources(5, 30)
    found, held, computed = [], [], []
    for share in (1, 8, 10**9):
        monkeypatch.setattr(search, "_RETIRE_SHARE", share)
        model.rows_computed = model.sentences_held = 0
        arguments = {**PENALTIES, "max_lengths_B": lengths + 8}
        found.append(beam_search(model, source, lengths, beam_size=beam, n_best=beam, **arguments))
        held.append(model.sentences_held)
        computed.append(model.rows_computed)
        if beam == 1:
            assert computed[-1] == int(found[-1].lengths_BN.sum())
            assert_same(found[-1], greedy_search(model, source, lengths, **arguments))
    assert_same(found[0], found[1])
    assert_same(found[0], found[2])
    assert held[0] >= held[1] >= held[2]
    assert held[0] > held[2]
    assert computed[0] == computed[1] == computed[2]


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), beam=st.integers(1, 4))
def test_prefixes_are_respected(seed: int, beam: int) -> None:
    """Each translation begins with its own prefix and counts its probability; without one nothing changes."""
    model, (source, lengths) = TableModel(seed), sources(seed, 4)
    prefixes = torch.tensor([[4, 5, 6], [PAD, PAD, PAD], [6, PAD, PAD], [5, 5, PAD]])
    limits = torch.full((4,), 6)
    arguments = {**PENALTIES, "max_lengths_B": limits}
    found = beam_search(model, source, lengths, beam_size=beam, n_best=beam, prefixes_BP=prefixes, **arguments)
    free = beam_search(model, source, lengths, beam_size=beam, n_best=beam, **arguments)
    assert listed(found, 1) == listed(free, 1)
    for row in range(4):
        prefix = prefixes[row][prefixes[row] != PAD].tolist()
        assert listed(found, row)
        for score, ids in listed(found, row):
            assert ids[: len(prefix)] == prefix
            assert score == pytest.approx(force(model, source[row, : lengths[row]], ids)[0] / len(ids), rel=1e-5)
    if beam == 1:
        assert_same(found, greedy_search(model, source, lengths, prefixes_BP=prefixes, **arguments))


def test_wide_beam_under_a_prefix_is_brute_force_under_a_prefix() -> None:
    """The best of all translations that begin with the prefix."""
    model, (source, lengths) = TableModel(8), sources(8, 1)
    found = beam_search(
        model, source, lengths, beam_size=200, n_best=3, **PENALTIES, max_lengths_B=torch.tensor([4]),
        prefixes_BP=torch.tensor([[5]]),
    )  # fmt: skip
    expected = [ids for _, ids in brute_force(model, source[0], 4, 1.0, 0.0) if ids[0] == 5][:3]
    assert [ids for _, ids in listed(found, 0)] == expected


def test_ties_go_to_the_lowest_index() -> None:
    """A model that finds everything equally good writes the lowest ids, the earliest end first."""
    model = TableModel(0, vocabulary=40)
    model.logits = torch.zeros(CODES, 40)
    source, lengths = sources(0, 3)
    limits = torch.full((3,), 3)
    found = beam_search(model, source, lengths, beam_size=4, n_best=4, **PENALTIES, max_lengths_B=limits)
    for row in range(3):
        assert [ids for _, ids in listed(found, row)] == [[EOS], [4, EOS], [4, 4, EOS], [4, 4, 4]]
        assert [score for score, _ in listed(found, row)] == pytest.approx([-math.log(40)] * 4)
    greedy = greedy_search(model, source, lengths, **PENALTIES, max_lengths_B=limits)
    assert greedy.ids_BNT.flatten().tolist() == [EOS] * 3


@settings(max_examples=60)
@given(rows=st.lists(st.tuples(*[st.integers(-2, 2)] * 6), min_size=1, max_size=4), count=st.integers(1, 6))
def test_top_is_a_stable_sort(rows: list[tuple[int, ...]], count: int) -> None:
    """With many equal values, -inf among them, the selection and its order are those of a stable sort."""
    values = torch.tensor(rows, dtype=torch.float32)
    values[values == -2] = -torch.inf
    best, index = search._top(values, count)
    expected, places = values.sort(dim=1, descending=True, stable=True)
    assert torch.equal(best, expected[:, :count])
    finite = best > -torch.inf
    assert torch.equal(index[finite], places[:, :count][finite])


@pytest.mark.parametrize("vocabulary", [512, 1030, 6000])
@pytest.mark.parametrize("levels", [3, 40, 10**6])
def test_top_of_a_large_vocabulary(vocabulary: int, levels: int) -> None:
    """The quick way to the largest: many ties or none, rows of -inf but for a few, columns that are in no class."""
    for seed in range(20):
        random = torch.Generator().manual_seed(seed)
        values = torch.randint(levels, (5, vocabulary), generator=random).to(torch.float32)
        values[1, torch.randperm(vocabulary, generator=random)[:-4]] = -torch.inf
        values[2, -3:] = levels + torch.arange(3.0)
        values[3] = -torch.inf
        expected, places = values.sort(dim=1, descending=True, stable=True)
        for count in (1, 2, 5):
            best, index = search._top(values, count)
            assert torch.equal(best, expected[:, :count])
            finite = best > -torch.inf
            assert torch.equal(index[finite], places[:, :count][finite])


def test_cut_hypotheses_are_accepted() -> None:
    """At the maximum length a hypothesis without eos is returned as it is, with its own length in the score."""
    model, (source, lengths) = TableModel(2), sources(2, 3)
    model.logits[:, EOS] = -50.0
    found = beam_search(
        model, source, lengths, beam_size=3, n_best=3, **PENALTIES, max_lengths_B=torch.tensor([2, 5, 1])
    )
    assert found.lengths_BN.tolist() == [[2] * 3, [5] * 3, [1] * 3]
    assert not (found.ids_BNT == EOS).any()
