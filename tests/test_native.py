"""The compiled kernels for a CPU give what operations of torch give, forward and back, whatever the shape."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from nmt.model import compiled
from nmt.model.cells import CELLS
from nmt.model.native import library, prediction, products
from nmt.model.native import output as native_output
from nmt.model.native import recurrence as native_recurrence
from nmt.model.output import smoothed_cross_entropy
from nmt.model.products import linear
from nmt.model.recurrence import Layer, run_attended, run_sequence
from nmt.model.seq2seq import Seq2Seq
from nmt.training import Trainer

from .models import learning_model, learning_recipe
from .test_training import copies

pytestmark = pytest.mark.skipif(
    not library.fits_processor(), reason="needs a processor with AVX-512 and its bfloat16 instructions"
)

TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 5e-2}
DTYPES = list(TOLERANCES)

Results = list[Tensor]


@pytest.fixture(autouse=True)
def kernels_work() -> Iterator[None]:
    """They are compiled here: a test that fell back would test nothing. What it switches off is on again."""
    assert compiled.on_cpu(torch.zeros(1))
    yield
    compiled.allow(True)


def learned(*size: int) -> Tensor:
    """Something that has a gradient."""
    return (0.5 * torch.randn(size)).requires_grad_()


def drop_out(*size: int) -> Tensor:
    """A mask."""
    return (torch.rand(size) > 0.3) / 0.7


def without(work: Callable[[], Results]) -> Results:
    """What operations of torch make of it."""
    compiled.allow(False)
    results = work()
    compiled.allow(True)
    return results


def assert_alike(ours: Results, expected: Results, dtype: torch.dtype) -> None:
    """Up to what such products may differ in."""
    for one, other in zip(ours, expected, strict=True):
        tolerance = TOLERANCES[dtype] * float(other.detach().abs().max())
        torch.testing.assert_close(one, other, rtol=0.0, atol=tolerance)


def calls(monkeypatch: pytest.MonkeyPatch, *modules: object) -> list[str]:
    """Which kernels are called from now on."""
    called: list[str] = []

    def note(kernel: str, dtype: torch.dtype, arguments: library.Arguments) -> None:
        called.append(kernel)
        library.call(kernel, dtype, arguments)

    for module in modules:
        monkeypatch.setattr(module, "call", note)
    return called


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 7, 65])
@pytest.mark.parametrize(("inner", "columns"), [(2, 1), (34, 46), (64, 330), (1100, 16), (16, 70)])
def test_products(dtype: torch.dtype, rows: int, inner: int, columns: int) -> None:
    """Of any number of rows and columns, in blocks or not, with weights as they lie or transposed: all but exact."""
    torch.manual_seed(1)
    left, bias = torch.randn(rows, inner).to(dtype), torch.randn(columns)
    rounded = torch.randn(columns, inner).to(dtype)
    weight = rounded.float()
    expected = left.double() @ rounded.double().t()
    close = {"rtol": 0.0, "atol": 1e-6 * float(expected.abs().max() + 1) * inner**0.5}
    torch.testing.assert_close(products.product(left, weight).double(), expected, **close)
    turned = weight.t().contiguous().t()
    torch.testing.assert_close(products.product(left, turned, bias).double(), expected + bias, **close)
    part = torch.cat([weight, weight], 1)[:, inner:]  # rows further apart than they are long
    torch.testing.assert_close(products.product(left, part).double(), expected, **close)
    other = torch.randn(rows, columns).to(dtype)
    gradient = products.weight_gradient(other, left).double()
    torch.testing.assert_close(gradient, other.double().t() @ left.double(), rtol=0.0, atol=2e-5 * rows**0.5)


def test_products_of_bfloat16_round_once() -> None:
    """The sum is float32, and so is what comes out."""
    ones = torch.ones(1, 1024, dtype=torch.bfloat16)
    assert products.product(ones, torch.ones(1, 1024)).item() == 1024.0
    assert products.product(ones, torch.full((1, 1024), 1.0 + 2**-9)).item() == 1024.0  # the weight is rounded
    assert products.product(ones[:, :258], torch.ones(1, 258)).item() == 258.0  # no bfloat16


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [(46, 34), (3, 5), (5, 2)])
def test_a_linear_layer(dtype: torch.dtype, size: tuple[int, int]) -> None:
    """Its gradients, too; with an odd side by torch's own products."""
    torch.manual_seed(1)
    inputs, weight, bias = leaves = [learned(3, 5, size[1]), learned(*size), learned(size[0])]
    outside = torch.randn(3, 5, size[0])

    def work() -> Results:
        result = linear(inputs, weight, bias, dtype)
        return [result, *torch.autograd.grad(result, leaves, outside)]

    assert_alike(work(), without(work), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    ("directions", "size", "batch", "mirrored"), [(1, 16, 1, False), (2, 48, 7, False), (2, 16, 5, True)]
)
def test_a_sequence(
    dtype: torch.dtype, cell: str, masked: bool, directions: int, size: int, batch: int, mirrored: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """States and all gradients, in one direction and two, the second from each sentence's own end or not."""
    torch.manual_seed(1)
    gates, shape = CELLS[cell].gates * size, (directions, batch, size)
    given = learned(4, batch, directions, gates)  # as an encoder has them: the directions inside
    start = tuple(learned(*shape) for _ in range(CELLS[cell].states))
    bias, weight = learned(directions, gates), learned(directions, gates, size)
    mask = drop_out(*shape) if masked else None
    outside = torch.randn(4, *shape)
    steps, lengths = torch.arange(4)[:, None], torch.randint(1, 5, (batch,))
    mirror = torch.where(steps < lengths, lengths - 1 - steps, steps) if mirrored else None

    def work() -> Results:
        hidden = run_sequence(cell, given.transpose(1, 2), start, weight, bias, mask, dtype, mirror_TB=mirror)
        return [hidden, *torch.autograd.grad(hidden, [given, *start, weight, bias], outside)]

    expected = without(work)
    called = calls(monkeypatch, native_recurrence)
    assert_alike(work(), expected, dtype)
    assert called == ["sequence_forward", "sequence_backward"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(("masked", "asked"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("score", ["additive", "dot"])
@pytest.mark.parametrize(("length", "batch"), [(1, 3), (5, 3), (19, 8)])
def test_an_attended_sequence(
    dtype: torch.dtype, cell: str, masked: bool, asked: bool, score: str, length: int, batch: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """States, contexts, weights and all gradients; none falls on padding."""
    torch.manual_seed(1)
    steps, size, key_size, value_size = 4, 32, 48, 16
    gates = CELLS[cell].gates * size
    given, start = learned(steps, batch, gates), tuple(learned(batch, size) for _ in range(CELLS[cell].states))
    keys, values = learned(batch, length, key_size), learned(batch, length, value_size)
    padding = torch.arange(length) >= torch.tensor([length, max(1, length - 2), 1, *[length] * (batch - 3)])[:, None]
    query_weight, context_weight = learned(key_size, size), learned(gates, value_size)
    weight, bias = learned(gates, size), learned(gates)
    score_weight = learned(key_size) if score == "additive" else torch.tensor([0.3])
    mask = drop_out(batch, size) if masked else None
    more = learned(steps, batch, key_size) if asked else None
    attended = [given, keys, values, padding, query_weight, score_weight, context_weight]
    layer = Layer(weight, bias, start, mask, None, None, None)
    leaves = [each for each in (*attended, weight, bias, *start, more) if each is not None and each.requires_grad]
    outside = [torch.randn(steps, batch, size), torch.randn(steps, batch, value_size)]

    def work() -> Results:
        results = run_attended(cell, score, dtype, *attended, [layer], None, False, more)
        return [*results, *torch.autograd.grad(results[:2], leaves, outside)]

    expected = without(work)
    called = calls(monkeypatch, native_recurrence)
    ours = work()
    assert called == ["attended_forward", "attended_backward"]
    assert_alike(ours, expected, dtype)
    assert ours[2][:, padding].eq(0.0).all()
    torch.testing.assert_close(ours[2].sum(-1), torch.ones(steps, batch))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("chunk", [2048, 20])
@pytest.mark.parametrize(("tokens", "inner", "words"), [(1, 2, 5), (7, 32, 50), (65, 64, 333), (45, 16, 6000)])
def test_the_loss(
    dtype: torch.dtype, smoothing: float, chunk: int, tokens: int, inner: int, words: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Both sums and all gradients, in one chunk or several; without gradients the same sums."""
    monkeypatch.setattr("nmt.model.output.CHUNK", chunk)
    torch.manual_seed(1)
    leaves = [learned(tokens, inner), learned(words, inner), learned(words)]
    targets = torch.randint(0, words, (tokens,))

    def work() -> Results:
        smoothed, plain = smoothed_cross_entropy(*leaves, targets, smoothing, dtype)
        return [smoothed, plain, *torch.autograd.grad(smoothed, leaves, torch.tensor(0.5))]

    expected = without(work)
    called = calls(monkeypatch, native_output)
    ours = work()
    assert called == ["loss"] * -(-tokens // chunk)
    assert_alike(ours, expected, dtype)
    with torch.no_grad():
        alone = smoothed_cross_entropy(*leaves, targets, smoothing, dtype)
    assert [each.item() for each in alone] == [each.item() for each in ours[:2]]


@pytest.mark.parametrize("dtype", DTYPES)
def test_without_gradients_the_loss_is_all(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluation computes no gradient that nobody asks for."""
    torch.manual_seed(1)
    arguments = (torch.randn(9, 32), learned(50, 32), learned(50), torch.arange(9), 0.1, dtype)
    expected = smoothed_cross_entropy(*arguments)
    asked: list[bool] = []
    monkeypatch.setattr(native_output, "_Loss", lambda **fields: asked.append(fields["d_weight"] is not None))
    monkeypatch.setattr(native_output, "call", lambda *_: None)
    smoothed_cross_entropy(*arguments)
    with torch.no_grad():
        smoothed_cross_entropy(*arguments)
    assert asked == [True, False]
    monkeypatch.undo()
    with torch.no_grad():
        torch.testing.assert_close(smoothed_cross_entropy(*arguments), expected)


def test_improbable_words_keep_their_loss() -> None:
    """Also where the probability is too small for a float."""
    readout, weight = torch.tensor([[1.0, 0.0]]), torch.tensor([[300.0, 0.0], [0.0, 0.0], [-300.0, 0.0]])
    for goal, expected in ((0, 0.0), (1, 300.0), (2, 600.0)):
        _, plain = smoothed_cross_entropy(readout, weight, torch.zeros(3), torch.tensor([goal]), 0.0, torch.float32)
        assert plain.item() == pytest.approx(expected, abs=1e-5)


def small_training(folder: Path, attention: str, cell: str) -> Trainer:
    """A model of widths that fit, after a training, with dropout, on strings of symbols."""
    settings = learning_model(16)
    dropout = settings.dropout.model_copy(update={"recurrent": 0.1})
    model = Seq2Seq(settings.model_copy(update={"cell": cell, "dropout": dropout}), attention, 11, 11)
    model.initialize(1)
    recipe = learning_recipe(0.01).model_copy(update={"max_epochs": 6, "batch_tokens": 60})
    training = Trainer(model, copies(folder), copies(folder), recipe, 1, lambda _: None)
    list(training.epochs())
    return training


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("attention", ["none", "additive", "general"])
def test_a_training_takes_them_and_comes_to_the_same_loss(
    attention: str, cell: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Curve by curve up to rounding, in float32."""
    compiled.allow(False)
    expected = small_training(tmp_path, attention, cell)
    compiled.allow(True)
    called = calls(monkeypatch, native_recurrence, native_output, products)
    ours = small_training(tmp_path, attention, cell)
    recurrent = {"sequence_forward", "sequence_backward"}
    recurrent |= set() if attention == "none" else {"attended_forward", "attended_backward"}
    assert set(called) == {"product", "transposed_product", "loss"} | recurrent
    for one, other in zip(ours.history, expected.history, strict=True):
        assert one.train_loss == pytest.approx(other.train_loss, rel=1e-3)
        assert one.dev_loss == pytest.approx(other.dev_loss, rel=1e-3)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_number_of_threads_changes_nothing(dtype: torch.dtype, tmp_path: Path) -> None:
    """Not a bit of what the kernels compute."""
    torch.manual_seed(1)
    steps, batch, size, length = 3, 37, 32, 5
    given, start, keys, values = (
        learned(steps, batch, 96),
        learned(batch, size),
        learned(batch, length, 16),
        learned(batch, length, 32),
    )
    query_weight, context_weight, weight, bias = learned(16, size), learned(96, 32), learned(96, size), learned(96)
    padding = torch.zeros(batch, length, dtype=torch.bool)
    layer = Layer(weight, bias, (start,), None, None, None, None)
    words, targets = learned(333, size), torch.randint(0, 333, (steps * batch,))

    def work(threads: int) -> Results:
        torch.set_num_threads(threads)
        leaves = [given, start, keys, values, query_weight, context_weight, weight, bias]
        hidden, contexts, weights = run_attended(
            "gru", "additive", dtype, given, keys, values, padding, query_weight, torch.ones(16), context_weight,
            [layer], None, False,
        )  # fmt: skip
        both = run_sequence("gru", given[:, None], (start[None],), weight[None], bias[None], None, dtype)
        loss, _ = smoothed_cross_entropy(hidden.flatten(0, 1), words, torch.zeros(333), targets, 0.1, dtype)
        total = loss + contexts.sum() + both.sum()
        torch.set_num_threads(threads)
        return [hidden, contexts, weights, both, loss, *torch.autograd.grad(total, [*leaves, words])]

    one, three = work(1), work(3)
    torch.set_num_threads(1)
    assert all(torch.equal(first, second) for first, second in zip(one, three, strict=True))


def test_nan_is_not_swallowed() -> None:
    """Else a training that has diverged would go on."""
    given = torch.zeros(2, 1, 3, 48)
    given[0, 0, 1, :] = torch.nan
    start, weight, bias = torch.zeros(1, 3, 16), torch.zeros(1, 48, 16), torch.zeros(1, 48)
    hidden = run_sequence("gru", given, (start,), weight, bias, None, torch.float32)
    assert hidden[:, 0, 1].isnan().all()
    assert not hidden[:, 0, [0, 2]].isnan().any()
    readout = torch.full((3, 2), torch.nan)
    smoothed, _ = smoothed_cross_entropy(
        readout, torch.ones(5, 2), torch.zeros(5), torch.zeros(3, dtype=torch.long), 0.0, torch.float32
    )
    assert smoothed.isnan()


def test_without_a_compiler_torch_computes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With one line that says why, once; nothing half-made stays behind."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    why = {"/no/compiler": "no C++ compiler", "false": "no C++ compiler", "c++ '": """CXX is "c++ '": No closing"""}
    for compiler, said in why.items():
        monkeypatch.setenv("CXX", compiler)
        forget()
        assert not any(compiled.on_cpu(torch.zeros(1)) for _ in range(2))
        assert compiled.version(torch.device("cpu")) == "none"
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"no compiled kernels ({said}")
    broken = tmp_path / "broken"
    broken.write_text('#!/bin/sh\n[ "$1" = --version ] && exit\necho "no space left" >&2\nexit 1\n', "ascii")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    forget()
    assert not compiled.on_cpu(torch.zeros(1))
    assert capsys.readouterr().err.startswith("no compiled kernels (no space left)")
    assert list((tmp_path / "nmt").iterdir()) == []
    monkeypatch.setenv("XDG_CACHE_HOME", str(broken))  # no folder
    forget()
    assert not compiled.on_cpu(torch.zeros(1))
    assert capsys.readouterr().err.startswith("no compiled kernels (no place for what is compiled: ")
    monkeypatch.undo()
    forget()
    assert compiled.version(torch.device("cpu")).startswith("C++ ")


def forget() -> None:
    """What is known of the compiler."""
    for cached in (compiled._native, library.version, library.library):
        cached.cache_clear()


def test_they_are_compiled_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Into the user's cache, from which the next process takes them."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    library.library.cache_clear()
    library.library()
    (made,) = (tmp_path / "nmt").iterdir()
    before = made.stat()
    monkeypatch.setattr(library, "_compile", lambda _: pytest.fail("compiled twice"))
    library.library.cache_clear()
    library.library()
    assert made.stat().st_mtime_ns == before.st_mtime_ns
    library.library.cache_clear()


def test_what_was_compiled_and_is_damaged_is_compiled_anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A power cut may leave an empty file under a good name."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "nmt"
    folder.mkdir()
    damaged = folder / f"kernels-{library.version()}.so"
    damaged.touch()
    library.library.cache_clear()
    library.library()
    assert list(folder.iterdir()) == [damaged]
    assert damaged.stat().st_size
    library.library.cache_clear()


def test_arguments_of_the_compiler_are_part_of_the_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """They may change the last bits."""
    versions = set()
    for text in ("c++", "c++ -ffast-math"):
        monkeypatch.setenv("CXX", text)
        library.version.cache_clear()
        versions.add(library.version())
    assert len(versions) == 2
    library.version.cache_clear()


def test_what_is_switched_off_is_not_used() -> None:
    """Neither here nor on a GPU."""
    compiled.allow(False)
    assert not compiled.on_cpu(torch.zeros(1))
    assert compiled.on_gpu(torch.device("cuda")) is None
    assert compiled.version(torch.device("cpu")) == "none"


@pytest.mark.parametrize("count", [1, 5, 40])
@pytest.mark.parametrize("words", [5, 37, 6000])
def test_the_best_words(words: int, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same as by sorting all, ties and barred words included; a forced row has its word."""
    torch.manual_seed(1)
    logits, barred = torch.randn(9, words).mul_(4.0).round_(), (0, 1, 2)
    count = min(count, words)
    log_p = logits.log_softmax(1)
    log_p[:, list(barred)] = -torch.inf
    expected, order = log_p.sort(dim=1, descending=True, stable=True)
    found, index = prediction.best(logits, count, barred, None, free=0)
    torch.testing.assert_close(found, expected[:, :count])
    real = found > -torch.inf
    assert torch.equal(index[real], order[:, :count][real])
    forced = torch.tensor([0, 3, 1, 0, 4, 0, 0, 2, 0])
    held, index = prediction.best(logits, count, barred, forced, free=0)
    for row, word in enumerate(forced.tolist()):
        if word:
            assert (index[row, 0], held[row, 0]) == (
                word,
                pytest.approx(logits[row].log_softmax(0)[word].item(), abs=1e-5),
            )
            assert held[row, 1:].isneginf().all()
        else:
            assert torch.equal(held[row], found[row])


@pytest.mark.parametrize("additive", [True, False])
def test_attention_of_rows(additive: bool) -> None:
    """Attention of several rows of a sentence, in any order, or of one each."""
    torch.manual_seed(1)
    query, keys, values = torch.randn(7, 32), torch.randn(4, 19, 32), torch.randn(4, 19, 48)
    padding = torch.arange(19) >= torch.tensor([19, 3, 1, 17])[:, None]
    weight, sentences = torch.randn(32) if additive else torch.tensor(0.3), torch.tensor([0, 0, 1, 3, 3, 3, 2])

    def attend(query_RK: Tensor, sentence_R: Tensor) -> tuple[Tensor, Tensor]:
        beside = query_RK[:, None].double(), keys[sentence_R].double()
        scores = torch.tanh(sum(beside)) @ weight.double() if additive else (beside[0] * beside[1]).sum(-1) * weight
        weights = scores.masked_fill(padding[sentence_R], -torch.inf).softmax(-1)
        return (weights[:, None] @ values[sentence_R].double()).squeeze(1).float(), weights.float()

    held = (2.0 * keys).exp() if additive else keys
    found = prediction.attend(additive, query, held, values, weight, padding, sentences)
    torch.testing.assert_close(found, attend(query, sentences), rtol=1e-5, atol=1e-5)
    alone = prediction.attend(additive, query[:4], held, values, weight, padding, None)
    torch.testing.assert_close(alone, attend(query[:4], torch.arange(4)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("key", [-44.0, -40.0, 0.0, 44.0])
@pytest.mark.parametrize("query", [-60.0, 44.0, 60.0, 1e4])
def test_attention_of_large_numbers(key: float, query: float) -> None:
    """A tanh that has come to its end is 1 or -1, however far its two parts lie apart."""
    keys, queries = torch.zeros(1, 2, 16), torch.full((1, 16), query)
    keys[0, 0] = key
    expected = (torch.tanh(queries[:, None] + keys).sum(-1)).softmax(-1)
    _, weights = prediction.attend(
        True, queries, (2.0 * keys).exp(), torch.zeros(1, 2, 16), torch.ones(16),
        torch.zeros(1, 2, dtype=torch.bool), None,
    )  # fmt: skip
    torch.testing.assert_close(weights, expected, rtol=1e-5, atol=1e-5)
