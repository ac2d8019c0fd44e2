"""Token store and batches."""

import io
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nmt import batching
from nmt.batching import NONE, ParallelText, Segmentations, TokenStore, join_at_random, pad, similar_shapes
from nmt.config import Joining
from nmt.errors import UserError
from nmt.subwords import BOS, EOS, PAD

SENTENCES = [[5, 6, 7], [], [9], [4, 4, 4, 4]]
ALONE = Joining(share=0.0, up_to=2)
JOINED = Joining(share=0.5, up_to=4)


def text(folder: Path, count: int, seed: int = 1) -> ParallelText:
    """Random pairs with lengths like those of short sentences."""
    random = np.random.default_rng(seed)
    for side in ("source", "target"):
        lengths = 1 + random.poisson(9, count)
        TokenStore.write(folder / side, [random.integers(4, 100, length).tolist() for length in lengths])
    return ParallelText.open(folder / "source", folder / "target")


def test_store_gives_back_what_was_written(tmp_path: Path) -> None:
    """Sentences of any length, the empty one included, come back from the memory map."""
    TokenStore.write(tmp_path / "train.source", SENTENCES)
    store = TokenStore.open(tmp_path / "train.source")
    assert [store[i].tolist() for i in range(len(store))] == SENTENCES
    assert store.lengths.tolist() == [3, 0, 1, 4]
    assert isinstance(store.ids, np.memmap)


@given(st.lists(st.lists(st.integers(4, 65_535), max_size=9), max_size=20), st.integers(1, 7))
def test_a_store_grows_to_what_numpy_would_save(sequences: list[list[int]], block: int) -> None:
    """Byte for byte, whatever is held in memory at a time."""
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        stem = Path(name) / "x"
        patch.setattr(batching, "_BLOCK", block)
        TokenStore.write(stem, iter(sequences))
        flat = np.array([token for sequence in sequences for token in sequence], np.uint16)
        for kind, array in (("ids", flat), ("offsets", np.cumsum([0, *map(len, sequences)], dtype=np.int64))):
            expected = io.BytesIO()
            np.save(expected, array)
            assert stem.with_name(f"x.{kind}.npy").read_bytes() == expected.getvalue()


def test_padded_rows_have_their_frame(tmp_path: Path) -> None:
    """A bos before, an eos after the last real token, padding behind; an example's sentences stand in a row."""
    TokenStore.write(tmp_path / "x", SENTENCES)
    store = TokenStore.open(tmp_path / "x")
    one = np.array([[2], [0], [1]])
    assert store.padded(one, after=[EOS]).tolist() == [[9, EOS, PAD, PAD], [5, 6, 7, EOS], [EOS, PAD, PAD, PAD]]
    assert store.padded(one, before=[BOS]).tolist() == [[BOS, 9, PAD, PAD], [BOS, 5, 6, 7], [BOS, PAD, PAD, PAD]]
    several = np.array([[2, NONE, NONE], [0, 1, 2], [1, 2, NONE]])
    assert store.padded(several).tolist() == [[9, PAD, PAD, PAD], [5, 6, 7, 9], [9, PAD, PAD, PAD]]
    assert store.lengths_of(several).tolist() == [[1, 0, 0], [3, 0, 1], [0, 1, 0]]


@given(st.lists(st.lists(st.integers(4, 60_000), max_size=9), min_size=1, max_size=8))
def test_pad_keeps_every_token(sequences: list[list[int]]) -> None:
    """Rows cut at their lengths are the sequences; everything else is padding."""
    rows, lengths = pad(sequences)
    assert [row[:length].tolist() for row, length in zip(rows, lengths, strict=True)] == sequences
    assert int((rows != PAD).sum()) == sum(map(len, sequences))


def test_damaged_store_is_refused(tmp_path: Path) -> None:
    """A missing file, a truncated one and offsets of another corpus each give one clear error."""
    with pytest.raises(UserError, match="not a readable token store"):
        TokenStore.open(tmp_path / "absent")
    TokenStore.write(tmp_path / "x", SENTENCES)
    offsets = tmp_path / "x.offsets.npy"
    whole = offsets.read_bytes()
    offsets.write_bytes(whole[:-9])
    with pytest.raises(UserError, match="dvc repro --force tokenize"):
        TokenStore.open(tmp_path / "x")
    np.save(offsets, np.array([0, 3]))
    with pytest.raises(UserError, match="8 tokens, but the offsets end at 3"):
        TokenStore.open(tmp_path / "x")


@pytest.mark.parametrize(
    ("kind", "array", "reason"),
    [
        ("ids", np.zeros(9, np.int16), "not a token store, but int16"),
        ("ids", np.zeros((3, 3), np.uint16), "not a token store, but uint16"),
        ("ids", np.array([None], dtype=object), "not a readable token store"),
        ("offsets", np.array([0, 5, 2, 9]), "must begin at 0 and never fall"),
        ("offsets", np.array([1, 9]), "must begin at 0 and never fall"),
        ("offsets", np.array([], np.int64), "must begin at 0 and never fall"),
        ("offsets", np.array([0, 10]), "9 tokens, but the offsets end at 10"),
    ],
    ids=["type", "shape", "pickle", "falling", "not from 0", "empty", "beyond"],
)
def test_foreign_arrays_are_refused(tmp_path: Path, kind: str, array: np.ndarray, reason: str) -> None:
    """Another type or shape, objects, and offsets that are none: each would end far from here, or not at all."""
    TokenStore.write(tmp_path / "store", [[4, 5, 6], [7, 8, 9], [4, 5, 6]])
    np.save(tmp_path / f"store.{kind}.npy", array, allow_pickle=True)
    with pytest.raises(UserError, match=reason):
        TokenStore.open(tmp_path / "store")


def test_unequal_sides_are_refused(tmp_path: Path) -> None:
    """Pairs must match."""
    TokenStore.write(tmp_path / "source", SENTENCES)
    TokenStore.write(tmp_path / "target", SENTENCES[:3])
    with pytest.raises(UserError, match="4 source and 3 target sentences"):
        ParallelText.open(tmp_path / "source", tmp_path / "target")


def test_segmentations_of_unequal_numbers_are_refused(tmp_path: Path) -> None:
    """All must be of the same pairs: a row is a pair, whatever its pieces."""
    for name, count in (("one", 3), ("other", 4)):
        (tmp_path / name).mkdir()
        text(tmp_path / name, count)
    texts = [ParallelText.open(tmp_path / name / "source", tmp_path / name / "target") for name in ("one", "other")]
    with pytest.raises(UserError, match="segmentations of the training text have 3, 4 pairs"):
        Segmentations(texts)


@pytest.mark.parametrize("joining", [None, ALONE, JOINED])
def test_a_plan_takes_every_pair_once_within_the_budget(tmp_path: Path, joining: Joining | None) -> None:
    """No pair is lost or doubled; a batch's longer side, padded, holds at most the budget; little of it is padding."""
    pairs = text(tmp_path, 3000)
    plan = pairs.plan(700) if joining is None else pairs.shuffled_plan(700, joining, (1, 0))
    assert sorted(row for examples in plan for row in examples.flat if row != NONE) == list(range(3000))
    real = padded = 0
    for examples in plan:
        batch = pairs.batch(examples)
        assert max(batch.source_BS.numel(), batch.outputs_BT.numel()) <= 700
        real += batch.source_tokens + batch.target_tokens
        padded += batch.source_BS.numel() + batch.outputs_BT.numel()
    assert 1 - real / padded < (0.08 if joining != JOINED else 0.15)


def test_a_sentence_longer_than_the_budget_has_a_batch_of_its_own(tmp_path: Path) -> None:
    """Nothing is dropped for its length."""
    pairs = text(tmp_path, 50)
    assert sorted(np.concatenate(pairs.shuffled_plan(3, ALONE, (1, 0)))[:, 0].tolist()) == list(range(50))


def test_plans_follow_their_keys(tmp_path: Path) -> None:
    """The same keys give the same batches in the same order; another epoch or seed gives another order."""
    pairs = text(tmp_path, 500)

    def plan(*keys: int) -> list[list[list[int]]]:
        return [examples.tolist() for examples in pairs.shuffled_plan(200, JOINED, keys)]

    assert plan(1, 0) == plan(1, 0)
    assert plan(1, 0) != plan(1, 1) != plan(2, 0)


@given(count=st.integers(1, 200), share=st.floats(0.0, 1.0), up_to=st.integers(2, 6))
def test_joining_takes_the_share_that_was_asked_for(count: int, share: float, up_to: int) -> None:
    """Every row once, in groups of 2 to `up_to` or alone; those in groups are the share, but for one group at most."""
    joining = Joining(share=share, up_to=up_to)
    examples = join_at_random(np.arange(count), joining, np.random.default_rng(1))
    assert examples[examples != NONE].tolist() == list(range(count))
    sizes = (examples != NONE).sum(1)
    assert sizes.min() >= 1
    assert sizes.max() <= up_to
    assert share * count - up_to - 0.5 <= sizes[sizes > 1].sum() <= share * count + 0.5


def test_batch_counts_real_tokens(tmp_path: Path) -> None:
    """Counts include each side's eos and nothing of the padding."""
    pairs = text(tmp_path, 20)
    for examples in (np.arange(20)[:, None], np.array([[3, 4], [5, NONE]])):
        batch = pairs.batch(examples)
        assert batch.rows.tolist() == examples[:, 0].tolist()
        assert batch.source_tokens == int((batch.source_BS != PAD).sum()) == int(batch.source_lengths_B.sum())
        assert batch.target_tokens == int((batch.outputs_BT != PAD).sum())
        framed = batch.outputs_BT[:, :-1].masked_fill(batch.outputs_BT[:, :-1] == EOS, PAD)
        assert torch.equal(batch.inputs_BT[:, 1:], framed)


@given(
    shapes=st.lists(st.tuples(st.integers(1, 50), st.integers(1, 50)), max_size=60),
    sentences=st.integers(1, 9),
    cells=st.integers(1, 5000),
)
def test_similar_shapes_hold_everything_once_within_their_limits(
    shapes: list[tuple[int, int]], sentences: int, cells: int
) -> None:
    """Neither too many sentences nor too many padded cells, unless one sentence is too large by itself."""
    batches = list(similar_shapes(shapes, sentences, cells))
    assert sorted(i for batch in batches for i in batch) == list(range(len(shapes)))
    for batch in batches:
        height, width = (max(shapes[i][side] for i in batch) for side in (0, 1))
        assert len(batch) <= sentences
        assert len(batch) == 1 or len(batch) * height * width <= cells
