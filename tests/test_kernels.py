"""The GPU's kernels give what the loop over operations gives, forward and back.

Without a GPU Triton interprets them (conftest.py asks it to), number by number: the sizes here are small for that.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from nmt.model import compiled
from nmt.model.recurrence import Layer, run_attended, run_sequence

from .models import tiny_model, with_dropout
from .test_training import copies

kernels = pytest.importorskip("nmt.model.kernels", reason="needs Triton", exc_type=ImportError)

ROOT = Path(__file__).parent.parent
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 5e-2}


def learned(*size: int) -> Tensor:
    """Something that has a gradient."""
    return (0.5 * torch.randn(size)).requires_grad_()


def elsewhere(tensor: Tensor | None) -> Tensor | None:
    """The same on the device of the kernels."""
    return None if tensor is None else tensor.detach().to(DEVICE).requires_grad_(tensor.requires_grad)


def drop_out(*size: int) -> Tensor:
    """A mask."""
    return (torch.rand(size) > 0.3) / 0.7


def assert_alike(ours: list[Tensor], expected: list[Tensor], dtype: torch.dtype) -> None:
    """Up to what such products may differ in."""
    for one, other in zip(ours, expected, strict=True):
        tolerance = TOLERANCES[dtype] * float(other.detach().abs().max())
        torch.testing.assert_close(one.cpu(), other, rtol=0.0, atol=tolerance)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("directions", "size"), [(1, 20), (2, 530)])
def test_a_sequence(dtype: torch.dtype, masked: bool, directions: int, size: int) -> None:
    """States and all gradients, in one direction and two, whatever lies beyond the last unit."""
    torch.manual_seed(1)
    steps, batch = 4, 3
    given = learned(steps, batch, directions, 3 * size)  # as an encoder has them: the directions inside
    start, bias = learned(directions, batch, size), learned(directions, 3 * size)
    weight = (learned(directions, 3 * size, size).detach() * (20 / size) ** 0.5).requires_grad_()
    mask = drop_out(directions, batch, size) if masked else None
    leaves = [given, start, weight, bias]
    expected = run_sequence("gru", given.transpose(1, 2), (start,), weight, bias, mask, dtype)
    given_there, *others = leaves_there = [elsewhere(leaf) for leaf in leaves]
    assert given_there is not None
    start_there, weight_there, bias_there = others
    ours = kernels.Sequence.apply(
        dtype, given_there.transpose(1, 2), weight_there, bias_there, elsewhere(mask), start_there
    )
    outside = torch.randn_like(expected)
    gradients = torch.autograd.grad(expected, leaves, outside)
    gradients_there = torch.autograd.grad(ours, leaves_there, outside.to(DEVICE))
    assert_alike([ours, *gradients_there], [expected, *gradients], dtype)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize(("masked", "asked"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize(("score", "key_size"), [("additive", 24), ("dot", 20)])
@pytest.mark.parametrize(("length", "tile"), [(1, 256), (5, 8192), (19, 512)])
def test_an_attended_sequence(
    dtype: torch.dtype, masked: bool, asked: bool, score: str, key_size: int, length: int, tile: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """States, contexts, weights and all gradients, also where columns come in several tiles; none falls on padding."""
    monkeypatch.setattr(kernels, "_TILE", tile)
    torch.manual_seed(1)
    steps, batch, size, value_size = 4, 3, 20, 28
    given, start = learned(steps, batch, 3 * size), learned(batch, size)
    keys, values = learned(batch, length, key_size), learned(batch, length, value_size)
    padding = torch.arange(length) >= torch.tensor([length, max(1, length - 2), 1])[:, None]
    query_weight, context_weight = learned(key_size, size), learned(3 * size, value_size)
    weight, bias = learned(3 * size, size), learned(3 * size)
    score_weight = learned(key_size) if score == "additive" else torch.tensor([0.3])
    mask = drop_out(batch, size) if masked else None
    attended = [given, keys, values, padding, query_weight, score_weight, context_weight]
    layer = Layer(weight, bias, (start,), mask, None, None, None)
    more = learned(steps, batch, key_size) if asked else None
    expected = run_attended("gru", score, dtype, *attended, [layer], None, False, more)
    arguments = [elsewhere(tensor) for tensor in (*attended, weight, bias, mask, more, start)]
    ours = kernels.Attended.apply(score, dtype, *arguments)
    outside = [torch.randn_like(result) for result in expected[:2]]
    leaves, leaves_there = (
        [tensor for tensor in tensors if tensor is not None and tensor.requires_grad]
        for tensors in ([*attended, weight, bias, more, start], arguments)
    )
    gradients = torch.autograd.grad(expected[:2], leaves, outside)
    gradients_there = torch.autograd.grad(ours[:2], leaves_there, [each.to(DEVICE) for each in outside])
    assert_alike([*ours, *gradients_there], [*expected, *gradients], dtype)
    assert ours[2].cpu()[:, padding].eq(0.0).all()


@pytest.mark.parametrize(("score", "key_size"), [("additive", 3), ("dot", 4)])
def test_gradients_are_those_of_what_is_computed(score: str, key_size: int) -> None:
    """In float32 as far as differences of losses tell: along the gradient the loss rises as that says."""
    torch.manual_seed(2)
    leaves = [learned(*size).detach().to(DEVICE).requires_grad_() for size in
              ((3, 2, 12), (2, 5, key_size), (2, 5, 6), (key_size, 4), (12, 6), (12, 4), (12,), (2, 4))]  # fmt: skip
    padding = torch.zeros(2, 5, dtype=torch.bool, device=DEVICE)
    score_weight = torch.full((key_size if score == "additive" else 1,), 0.7, device=DEVICE)

    def loss(step: float, directions: list[Tensor]) -> Tensor:
        given, keys, values, query_weight, context_weight, weight, bias, start = (
            leaf + step * direction for leaf, direction in zip(leaves, directions, strict=True)
        )
        hidden, contexts, _ = kernels.Attended.apply(
            score, torch.float32, given, keys, values, padding, query_weight, score_weight, context_weight,
            weight, bias, None, None, start,
        )  # fmt: skip
        return hidden.square().sum() + contexts.sin().sum()

    gradients = torch.autograd.grad(loss(0.0, leaves), leaves)
    length = float(torch.stack([gradient.square().sum() for gradient in gradients]).sum())
    step = 0.01 / length
    rise = float((loss(step, list(gradients)) - loss(-step, list(gradients))).detach()) / (2 * step)
    assert rise == pytest.approx(length, rel=2e-3)


@pytest.mark.parametrize(("longest", "kernel"), [(5, True), (4, False)])
def test_sources_too_long_for_a_program_take_the_loop(
    longest: int, kernel: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever takes the others to the kernels."""
    monkeypatch.setattr(kernels, "LONGEST", longest)
    monkeypatch.setattr(compiled, "on_cpu", lambda *_: False)
    monkeypatch.setattr(compiled, "on_gpu", lambda _: kernels)
    padding = torch.zeros(2, 5, dtype=torch.bool)
    layer = Layer(learned(12, 4), learned(12), (learned(2, 4),), None, None, None, None)
    hidden, _, _ = run_attended(
        "gru", "additive", torch.float32, learned(3, 2, 12), learned(2, 5, 3), learned(2, 5, 6), padding,
        learned(3, 4), learned(3), learned(12, 6), [layer], None, False,
    )  # fmt: skip
    assert hidden.grad_fn is not None
    assert (hidden.grad_fn.name() == "AttendedBackward") == kernel


def test_where_kernels_cannot_be_built_the_loop_is_taken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With one line that says why, once; where they can, they are taken."""
    compiled._triton.cache_clear()
    assert compiled._triton(DEVICE) is kernels

    def fail(*_: object) -> None:
        raise RuntimeError("Failed to find C compiler\nset CC")

    monkeypatch.setattr(kernels, "try_out", fail)
    compiled._triton.cache_clear()
    assert [compiled._triton(DEVICE) for _ in range(2)] == [None, None]
    compiled._triton.cache_clear()
    said = capsys.readouterr().err
    assert said == "no Triton kernels (Failed to find C compiler): a GRU's recurrences take several times as long\n"


def test_they_compile_for_gpus_that_are_not_here() -> None:
    """All of them, forward and back, to code that keeps what it works on in registers."""
    triton = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    compiling = [sys.executable, "-W", "error", "-m", "tests.machine_code"]
    told = subprocess.run(compiling, cwd=ROOT, env=triton, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    rows = json.loads(told.stdout)
    assert {row["kernel"] for row in rows} == {"_cell_forward", "_cell_backward", "_attend_forward", "_attend_backward"}
    spilled = [row for row in rows if row["stack"] > 32]
    assert not spilled


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("attention", ["none", "additive", "general"])
@pytest.mark.parametrize(
    "settings", [{}, {"lexical": True, "word_query": True}, {"encoder_layers": 2, "decoder_layers": 2}]
)
def test_a_model_on_a_gpu_is_the_model_on_a_cpu(tmp_path: Path, attention: str, settings: dict[str, object]) -> None:
    """Loss and gradients of batch after batch, dropout included; of two layers the encoder has kernels, too."""
    text = copies(tmp_path)
    models = [with_dropout(tiny_model(attention, **settings), 0.3) for _ in range(2)]  # type: ignore[arg-type]
    models[1].to(DEVICE)
    for rows in text.plan(30):
        results = []
        for model in models:
            batch = text.batch(rows).to(model.device)
            loss = model.loss(batch, 0.1, model.masks(batch.rows, 3, 4))
            results.append([loss.smoothed, *torch.autograd.grad(loss.smoothed, list(model.parameters()))])
        for one, other in zip(*results, strict=True):
            torch.testing.assert_close(other.cpu(), one, rtol=1e-4, atol=1e-5)
