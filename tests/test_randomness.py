"""Randomness by key."""

import torch
from torch import Tensor

from nmt.randomness import WideMask, dropout_masks, generator


def dropout_mask(rate: float, width: int, rows: Tensor, *keys: int) -> Tensor | None:
    """The first of masks of these keys."""
    return dropout_masks([(rate, width)], rows, *keys)[0]


def test_generators_follow_their_keys() -> None:
    """Equal keys give equal numbers, other keys others, and the global state is left alone."""
    before = torch.random.get_rng_state()
    assert generator(1, 2).integers(0, 1 << 30) == generator(1, 2).integers(0, 1 << 30)
    assert generator(1, 2).integers(0, 1 << 30) != generator(2, 1).integers(0, 1 << 30)
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_mask_row_belongs_to_its_sentence() -> None:
    """Row b depends on the sentence and the keys, not on the batch around it."""
    together = dropout_mask(0.5, 64, torch.tensor([7, 3, 9]), 1, 2)
    alone = dropout_mask(0.5, 64, torch.tensor([3]), 1, 2)
    assert together is not None
    assert alone is not None
    assert torch.equal(together[1], alone[0])
    assert not torch.equal(together[0], together[1])


def test_masks_of_other_keys_are_independent() -> None:
    """Seeds, updates and sites give masks that agree no more than chance has it."""
    rows = torch.arange(200)
    masks = dropout_masks([(0.5, 100)] * 2, rows, 1, 2)
    masks += [dropout_mask(0.5, 100, rows, *keys) for keys in [(1, 3), (2, 2)]]
    for i, one in enumerate(masks):
        for other in masks[i + 1 :]:
            assert one is not None
            assert other is not None
            agreement = ((one > 0) == (other > 0)).double().mean().item()
            assert abs(agreement - 0.5) < 0.02


def test_masks_keep_the_expectation() -> None:
    """The share dropped is the rate, in rows, in columns and over all; kept units are scaled up."""
    mask = dropout_mask(0.3, 500, torch.arange(400), 1, 2)
    assert mask is not None
    assert set(torch.unique(mask).tolist()) == {0.0, torch.tensor(1 / 0.7).item()}
    assert abs(mask.mean().item() - 1.0) < 0.01
    kept = (mask > 0).double()
    assert (kept.mean(0) - 0.7).abs().max() < 0.12
    assert (kept.mean(1) - 0.7).abs().max() < 0.12


def test_a_wide_mask_has_the_same_columns_wherever_they_are_drawn() -> None:
    """At columns of each row's own, repeated or beyond any width, it is the mask of all columns."""
    rows = torch.tensor([7, 3, 9])
    wide, whole = WideMask.keyed(0.5, rows, 1, 2, 0), dropout_mask(0.5, 65_536, rows, 1, 2)
    assert wide is not None
    assert whole is not None
    columns = torch.randint(0, 65_536, (3, 50), generator=torch.Generator().manual_seed(1))
    columns[:, 30:] = columns[:, :20]
    assert torch.equal(wide.at(columns), whole.gather(1, columns))


def test_rate_zero_drops_nothing() -> None:
    """No mask at all, so nothing is multiplied; masks beside it keep their places."""
    assert dropout_mask(0.0, 4, torch.arange(2), 1) is None
    none, some = dropout_masks([(0.0, 4), (0.5, 6)], torch.arange(2), 1)
    assert none is None
    wide = WideMask.keyed(0.5, torch.arange(2), 1, 1)
    assert some is not None
    assert wide is not None
    assert torch.equal(some, wide.at(torch.arange(6)))
    assert WideMask.keyed(0.0, torch.arange(2), 1) is None
