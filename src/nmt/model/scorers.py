"""The scores of attention over a whole reference and their gradients: what recurrence.py's loop calls at each step."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

SATURATED = 44.0
"""tanh is 1 long before, and exp(2 x) is still a float32 here."""


class Scorer(Protocol):
    """Scores of T queries [B, A] against the same keys [B, S, A]; the backward pass begins with the last query."""

    def forward(self, t: int, query: Tensor) -> Tensor:
        """The scores [B, S] of query t."""

    def begin_backward(self) -> None:
        """Begin the backward pass."""

    def backward(self, t: int, d_scores: Tensor, d_query: Tensor) -> None:
        """Write the gradient of query t."""

    def gradients(self) -> tuple[Tensor, Tensor | None]:
        """Of the keys and of the score's weight, if that is learned; when all queries went back."""


class AdditiveScorer:
    """score = w . tanh(query + key), without a tanh or an exp of anything as large as queries x keys.

    tanh(x) = 1 - 2 s with s = 1 / (1 + exp(2 x)), softmax does not see the constant, and exp(2 query + 2 key) is a
    product of two exponentials, each taken once. Where a factor leaves float32, s is 0 or 1, as it should be.

    In the backward pass s is computed anew: to keep it for all steps would cost a cache miss for every number, twice.
    """

    def __init__(self, keys: Tensor, weight: Tensor, steps: int) -> None:
        self._exp_keys = keys.clamp(-SATURATED, SATURATED).mul_(2.0).exp_()
        self._weight, self._score_weight = weight, -2.0 * weight
        self._one = keys.new_ones(())
        self._s = torch.empty_like(keys)
        self._queries = keys.new_empty(steps, len(keys), 1, keys.shape[-1]).unbind(0)

    def _squash(self, t: int) -> Tensor:
        return torch.addcmul(self._one, self._exp_keys, self._queries[t], out=self._s).reciprocal_()

    def forward(self, t: int, query: Tensor) -> Tensor:
        torch.add(query, query, out=self._queries[t].squeeze(1)).exp_()
        return self._squash(t) @ self._score_weight

    def begin_backward(self) -> None:
        self._d_keys, self._d_weight = torch.zeros_like(self._exp_keys), torch.zeros_like(self._weight)
        self._slope = torch.empty_like(self._s)

    def backward(self, t: int, d_scores: Tensor, d_query: Tensor) -> None:
        s = self._squash(t)
        slope = torch.addcmul(s, s, s, value=-1.0, out=self._slope)  # tanh' = 4 s (1 - s)
        self._d_weight -= d_scores.flatten() @ s.flatten(0, 1)
        self._d_keys.addcmul_(slope, d_scores[..., None])
        torch.mul(torch.bmm(d_scores[:, None], slope).squeeze(1), 4.0 * self._weight, out=d_query)

    def gradients(self) -> tuple[Tensor, Tensor | None]:
        return self._d_keys.mul_(4.0 * self._weight), self._d_weight.mul_(2.0)


class DotScorer:
    """score = query . key times a constant."""

    def __init__(self, keys: Tensor, scale: Tensor, steps: int) -> None:
        self._keys, self._scale = keys, scale
        self._queries = keys.new_empty(steps, len(keys), keys.shape[-1])

    def forward(self, t: int, query: Tensor) -> Tensor:
        self._queries[t] = query
        return (self._keys @ query[..., None]).squeeze(-1) * self._scale

    def begin_backward(self) -> None:
        self._d_scores = self._keys.new_empty(len(self._queries), *self._keys.shape[:-1])

    def backward(self, t: int, d_scores: Tensor, d_query: Tensor) -> None:
        scaled = torch.mul(d_scores, self._scale, out=self._d_scores[t])
        d_query.copy_((scaled[:, None] @ self._keys).squeeze(1))

    def gradients(self) -> tuple[Tensor, Tensor | None]:
        return self._d_scores.permute(1, 2, 0) @ self._queries.transpose(0, 1), None


SCORERS: dict[str, Callable[[Tensor, Tensor, int], Scorer]] = {"additive": AdditiveScorer, "dot": DotScorer}
