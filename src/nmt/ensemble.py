"""Several models that write one translation: each next token by the mean of their probabilities.

Sutskever et al. 2014 (section 3.6) translate with five that differ in their first weights and the order of batches:
what the seed decides here. Search asks an ensemble what it asks one model. The mean is of probabilities, p = 1/M sum_m
p_m, not of log-probabilities: so p is a distribution as it stands, log p(y|x) and perplexity mean what they mean for
one model, and none can forbid a token alone, as a probability near 0 would in a geometric mean. The attention is the
mean of the models' weights, and sums to 1 as theirs does.

Shape suffixes: M models, B sentences or hypotheses, T target positions, S source positions, V vocabulary.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from nmt.model.seq2seq import Seq2Seq
from nmt.places import Places
from nmt.search import SearchableModel, Selectable

_Part = TypeVar("_Part", bound=Selectable)


@dataclass(frozen=True)
class Parts(Generic[_Part]):
    """The models' memories, or their states."""

    each: tuple[_Part, ...]

    def select(self, index: Tensor) -> "Parts[_Part]":
        """Those of these sentences or hypotheses, in this order."""
        return Parts(tuple(part.select(index) for part in self.each))


class Ensemble:
    """p(target | source) of several models of one vocabulary, for search; encoders and states are their own."""

    def __init__(self, models: Sequence[SearchableModel[Any, Any]]) -> None:
        self.models = tuple(models)

    def encode(self, source_BS: Tensor, lengths_B: Tensor) -> Parts[Any]:
        """Read source sentences, each model for itself."""
        return Parts(tuple(model.encode(source_BS, lengths_B) for model in self.models))

    def start(self, memory: Parts[Any]) -> Parts[Any]:
        """The decoders' states before the first word."""
        return Parts(tuple(model.start(own) for model, own in zip(self.models, memory.each, strict=True)))

    def step(
        self, memory: Parts[Any], state: Parts[Any], previous_R: Tensor, places: Places
    ) -> tuple[Tensor, Parts[Any], Tensor | None]:
        """One step of prediction: log-probabilities [R, V], the next states, the attention weights [R, S]."""
        steps = [
            model.step(own, before, previous_R, places)
            for model, own, before in zip(self.models, memory.each, state.each, strict=True)
        ]
        logits, states, weights = zip(*steps, strict=True)
        return _mean_probabilities(logits), Parts(states), _mean(weights)


def force_together(
    models: Sequence[Seq2Seq], source_BS: Tensor, lengths_B: Tensor, inputs_BT: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Teacher-forced prediction of several models, or of one: log-probabilities [B, T, V], weights [B, T, S]."""
    forced = [model.force(model.encode(source_BS, lengths_B), inputs_BT) for model in models]
    logits, weights = zip(*forced, strict=True)
    return _mean_probabilities(logits), _mean(weights)


def _mean_probabilities(logits: Sequence[Tensor]) -> Tensor:
    """The logarithm of the mean of the models' probabilities [..., V]."""
    if len(logits) == 1:
        return logits[0].log_softmax(dim=-1)
    log_p_M = torch.stack([each.log_softmax(dim=-1) for each in logits])
    return log_p_M.logsumexp(dim=0) - math.log(len(logits))


def _mean(weights: Sequence[Tensor | None]) -> Tensor | None:
    """The mean over the models that have attention; None if none has."""
    there = [each for each in weights if each is not None]
    return torch.stack(there).mean(dim=0) if there else None
