"""Any damage of what lies in `.nmt` while a training or a translation goes on: no seal of DVC or git stands behind it.

A kill, a full or a bad disk may leave anything there. What was damaged is told and passed over, and the rest is used as
it was written: work may be done again, but never goes on from something that no run has written.
"""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nmt import files, lockfile, paths, unfinished
from nmt.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from nmt.stages import translate
from nmt.tracking import spool
from nmt.tracking.values import Point
from tests.fuzz.harness import damaged, flipped, fuzzed, in_time, overwrite, some
from tests.test_training import Cut, copies, trainer

ORIGIN = {"training": "a" * 16, "threads": "1"}
GENERATIONS = ("state.safetensors", "previous.safetensors")


class State(NamedTuple):
    """The checkpoints of a training in a folder: the newest, and the one before it."""

    folder: Path
    saved: tuple[Checkpoint, Checkpoint]


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> State:
    """What a real training of a tiny model saved after its third and its fifth update."""
    folder = tmp_path_factory.mktemp("state")
    text = copies(tmp_path_factory.mktemp("text"))
    for update in (3, 5):
        cut = trainer(text, cut_at=update)
        with pytest.raises(Cut):
            list(cut.epochs())
        save_checkpoint(folder, cut.checkpoint(), ORIGIN)
    newest = load_checkpoint(folder, ORIGIN)
    before = load_checkpoint(copied(folder, tmp_path_factory.mktemp("before"), GENERATIONS[1]), ORIGIN)
    assert newest is not None
    assert before is not None
    assert not equal(newest, before)
    return State(folder, (newest, before))


def copied(folder: Path, to: Path, name: str) -> Path:
    """A folder with one file of another."""
    (to / name).write_bytes((folder / name).read_bytes())
    return to


def equal(one: Checkpoint, other: Checkpoint) -> bool:
    """Whether two checkpoints are the same to the bit."""
    same = one.progress == other.progress and list(one.tensors) == list(other.tensors)
    pairs = [(tensor, other.tensors[name]) for name, tensor in one.tensors.items()] if same else []
    return same and all(a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs)


class Damage:
    """Files of a folder with other content, until the block ends."""

    def __init__(self, folder: Path, contents: dict[str, bytes]) -> None:
        self.folder, self.contents = folder, contents
        self.before = {name: (folder / name).read_bytes() for name in contents}

    def __enter__(self) -> None:
        self._write(self.contents)

    def __exit__(self, *_: object) -> None:
        self._write(self.before)

    def _write(self, contents: dict[str, bytes]) -> None:
        for name, content in contents.items():
            overwrite(self.folder / name, content)


def found_in(state: State, contents: dict[str, bytes]) -> Checkpoint | None:
    """What a training goes on from."""
    with Damage(state.folder, contents), in_time():
        return load_checkpoint(state.folder, ORIGIN)


def holds(state: State, number: int, other: bytes) -> None:
    """With one generation damaged the other one is used; the newest one, if that is the other."""
    found = found_in(state, {GENERATIONS[number]: other})
    assert found is not None
    assert equal(found, state.saved[1 - number] if number == 0 else state.saved[0])


@pytest.mark.parametrize("number", range(2), ids=GENERATIONS)
def test_any_damage_of_a_checkpoint(state: State, number: int) -> None:
    """A training goes on from the other generation, to the bit."""
    content = (state.folder / GENERATIONS[number]).read_bytes()

    @fuzzed(few=20)
    @given(other=damaged(content).filter(lambda other: other != content))
    def any_damage(other: bytes) -> None:
        holds(state, number, other)

    any_damage()


@pytest.mark.parametrize("number", range(2), ids=GENERATIONS)
def test_each_byte_of_a_checkpoints_header(state: State, number: int) -> None:
    """Each one flipped, whole and by a bit: the other generation is used."""
    content = (state.folder / GENERATIONS[number]).read_bytes()
    for place in some(range(8 + int.from_bytes(content[:8], "little"))):
        whole = bytes([content[place] ^ 0xFF])
        holds(state, number, content[:place] + whole + content[place + 1 :])
        holds(state, number, flipped(content, place, place % 8))


def test_any_damage_of_both_generations(state: State) -> None:
    """With none that can be used a training begins anew."""
    contents = [(state.folder / name).read_bytes() for name in GENERATIONS]

    @fuzzed(few=20)
    @given(others=st.tuples(*map(damaged, contents)))
    def any_damage(others: tuple[bytes, ...]) -> None:
        found = found_in(state, dict(zip(GENERATIONS, others, strict=True)))
        whole = [saved for saved, *pair in zip(state.saved, others, contents, strict=True) if pair[0] == pair[1]]
        assert equal(found, whole[0]) if found and whole else found is None and not whole

    any_damage()


POINTS = [(1000 + step, step, {"live/train_loss": 1.0 / step, "live/speed": step * 1e5}) for step in range(10, 90, 10)]
LATER = Point("live/train_loss", 900, 0.5, 5000)


@pytest.fixture
def points(tmp_path: Path) -> Path:
    """The spool of a training that goes on."""
    path = tmp_path / "live" / "0.jsonl"
    writer = spool.Writer(path)
    for time, step, metrics in POINTS:
        writer.write(time, step, metrics)
    writer.close()
    return path


def read_on(path: Path, content: bytes) -> list[Point]:
    """The points that a damaged spool has for the tracker, after the training has gone on and added one."""
    overwrite(path, content)
    with in_time():
        found = spool.read(path)[0]
        writer = spool.Writer(path)
        writer.write(LATER.time or 0, LATER.step, {LATER.name: LATER.value})
        writer.close()
        after = spool.read(path)[0]
    assert after == [*found, LATER], "what was there stays, and so does what came later"
    return found


def test_any_damage_of_the_spool(points: Path) -> None:
    """No point that was not measured; whatever lines were left whole are there."""
    content = points.read_bytes()
    known = {
        line: [Point(name, step, value, time) for name, value in metrics.items()]
        for line, (time, step, metrics) in zip(content.splitlines(), POINTS, strict=True)
    }

    @fuzzed(few=100)
    @given(other=damaged(content))
    def any_damage(other: bytes) -> None:
        whole = [point for line in other.split(b"\n")[:-1] for point in known.get(line, [])]
        assert read_on(points, other) == whole

    any_damage()


def test_each_bit_of_the_spool(points: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Flipped, it costs the points of its line (its line feed: of two), and one line of the log says so."""
    content = points.read_bytes()
    every = spool.read(points)[0]
    for place in some(range(len(content) - 1)):
        for bit in range(8):
            caplog.clear()
            found = read_on(points, flipped(content, place, bit))
            lost = 4 if content[place] == ord("\n") else 2
            assert found == [point for point in every if point in found]
            assert len(found) == len(every) - lost
            assert all("damaged lines are passed over" in record.getMessage() for record in caplog.records)
            assert caplog.records


@pytest.fixture
def part(tmp_path: Path) -> Path:
    """A part of a translation that goes on, with text and matrices."""
    write_part(tmp_path / "hypotheses")
    return tmp_path / "hypotheses"


def write_part(folder: Path) -> None:
    """Write the part, if it is not there, as the stage does."""
    translate.part(folder, write_files)


def write_files(folder: Path) -> None:
    """The same each time, as translations are."""
    files.write_lines(folder / "hypotheses.txt", ["The cat sleeps.", "I like apples."])
    files.write_matrices(folder / "attention.npz", [np.eye(3), np.ones((2, 4)) / 4])


def test_any_damage_of_a_part(part: Path) -> None:
    """A translation goes on with the part as it was written, if need be once more."""
    contents = {path.name: path.read_bytes() for path in sorted(part.iterdir())}

    @fuzzed(few=40)
    @given(data=st.data())
    def any_damage(data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(list(contents)))
        (part / name).write_bytes(data.draw(damaged(contents[name])))
        with in_time():
            write_part(part)
        assert {path.name: path.read_bytes() for path in sorted(part.iterdir())} == contents

    any_damage()


def test_any_damage_of_what_became_of_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work goes when DVC has what it became, and never for another reason."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    output = Path("models/plain/1")
    files.write_text(output / "config.json", "{}")
    md5 = lockfile.folder_md5(output)
    files.write_text(paths.LOCK, f"stages: {{train: {{cmd: x, outs: [{{path: {output}, md5: {md5}}}]}}}}\n")
    with unfinished.work("train", "ended") as folder:
        unfinished.done(folder, output)
    content = (folder / "outcome.json").read_bytes()

    @fuzzed(few=40)
    @given(other=damaged(content))
    def any_damage(other: bytes) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "outcome.json").write_bytes(other)
        with in_time():
            unfinished.clear()
        assert folder.exists() or json.loads(other) == json.loads(content)

    any_damage()
    (folder / "outcome.json").write_bytes(content)
    unfinished.clear()
    assert not folder.exists()
