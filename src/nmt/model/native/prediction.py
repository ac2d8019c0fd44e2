"""A step of prediction: attention for each hypothesis, and the words that may come next."""

from collections.abc import Sequence

import torch
from torch import Tensor

from nmt.model.native.library import Arguments, call, fields


class _Attend(Arguments):
    _fields_ = fields(
        "rows source key_size value_size additive", "queries keys values score_weight padding sentences weights sums"
    )


class _Best(Arguments):
    _fields_ = fields("rows words count barred_count free", "logits barred forced log_probabilities indices")


def attend(
    additive: bool, query_RK: Tensor, keys_ASK: Tensor, values_ASX: Tensor, score_weight: Tensor, padding_AS: Tensor,
    sentence_R: Tensor | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The values' sum under each row's attention [R, X], and the weights [R, S].

    Keys of additive attention are exp(2 key); a row's sentence is its own where `sentence_R` is None.
    """
    (rows, key_size), (_, source, value_size) = query_RK.shape, values_ASX.shape
    weights, sums = query_RK.new_empty(rows, source), query_RK.new_empty(rows, value_size)
    arguments = _Attend(
        rows=rows, source=source, key_size=key_size, value_size=value_size, additive=additive,
        queries=query_RK.contiguous(), keys=keys_ASK.contiguous(), values=values_ASX.contiguous(),
        score_weight=score_weight.contiguous(), padding=padding_AS.contiguous(), sentences=sentence_R,
        weights=weights, sums=sums,
    )  # fmt: skip
    call("attend", torch.float32, arguments)
    return sums, weights


def best(
    logits_RV: Tensor, count: int, barred: Sequence[int], forced_R: Tensor | None, free: int
) -> tuple[Tensor, Tensor]:
    """The log-probabilities [R, count] of the most probable words but the barred ones, best first, and these.

    A row whose word in `forced_R` is not `free` has that word alone; then -inf.
    """
    rows, words = logits_RV.shape
    log_p, indices = logits_RV.new_empty(rows, count), torch.empty(rows, count, dtype=torch.int64)
    arguments = _Best(
        rows=rows, words=words, count=count, barred_count=len(barred), free=free,
        logits=logits_RV.contiguous(), barred=torch.tensor(barred),
        forced=None if forced_R is None else forced_R.contiguous(), log_probabilities=log_p, indices=indices,
    )  # fmt: skip
    call("best", torch.float32, arguments)
    return log_p, indices
