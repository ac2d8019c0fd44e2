"""Erasure and gradient x input against the same measures taken one token at a time, by the readable decoder."""

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from nmt.influence import Given, influence
from nmt.model.seq2seq import Seq2Seq
from nmt.subwords import BOS, EOS
from tests.models import tiny_model

MODELS = [
    ("additive", {}),
    ("dot", {"cell": "lstm", "encoder_layers": 2}),
    ("general", {"decoder_layers": 2, "readout": "state"}),
    ("none", {"bidirectional": False}),
]


def given(source: list[int], target: list[int], words: list[list[int]]) -> Given:
    """A pair of texts, and the places of each word's pieces."""
    shares = np.zeros((len(source), len(words)))
    for word, places in enumerate(words):
        shares[places, word] = 1.0
    return Given(source, target, shares)


TEXTS = [
    given([4, 5, 6, 7, EOS], [8, 9, 4, EOS], [[0], [1, 2], [3]]),
    given([9, EOS], [5, 5, 5, 5, 5, 5], [[0]]),  # no end before the length limit
    given([4, 4, 4, 10, 11, 12, EOS], [EOS], [[0, 1, 2], [3], [4, 5]]),
]


def token_log_p(model: Seq2Seq, embedded_SE: Tensor, target: list[int]) -> Tensor:
    """[T]: the log-probability of each token, step by step."""
    memory = model.read(embedded_SE[:, None], torch.tensor([len(embedded_SE)]))
    state, log_p = model.start(memory), []
    for before, token in zip([BOS, *target], target, strict=False):
        logits, state, _ = model.step(memory, state, torch.tensor([before]))
        log_p.append(logits.log_softmax(-1)[0, token])
    return torch.stack(log_p)


@pytest.mark.parametrize(("attention", "settings"), MODELS)
def test_both_are_what_they_say(attention: str, settings: dict[str, object]) -> None:
    """Masking a word's pieces by hand, and autograd for a token at a time, give the same numbers."""
    model = tiny_model(attention, seed=3, **settings).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2.0)  # as strong as trained ones, so that the differences are no rounding
    for text, found in zip(TEXTS, influence(model, TEXTS), strict=True):
        embedded = model.source_embedding(torch.tensor(text.source)).detach().requires_grad_()
        log_p = token_log_p(model, embedded, list(text.target))
        slopes = [torch.autograd.grad(one, embedded, retain_graph=True)[0] for one in log_p]
        by_piece = torch.stack([(slope * embedded).sum(-1) for slope in slopes]).detach().numpy()
        np.testing.assert_allclose(found.gradient, by_piece @ text.shares, rtol=1e-4, atol=1e-6)
        for word in range(text.shares.shape[1]):
            kept = torch.tensor(1.0 - (text.shares[:, word] > 0))
            erased = token_log_p(model, embedded * kept[:, None], list(text.target))
            np.testing.assert_allclose(found.erasure[:, word], (log_p - erased).detach().numpy(), rtol=1e-4, atol=1e-6)
        assert np.abs(found.erasure).max() > 1e-3
        assert np.abs(found.gradient).max() > 1e-3


def test_batches_change_nothing() -> None:
    """A text by itself gives what it gives among others of other lengths."""
    model = tiny_model("additive").eval()
    together = influence(model, TEXTS * 40)
    for i, text in enumerate(TEXTS):
        (alone,) = influence(model, [text])
        for name in ("erasure", "gradient"):
            for row in (i, i + 3 * 39):
                np.testing.assert_allclose(getattr(together[row], name), getattr(alone, name), atol=2e-6)


def test_texts_without_tokens_or_words() -> None:
    """Nothing to measure is an empty matrix, also between other texts."""
    model = tiny_model("none").eval()
    texts = [given([], [], []), TEXTS[0], given([EOS], [4, EOS], []), given([4, EOS], [], [[0]])]
    shapes = [(one.erasure.shape, one.gradient.shape) for one in influence(model, texts)]
    assert shapes == [((0, 0),) * 2, ((4, 3),) * 2, ((2, 0),) * 2, ((0, 1),) * 2]


def test_a_piece_of_two_words_is_erased_with_each_and_its_slope_is_shared() -> None:
    """The gradient of a straddling piece goes to its words by their shares."""
    model = tiny_model("additive").eval()
    shares: npt.NDArray[np.float64] = np.array([[1.0, 0.0], [0.25, 0.75], [0.0, 0.0]])
    (straddling,) = influence(model, [Given([4, 5, EOS], [6, EOS], shares)])
    (pieces,) = influence(model, [given([4, 5, EOS], [6, EOS], [[0], [1]])])
    (both,) = influence(model, [given([4, 5, EOS], [6, EOS], [[0, 1]])])
    np.testing.assert_allclose(straddling.gradient, pieces.gradient @ shares[:2], atol=1e-6)
    np.testing.assert_allclose(straddling.erasure[:, 0], both.erasure[:, 0], atol=1e-6)
    np.testing.assert_allclose(straddling.erasure[:, 1], pieces.erasure[:, 1], atol=1e-6)


def test_progress_counts_the_texts() -> None:
    """However many passes a text takes."""
    seen: list[int] = []
    influence(tiny_model("none").eval(), TEXTS * 90, seen.append)
    assert sum(seen) == 270
    assert len(seen) > 1
