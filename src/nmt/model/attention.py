"""What the decoder may look back at: nothing but the summary, or every source word.

Every kind has the same face, so the decoder around it is one code path:

    keys = attention.project_keys(values)                    once per sentence, not once per step
    context, weights = attention(query, keys, values, padding)

The variants of the experiment differ here and nowhere else.
"""

import math
from abc import abstractmethod

import torch
from torch import Tensor, nn

from nmt.model.products import linear


class Attention(nn.Module):
    """The common face of the kinds below."""

    score: str
    """The name by which recurrence.run_attended knows the score; "none" has none."""

    def __init__(self, key_size: int) -> None:
        super().__init__()
        self.key_size = key_size

    @abstractmethod
    def project_keys(self, values_BSC: Tensor, dtype: torch.dtype) -> Tensor:
        """Keys [B, S, A] of encoder outputs [B, S, C]."""

    @abstractmethod
    def forward(
        self, query_BQ: Tensor, keys_BSA: Tensor, values_BSC: Tensor, padding_BS: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Context [B, C] and weights [B, S], which sum to 1 and are 0 at padding."""

    def __call__(
        self, query_BQ: Tensor, keys_BSA: Tensor, values_BSC: Tensor, padding_BS: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        context, weights = super().__call__(query_BQ, keys_BSA, values_BSC, padding_BS)
        return context, weights


class NoAttention(Attention):
    """The context is the encoder's summary at every step; there are no weights (Cho et al. 2014).

    Its values are [B, 1, C]: the summary as the only thing to look at.
    """

    score = "none"

    def __init__(self) -> None:
        super().__init__(key_size=0)

    def project_keys(self, values_BSC: Tensor, dtype: torch.dtype) -> Tensor:
        return values_BSC[..., :0]

    def forward(
        self, query_BQ: Tensor, keys_BSA: Tensor, values_BSC: Tensor, padding_BS: Tensor
    ) -> tuple[Tensor, None]:
        return values_BSC[:, 0], None


class AdditiveAttention(Attention):
    """score = v . tanh(W_q query + W_k key + b) (Bahdanau et al. 2015, appendix A.1.2).

    Computed as tanh(x) = 2 sigmoid(2 x) - 1, less the constant, which softmax does not see: a fifth of tanh's time.
    """

    score = "additive"

    def __init__(self, query_size: int, value_size: int, attention_size: int) -> None:
        super().__init__(key_size=attention_size)
        self.query = nn.Linear(query_size, attention_size, bias=False)
        self.key = nn.Linear(value_size, attention_size)
        self.weight = nn.Parameter(torch.empty(attention_size))

    def project_keys(self, values_BSC: Tensor, dtype: torch.dtype) -> Tensor:
        return linear(values_BSC, self.key.weight, self.key.bias, dtype)

    def forward(
        self, query_BQ: Tensor, keys_BSA: Tensor, values_BSC: Tensor, padding_BS: Tensor
    ) -> tuple[Tensor, Tensor]:
        query_BA = linear(query_BQ, self.query.weight, None, query_BQ.dtype)
        doubled_BSA = 2.0 * (keys_BSA + query_BA[:, None])
        return attend(torch.sigmoid(doubled_BSA) @ (2.0 * self.weight), values_BSC, padding_BS)


class GeneralAttention(Attention):
    """score = query . W_k key / sqrt(H).

    "General" of Luong et al. 2015 (section 3.1), scaled as in Vaswani et al. 2017 (section 3.2.1).
    """

    score = "dot"

    def __init__(self, query_size: int, value_size: int) -> None:
        super().__init__(key_size=query_size)
        self.key = nn.Linear(value_size, query_size, bias=False)
        self.register_buffer("scale", torch.tensor([1.0 / math.sqrt(query_size)]), persistent=False)

    scale: Tensor

    def project_keys(self, values_BSC: Tensor, dtype: torch.dtype) -> Tensor:
        return linear(values_BSC, self.key.weight, None, dtype)

    def forward(
        self, query_BQ: Tensor, keys_BSA: Tensor, values_BSC: Tensor, padding_BS: Tensor
    ) -> tuple[Tensor, Tensor]:
        scores_BS = (keys_BSA @ query_BQ[..., None]).squeeze(-1) * self.scale
        return attend(scores_BS, values_BSC, padding_BS)


class DotAttention(GeneralAttention):
    """score = query . key / sqrt(H), nothing learned: both must have the same size."""

    def __init__(self, query_size: int) -> None:
        super().__init__(query_size, query_size)
        del self.key

    def project_keys(self, values_BSC: Tensor, dtype: torch.dtype) -> Tensor:
        return values_BSC


def attend(scores_BS: Tensor, values_BSC: Tensor, padding_BS: Tensor) -> tuple[Tensor, Tensor]:
    """The softmax of the scores over real source words, and the values' mean under it."""
    weights_BS = torch.softmax(scores_BS.masked_fill(padding_BS, -torch.inf), dim=-1)
    return (weights_BS[:, None] @ values_BSC).squeeze(1), weights_BS
