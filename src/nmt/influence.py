"""How much each source word matters to each token of a target: erasure, and gradient x input.

Attention says where a model looked; these ask what its answer depended on, and can be asked of every model. Both take
a target as given and look at the log-probability (nats) of each of its tokens:

    erasure     log p(token) - log p(token | one source word erased)        Li, Monroe & Jurafsky 2016, section 4
    gradient    sum over the word's pieces of embedding . d log p(token) / d embedding     Denil et al. 2014, section 3

A word is erased by setting the embeddings of all its pieces to zero. That takes away which word stood there and leaves
its place, so that every other word keeps its position, which leaving the word out would not. Zero is the middle that
embeddings are drawn around and dropout pulls them to; another word in its stead (an unknown one) would be read as one.
Gradient x input is the first-order guess of the same change: the slope at the embedding, followed down to zero. Both
are positive where the word helped.

Shape suffixes: R passes of a batch, S source pieces, T target pieces, W words, E units of an embedding, V vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nmt.batching import pad, similar_shapes
from nmt.model.seq2seq import Seq2Seq
from nmt.subwords import BOS

_ROWS = 64
"""Passes of a batch: what is kept for their way back stays in the processor's cache."""
_CELLS = 2**16
"""Passes x source x target positions of a batch: the memory for attention and its gradients grows with them."""
BLOCK = 250
"""Texts that are measured together: enough to find passes of equal lengths among them."""
_NO_WORD = -1

Matrix = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Given:
    """A pair of texts as ids, with eos where they have it."""

    source: Sequence[int]
    target: Sequence[int]
    shares: npt.NDArray[np.float64]
    """[S, W]: the share of each source piece in each source word; zeros for a piece of no word (eos)."""


@dataclass(frozen=True)
class Influence:
    """What each source word does to the log-probability of each target token, [T, W] in nats."""

    erasure: Matrix
    gradient: Matrix
    """Signed."""


@dataclass(frozen=True)
class _Pass:
    """One text through the model once, for the sake of one of its source words or of one of its tokens."""

    text: int
    place: int
    source: Sequence[int]
    target: Sequence[int]


def influence(
    model: Seq2Seq, texts: Sequence[Given], progress: Callable[[int], object] | None = None
) -> list[Influence]:
    """Measure both for every text; `progress` is told how many more are done."""
    found: list[Influence] = []
    for begin in range(0, len(texts), BLOCK):
        block = texts[begin : begin + BLOCK]
        found += map(Influence, _erasure(model, block), _gradient(model, block))
        if progress:
            progress(len(block))
    return found


def _erasure(model: Seq2Seq, texts: Sequence[Given]) -> list[Matrix]:
    """A pass for each word, and one for the whole sentence."""
    passes = [
        _Pass(i, word, text.source, text.target)
        for i, text in enumerate(texts)
        for word in range(_NO_WORD, text.shares.shape[1])
        if len(text.target)
    ]
    log_p = [np.zeros((len(text.target), text.shares.shape[1] + 1), np.float32) for text in texts]
    for batch in _batches(passes):
        for one, log_p_T in zip(batch, _erased(model, texts, batch), strict=True):
            log_p[one.text][:, one.place] = log_p_T[: len(one.target)]  # of the whole sentence: the last column
    return [matrix[:, -1:] - matrix[:, :-1] for matrix in log_p]


def _gradient(model: Seq2Seq, texts: Sequence[Given]) -> list[Matrix]:
    """A pass for each token, which reads the target up to there."""
    passes = [
        _Pass(i, place, text.source, text.target[: place + 1])
        for i, text in enumerate(texts)
        for place in range(len(text.target))
    ]
    found = [np.zeros((len(text.target), text.shares.shape[1]), np.float32) for text in texts]
    for batch in _batches(passes):
        for one, slope_S in zip(batch, _slopes(model, batch), strict=True):
            found[one.text][one.place] = slope_S[: len(one.source)] @ texts[one.text].shares
    return found


def _batches(passes: Sequence[_Pass]) -> Iterator[list[_Pass]]:
    for batch in similar_shapes([(len(one.source), len(one.target)) for one in passes], _ROWS, _CELLS):
        yield [passes[i] for i in batch]


@torch.inference_mode()
def _erased(model: Seq2Seq, texts: Sequence[Given], batch: Sequence[_Pass]) -> npt.NDArray[np.float32]:
    """[R, T]: the tokens' log-probabilities without each pass's word."""
    source_RS, lengths_R, inputs_RT, outputs_RT = _tensors(model, batch)
    kept_SR = torch.ones(source_RS.shape[::-1])
    for r, one in enumerate(batch):
        if one.place != _NO_WORD:
            kept_SR[np.flatnonzero(texts[one.text].shares[:, one.place]), r] = 0.0
    embedded_SRE = model.source_embedding(source_RS.t()) * kept_SR.to(model.device)[..., None]
    logits_RTV, _ = model.force(model.read(embedded_SRE, lengths_R), inputs_RT)
    log_p_RT = logits_RTV.log_softmax(dim=2).gather(2, outputs_RT[..., None]).squeeze(2)
    return np.asarray(log_p_RT.cpu().numpy())


@torch.inference_mode(False)
@torch.enable_grad()
def _slopes(model: Seq2Seq, batch: Sequence[_Pass]) -> npt.NDArray[np.float32]:
    """[R, S]: gradient x input of the log-probability of each pass's last token, at each source piece."""
    source_RS, lengths_R, inputs_RT, outputs_RT = _tensors(model, batch)
    ends_R = torch.tensor([len(one.target) for one in batch], device=model.device)
    embedded_SRE = model.source_embedding(source_RS.t()).detach().requires_grad_()
    logits_RV = model.force_last(model.read(embedded_SRE, lengths_R), inputs_RT, ends_R)
    log_p_R = logits_RV.log_softmax(dim=1).gather(1, outputs_RT.gather(1, ends_R[:, None] - 1))
    (slope_SRE,) = torch.autograd.grad(log_p_R.sum(), embedded_SRE)
    return np.asarray((slope_SRE * embedded_SRE.detach()).sum(dim=2).t().cpu().numpy())


def _tensors(model: Seq2Seq, batch: Sequence[_Pass]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Sources and their lengths, what the decoder reads, what it is to write."""
    source_RS, lengths_R = pad([one.source for one in batch])
    outputs_RT, _ = pad([one.target for one in batch])
    inputs_RT = torch.cat([torch.full_like(outputs_RT[:, :1], BOS), outputs_RT[:, :-1]], dim=1)
    device = model.device
    return source_RS.to(device), lengths_R.to(device), inputs_RT.to(device), outputs_RT.to(device)
