"""Greedy and beam search over batches of sentences: tensors only, no loop over sentences or hypotheses.

Beam search as in Graves 2012 (section 2.6) and Sutskever et al. 2014 (section 3.2). Ended hypotheses are compared by
the score of Wu et al. 2016 (section 7, equation 14), its length normalisation in the simple form:

    log p(y|x) / length ** length_penalty + coverage_penalty * sum_i log min(sum_t a_ti, 1)

with the attention a_ti of token t on source position i, the end mark's included. Running hypotheses are compared by
log p(y|x): at one step all are equally long, and what they have not looked at yet they still may. The second term is
0 for a model without attention, which covers nothing.

A model reads each source once, and states and words have rows for running hypotheses only: `nmt.places` tells where
these stand.

Shape suffixes: B sentences of the batch, A sentences still searched, W places of each, R rows of the model: the places
in which a hypothesis runs; C continuations of a row, N kept hypotheses, P prefix, S source positions, T target
positions, V vocabulary.
"""

from dataclasses import dataclass
from typing import Protocol, Self, TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from nmt.model import compiled
from nmt.model.native import prediction as native
from nmt.places import Places
from nmt.subwords import BOS, EOS, PAD, UNK

_BARRED = (PAD, UNK, BOS)
"""Never written: no text belongs to them."""
_RETIRE_SHARE = 8
"""Memory is given back once at least one sentence in so many is done: copying the others' has a price, too."""
_TOPK_RATIO = 64
"""From so many values for each that is wanted on, torch.topk on a CPU keeps a heap, which is faster."""
_LEAST_COVERAGE = torch.finfo(torch.float32).tiny
"""A weight may be too small for float32; its logarithm must not be infinite."""


class Selectable(Protocol):
    """What holds something for each sentence, or for each row."""

    def select(self, index: Tensor, /) -> Self:
        """That of these, in this order."""


_Memory = TypeVar("_Memory", bound=Selectable)
_State = TypeVar("_State", bound=Selectable)


class SearchableModel(Protocol[_Memory, _State]):
    """What search asks of a model: `nmt.prediction.Predictor`, or `nmt.model.seq2seq.Seq2Seq`, the reference."""

    def encode(self, source_BS: Tensor, lengths_B: Tensor, /) -> _Memory:
        """What the decoder reads of the source, sentence by sentence; for one search, which `step` may adapt it to."""

    def start(self, memory: _Memory, /) -> _State:
        """The decoder's first state, a row for each sentence."""

    def step(
        self, memory: _Memory, state: _State, previous_R: Tensor, places: Places, /
    ) -> tuple[Tensor, _State, Tensor | None]:
        """Logits [R, V], the next state, and the attention weights [R, S] of a model that has them."""


@dataclass(frozen=True)
class Hypotheses:
    """The N best hypotheses of each of B sentences, best first; T is the longest one's length."""

    ids_BNT: Tensor
    """Padded with PAD. eos is there when the hypothesis has ended, missing when the maximum length cut it."""
    lengths_BN: Tensor
    """eos included; 0 where the beam held fewer than N hypotheses."""
    scores_BN: Tensor
    """log p(y|x) / length ** length_penalty, and the coverage penalty."""
    log_probabilities_BN: Tensor
    """log p(y|x), natural, float32: the model's own, not renormalised for barred tokens or a forced prefix."""
    attention_BNTS: Tensor | None
    """The weights with which each token was written; zero at padding of either side."""


@torch.inference_mode()
def greedy_search(
    model: SearchableModel[_Memory, _State],
    source_BS: Tensor,
    lengths_B: Tensor,
    *,
    length_penalty: float,
    coverage_penalty: float,
    max_lengths_B: Tensor,
    prefixes_BP: Tensor | None = None,
) -> Hypotheses:
    """Write the most probable token at each step: beam search with a beam of 1, less its bookkeeping.

    Arguments as of `beam_search`; of equally probable tokens the lowest id is written.
    """
    memory = model.encode(source_BS, lengths_B)
    state = model.start(memory)
    (batch, positions), steps = source_BS.shape, int(max_lengths_B.max())
    ids_BT = source_BS.new_full((batch, steps), PAD)
    attention_BTS: Tensor | None = None
    log_p_B = torch.zeros(batch, device=source_BS.device)
    rows_A = rows_R = torch.arange(batch, device=source_BS.device)  # which of the B
    places, previous_R = Places(batch, 1, None), torch.full_like(rows_R, BOS)
    for t in range(steps):
        logits, state, weights = model.step(memory, state, previous_R, places)
        best = _best(logits, _forced(prefixes_BP, rows_R, t), 1)
        gain_R, previous_R = (column_R1.squeeze(1) for column_R1 in best)
        log_p_B[rows_R] += gain_R
        ids_BT[rows_R, t] = previous_R
        if weights is not None:
            if attention_BTS is None:
                attention_BTS = weights.new_zeros(batch, steps, positions)
            attention_BTS[rows_R, t] = weights
        going_on = ((previous_R != EOS) & (max_lengths_B[rows_R] > t + 1)).nonzero().squeeze(1)
        if not len(going_on):
            break
        if len(going_on) == len(rows_R):
            continue
        state, rows_R, previous_R = state.select(going_on), rows_R[going_on], previous_R[going_on]
        running_A = torch.isin(rows_A, rows_R)
        kept_A = _survivors(running_A)
        if kept_A is not None:
            memory, rows_A, running_A = memory.select(kept_A), rows_A[kept_A], running_A[kept_A]
        places = Places.of(running_A[:, None])
    written_B = (ids_BT != PAD).sum(dim=1)
    longest = int(written_B.max())
    scores_B = log_p_B / _divisor(written_B, length_penalty)
    if coverage_penalty and attention_BTS is not None:
        covered_BS = _padding(source_BS, lengths_B) + attention_BTS.sum(dim=1, dtype=torch.float64)
        scores_B += _coverage(covered_BS, coverage_penalty)
    return Hypotheses(
        ids_BNT=ids_BT[:, None, :longest],
        lengths_BN=written_B[:, None],
        scores_BN=scores_B[:, None],
        log_probabilities_BN=log_p_B[:, None],
        attention_BNTS=None if attention_BTS is None else attention_BTS[:, None, :longest],
    )


@torch.inference_mode()
def beam_search(
    model: SearchableModel[_Memory, _State],
    source_BS: Tensor,
    lengths_B: Tensor,
    *,
    beam_size: int,
    n_best: int,
    length_penalty: float,
    coverage_penalty: float,
    max_lengths_B: Tensor,
    prefixes_BP: Tensor | None = None,
) -> Hypotheses:
    """Keep the `beam_size` most probable beginnings of a translation at each step, return the `n_best` best ends.

    A beam has `beam_size` places. Each step fills them with the most probable continuations of the running hypotheses.
    One that ends with eos keeps its place for good: finished and running hypotheses compete for the same places. At
    `max_lengths_B` tokens, eos included, the running ones are accepted as they are. A sentence is done when nothing
    runs, or when nothing that runs can still come among the n best: log p only falls, so log p / max_length ** penalty
    bounds all later scores of a hypothesis (as in Huang et al. 2017, section 3), whatever its coverage, whose penalty
    is at most 0. The best never depends on `n_best`.

    `prefixes_BP` holds tokens, padded with PAD, that each translation must begin with; their log-probabilities count.
    Equal scores: the earlier end, then the better parent, then the lower token id comes first.
    """
    assert 1 <= n_best <= beam_size, f"{n_best} best of a beam of {beam_size}"
    memory = model.encode(source_BS, lengths_B)
    state = model.start(memory)
    covered_BS = _padding(source_BS, lengths_B) if coverage_penalty else None
    beam = _Beam(max_lengths_B, beam_size, n_best, length_penalty, coverage_penalty, covered_BS, prefixes_BP)
    while True:
        logits, state, weights = model.step(memory, state, beam.previous_R, beam.places)
        origin_R, kept_A = beam.extend(logits, weights)
        if not len(origin_R):
            return beam.hypotheses()
        state = state.select(origin_R)
        if kept_A is not None:
            memory = memory.select(kept_A)


@dataclass(frozen=True)
class _Step:
    """What one step of the search chose: enough to find the way back from any hypothesis."""

    place_B: Tensor
    """Where each sentence stands among the A that are searched at this step."""
    tokens_AW: Tensor
    parents_AW: Tensor
    """Which hypothesis of the step before each one continues."""
    weights_AWS: Tensor | None
    """The attention of the step before's hypotheses, the parents, which wrote the tokens."""


class _Beam:
    """The bookkeeping of a beam search: running hypotheses, kept ones, and the trace that leads back from them."""

    def __init__(
        self,
        max_lengths_B: Tensor,
        beam_size: int,
        n_best: int,
        length_penalty: float,
        coverage_penalty: float,
        covered_BS: Tensor | None,
        prefixes_BP: Tensor | None,
    ) -> None:
        batch, device = len(max_lengths_B), max_lengths_B.device
        self.beam_size, self.length_penalty, self.coverage_penalty = beam_size, length_penalty, coverage_penalty
        self.covered_AWS = None if covered_BS is None else covered_BS[:, None]
        """How much the running hypotheses have looked at; None without a penalty, or without attention."""
        self.limits_B, self.prefixes_BP = max_lengths_B, prefixes_BP
        self.rows_A = torch.arange(batch, device=device)  # which of the B
        self.log_p_AW = torch.zeros(batch, 1, device=device)  # -inf: no running hypothesis has this place
        self.places = Places(batch, 1, None)
        self.previous_R = torch.full((batch,), BOS, device=device)
        self.ended_A = torch.zeros(batch, dtype=torch.int64, device=device)
        self.trace: list[_Step] = []
        self.scores_BN = torch.full((batch, n_best), -torch.inf, device=device)
        self.log_p_BN = self.scores_BN.clone()
        self.codes_BN = torch.zeros(batch, n_best, dtype=torch.int64, device=device)  # step x beam size + place

    def extend(self, logits_RV: Tensor, weights_RS: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Continue the running hypotheses by one token.

        Returns, for each row of the next step, the row that it goes on from, and which sentences of this step's are
        kept, None if all are.
        """
        (sentences, width), step = self.log_p_AW.shape, len(self.trace)
        log_p_AW, parents_AW, tokens_AW = self._choose(logits_RV)
        weights_AWS = None if weights_RS is None else self.places.spread(weights_RS)
        self._record(tokens_AW, parents_AW, weights_AWS)
        self._cover(parents_AW, weights_AWS)
        order = torch.arange(log_p_AW.shape[1], device=log_p_AW.device)
        valid_AW = (log_p_AW > -torch.inf) & (order < (self.beam_size - self.ended_A)[:, None])
        ends_AW = valid_AW & ((tokens_AW == EOS) | (self.limits_B[self.rows_A] <= step + 1)[:, None])
        self._keep(log_p_AW.masked_fill(~ends_AW, -torch.inf), order + step * self.beam_size)
        self.ended_A = self.ended_A + ends_AW.sum(dim=1)
        log_p_AW = log_p_AW.masked_fill(~valid_AW | ends_AW, -torch.inf)
        bound_A = log_p_AW.amax(dim=1) / _divisor(self.limits_B[self.rows_A], self.length_penalty)
        running_A = bound_A > self.scores_BN[self.rows_A, -1]
        self.log_p_AW = log_p_AW.masked_fill(~running_A[:, None], -torch.inf)
        origin_AW = parents_AW + torch.arange(sentences, device=order.device)[:, None] * width
        kept = _survivors(running_A)
        if kept is not None:
            self.rows_A, self.log_p_AW, self.ended_A = self.rows_A[kept], self.log_p_AW[kept], self.ended_A[kept]
            origin_AW, tokens_AW = origin_AW[kept], tokens_AW[kept]
            self.covered_AWS = None if self.covered_AWS is None else self.covered_AWS[kept]
        before, self.places = self.places, Places.of(self.log_p_AW > -torch.inf)
        self.previous_R = self.places.collect(tokens_AW)
        return before.rows_in(self.places.collect(origin_AW)), kept

    def _choose(self, logits_RV: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The beam's most probable continuations of each sentence, best first: log p, parent and token, [A, W] each."""
        forced_A = _forced(self.prefixes_BP, self.rows_A, len(self.trace))
        forced_R = None if forced_A is None else forced_A[self.places.sentence_R(forced_A.device)]
        gains_RC, tokens_RC = _best(logits_RV, forced_R, min(self.beam_size, logits_RV.shape[1]))
        log_p_AWC = self.log_p_AW[..., None] + self.places.spread(gains_RC)
        log_p_AC, order_AC = log_p_AWC.flatten(1).sort(dim=1, descending=True, stable=True)
        order_AW = order_AC[:, : self.beam_size]
        tokens_AW = self.places.spread(tokens_RC).flatten(1).gather(1, order_AW)
        return log_p_AC[:, : self.beam_size], order_AW // gains_RC.shape[1], tokens_AW

    def _record(self, tokens_AW: Tensor, parents_AW: Tensor, weights_AWS: Tensor | None) -> None:
        place_B = torch.zeros_like(self.limits_B)
        place_B[self.rows_A] = torch.arange(len(self.rows_A), device=place_B.device)
        self.trace.append(_Step(place_B, tokens_AW, parents_AW, weights_AWS))

    def _cover(self, parents_AW: Tensor, weights_AWS: Tensor | None) -> None:
        """Add what the continued hypotheses looked at in this step."""
        if self.covered_AWS is None or weights_AWS is None:
            self.covered_AWS = None
            return
        self.covered_AWS = (self.covered_AWS + weights_AWS).take_along_dim(parents_AW[..., None], dim=1)

    def _keep(self, log_p_AW: Tensor, codes_W: Tensor) -> None:
        """Merge hypotheses that end with this step (log p; -inf elsewhere) into the n best of each sentence."""
        rows, n_best = self.rows_A, self.scores_BN.shape[1]
        length = codes_W // self.beam_size + 1
        scores_AW = log_p_AW / _divisor(length, self.length_penalty)
        if self.covered_AWS is not None:
            scores_AW = scores_AW + _coverage(self.covered_AWS, self.coverage_penalty)
        scores, order = torch.cat([self.scores_BN[rows], scores_AW], dim=1).sort(dim=1, descending=True, stable=True)
        order = order[:, :n_best]
        self.scores_BN[rows] = scores[:, :n_best]
        self.log_p_BN[rows] = torch.cat([self.log_p_BN[rows], log_p_AW], dim=1).gather(1, order)
        self.codes_BN[rows] = torch.cat([self.codes_BN[rows], codes_W.expand_as(log_p_AW)], dim=1).gather(1, order)

    def hypotheses(self) -> Hypotheses:
        """Follow the parents back from each kept hypothesis's end, gathering tokens and attention."""
        lengths_BN = (self.codes_BN // self.beam_size + 1).masked_fill(self.scores_BN == -torch.inf, 0)
        places_BN = self.codes_BN % self.beam_size
        tokens, attention = [], []
        for t in reversed(range(max(int(lengths_BN.max()), 1))):  # without one hypothesis if log p is nan
            step, outside_BN = self.trace[t], lengths_BN <= t
            tokens.append(step.tokens_AW[step.place_B].gather(1, places_BN).masked_fill(outside_BN, PAD))
            parents_BN = step.parents_AW[step.place_B].gather(1, places_BN)
            if step.weights_AWS is not None:
                weights_BNS = step.weights_AWS[step.place_B[:, None], parents_BN]
                attention.append(weights_BNS.masked_fill(outside_BN[..., None], 0.0))
            places_BN = torch.where(outside_BN, places_BN, parents_BN)
        return Hypotheses(
            ids_BNT=torch.stack(tokens[::-1], dim=2),
            lengths_BN=lengths_BN,
            scores_BN=self.scores_BN,
            log_probabilities_BN=self.log_p_BN,
            attention_BNTS=torch.stack(attention[::-1], dim=2) if attention else None,
        )


def _divisor(lengths: Tensor, length_penalty: float) -> Tensor:
    """What log p is divided by; the power in float64, so that its last bit does not depend on the tensor's shape."""
    return (lengths.to(torch.float64) ** length_penalty).to(torch.float32)


def _padding(source_BS: Tensor, lengths_B: Tensor) -> Tensor:
    """1 at padding, which counts as covered from the beginning; in float64, as all sums of attention."""
    return (torch.arange(source_BS.shape[1], device=source_BS.device) >= lengths_B[:, None]).to(torch.float64)


def _coverage(covered: Tensor, penalty: float) -> Tensor:
    """The coverage penalty of hypotheses [...] that looked so much at each source position [..., S]; at most 0."""
    return (penalty * covered.clamp(_LEAST_COVERAGE, 1.0).log().sum(dim=-1)).to(torch.float32)


def _forced(prefixes_BP: Tensor | None, rows: Tensor, step: int) -> Tensor | None:
    """The token that each row must write at this step, PAD where it is free; None when all are."""
    if prefixes_BP is None or step >= prefixes_BP.shape[1]:
        return None
    return prefixes_BP[rows, step]


def _best(logits_RV: Tensor, forced_R: Tensor | None, count: int) -> tuple[Tensor, Tensor]:
    """Each row's `count` most probable tokens that it may write, best first, equal ones by id: log p and token."""
    if logits_RV.dtype == torch.float32 and compiled.on_cpu(logits_RV):
        return native.best(logits_RV, count, _BARRED, forced_R, free=PAD)
    return _top(_allowed(logits_RV, forced_R), count)


def _allowed(logits_RV: Tensor, forced_R: Tensor | None) -> Tensor:
    """Log-probabilities, -inf for the tokens that a row may not write."""
    log_p_RV = logits_RV.log_softmax(dim=1)
    if forced_R is None:
        log_p_RV[:, _BARRED] = -torch.inf
        return log_p_RV
    rows = (forced_R != PAD).nonzero().squeeze(1)
    wanted = log_p_RV[rows, forced_R[rows]]
    log_p_RV[:, _BARRED] = -torch.inf
    log_p_RV[rows] = -torch.inf
    log_p_RV[rows, forced_R[rows]] = wanted
    return log_p_RV


def _top(values_RV: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest values of each row and their indices, best first, equal values by index.

    torch.topk says nothing of equal values: their order is mended here, and the rare tie between the last that is in
    and the first that is out is settled by a full stable sort of its row.
    """
    best, index = _largest(values_RV, min(count + 1, values_RV.shape[1]))
    if count < values_RV.shape[1]:
        tied = ((best[:, count - 1] == best[:, count]) & (best[:, count] > -torch.inf)).nonzero().squeeze(1)
        if len(tied):
            index[tied] = values_RV[tied].argsort(dim=1, descending=True, stable=True)[:, : count + 1]
    best, index = best[:, :count], index[:, :count]
    index, order = index.sort(dim=1)
    best, order = best.gather(1, order).sort(dim=1, descending=True, stable=True)
    return best, index.gather(1, order)


def _largest(values_RV: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """torch.topk; of a large vocabulary, on a CPU, in half its time or less (docs/experiments.md).

    The columns are dealt out into classes, column c into class c modulo their number. The `count` largest values are in
    the classes with the `count` largest maxima (or in the few columns that are left over), and the maxima are quickly
    found. There are so many classes that topk takes its fast way with their maxima, too.
    """
    rows, vocabulary = values_RV.shape
    members = vocabulary // (_TOPK_RATIO * count)
    if members < 4 or values_RV.is_cuda:
        return values_RV.topk(count, dim=1)
    classes = vocabulary // members
    left_over = torch.arange(classes * members, vocabulary, device=values_RV.device)
    maxima = functional.max_pool1d(values_RV, members, stride=1, dilation=classes)[:, :classes]
    chosen = maxima.topk(count, dim=1, sorted=False).indices
    index = chosen[:, None] + torch.arange(0, classes * members, classes, device=chosen.device)[:, None]
    index = torch.cat([index.flatten(1), left_over.expand(rows, -1)], dim=1)
    best, place = values_RV.gather(1, index).topk(count, dim=1)
    return best, index.gather(1, place)


def _survivors(running: Tensor) -> Tensor | None:
    """The places of what runs when enough is done to make retiring the rest worth its copy, else None."""
    done = len(running) - int(running.sum())
    return running.nonzero().squeeze(1) if done and done * _RETIRE_SHARE >= len(running) else None
