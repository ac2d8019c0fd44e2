"""Attention that is disturbed at prediction: what does a trained model lose without it?

The model stays as it was trained; only the module that the decoder asks for its context is another one for a while.
How far BLEU falls says how much the translation rests on looking at the right place at the right time:

    uniform   every source position weighs the same: what is there still arrives, which is meant does not
    shifted   the weights fall one source position too late, the last one's on the first: as sharp, at the wrong place
    frozen    the context is the encoder's last state at every step: the end of what each direction read, all that
              the plain model gets (there through the bridge). Nothing is looked at
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from nmt.model.attention import Attention
from nmt.model.encoder import Encoder
from nmt.model.seq2seq import Seq2Seq


class _Disturbed(Attention):
    """Keys are those of the attention in whose place it stands."""

    score = "disturbed"

    def __init__(self, whole: Attention, encoder: Encoder) -> None:
        super().__init__(whole.key_size)
        self.whole = whole
        self.encoder = encoder

    def project_keys(self, values_BSC: Tensor, dtype: torch.dtype) -> Tensor:
        return self.whole.project_keys(values_BSC, dtype)


class Uniform(_Disturbed):
    """The mean of all values."""

    def forward(
        self, query_BQ: Tensor, keys_BSA: Tensor, values_BSC: Tensor, padding_BS: Tensor
    ) -> tuple[Tensor, Tensor]:
        present_BS = (~padding_BS).to(values_BSC.dtype)
        weights_BS = present_BS / present_BS.sum(dim=1, keepdim=True)
        return (weights_BS[:, None] @ values_BSC).squeeze(1), weights_BS


class Shifted(_Disturbed):
    """The real weights, each at the position after its own; the last real one's at the first."""

    def forward(
        self, query_BQ: Tensor, keys_BSA: Tensor, values_BSC: Tensor, padding_BS: Tensor
    ) -> tuple[Tensor, Tensor]:
        _, weights_BS = self.whole(query_BQ, keys_BSA, values_BSC, padding_BS)
        assert weights_BS is not None, "attention without weights"
        places_BS = torch.arange(padding_BS.shape[1], device=padding_BS.device).expand_as(padding_BS)
        ends_B1 = (~padding_BS).sum(dim=1, keepdim=True) - 1
        before_BS = torch.where(places_BS == 0, ends_B1, places_BS - 1)
        weights_BS = weights_BS.gather(1, before_BS).masked_fill(padding_BS, 0.0)
        return (weights_BS[:, None] @ values_BSC).squeeze(1), weights_BS


class Frozen(_Disturbed):
    """The encoder's last state, and no word's embedding; it has no weights."""

    def forward(
        self, query_BQ: Tensor, keys_BSA: Tensor, values_BSC: Tensor, padding_BS: Tensor
    ) -> tuple[Tensor, None]:
        ends_B = (~padding_BS).sum(dim=1) - 1
        last_BC = values_BSC[torch.arange(len(ends_B), device=ends_B.device), ends_B]
        whole = self.encoder.output_size
        half = whole // self.encoder.directions
        embeddings = torch.zeros_like(last_BC[:, whole:])
        return torch.cat([last_BC[:, :half], values_BSC[:, 0, half:whole], embeddings], dim=1), None


ABLATIONS: dict[str, type[_Disturbed]] = {"uniform": Uniform, "shifted": Shifted, "frozen": Frozen}


@contextmanager
def ablated(model: Seq2Seq, name: str) -> Iterator[None]:
    """The model with its attention disturbed, while the block lasts."""
    assert model.has_attention, "nothing to disturb"
    whole = model.decoder.attention
    model.decoder.attention = ABLATIONS[name](whole, model.encoder)
    try:
        yield
    finally:
        model.decoder.attention = whole
