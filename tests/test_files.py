"""Files are the old or the whole new one, and what was written is read back the same."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nmt import files
from nmt.errors import UserError

LINE = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\n"))


def names(folder: Path) -> list[str]:
    """What a folder holds, hidden drafts included."""
    return sorted(path.name for path in folder.iterdir())


def test_a_failing_write_leaves_the_old_file(tmp_path: Path) -> None:
    """Neither half a file nor a draft is left behind."""
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(TypeError), files.atomic_write(path) as stream:
        stream.writelines([b"new, but not al", None])
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_a_failing_write_of_a_new_file_leaves_none(tmp_path: Path) -> None:
    """An interrupted run does not look finished."""
    with pytest.raises(KeyboardInterrupt), files.atomic_write(tmp_path / "file"):
        raise KeyboardInterrupt
    assert names(tmp_path) == []


def test_a_reader_sees_the_old_file_until_the_end(tmp_path: Path) -> None:
    """The new content shows in one step."""
    path = tmp_path / "file"
    path.write_text("old")
    with files.atomic_write(path) as stream:
        stream.write(b"new")
        stream.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def test_writing_makes_folders_and_readable_files(tmp_path: Path) -> None:
    """A file in a shared folder is for colleagues as well."""
    path = tmp_path / "a" / "b" / "file"
    files.write_text(path, "text")
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_link_that_dvc_made_is_replaced_not_followed(tmp_path: Path) -> None:
    """Writing over a file that is linked to the cache must not change the cache."""
    cached, path = tmp_path / "cached", tmp_path / "file"
    cached.write_text("cached")
    os.link(cached, path)
    files.write_text(path, "new")
    assert cached.read_text() == "cached"


@given(lines=st.lists(LINE))
def test_lines_round_trip(tmp_path_factory: pytest.TempPathFactory, lines: list[str]) -> None:
    """Whatever characters the lines hold, empty ones at the end included."""
    path = tmp_path_factory.getbasetemp() / "lines.txt"
    files.write_lines(path, lines)
    assert files.read_lines(path) == lines


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\r"])
def test_only_a_line_feed_ends_a_line(tmp_path: Path, mark: str) -> None:
    """A sentence with a separator inside stays one line, or the two sides would no longer be parallel."""
    path = tmp_path / "lines.txt"
    files.write_lines(path, [f"one{mark}line", "two"])
    assert files.read_lines(path) == [f"one{mark}line", "two"]


def test_a_last_line_without_line_feed_counts(tmp_path: Path) -> None:
    """Files made by other programs may end so."""
    path = tmp_path / "lines.txt"
    path.write_bytes(b"one\ntwo")
    assert files.read_lines(path) == ["one", "two"]


def test_a_line_feed_inside_a_line_is_our_mistake(tmp_path: Path) -> None:
    """And leaves no file."""
    with pytest.raises(AssertionError, match="line feed"):
        files.write_lines(tmp_path / "lines.txt", ["one\ntwo"])
    assert names(tmp_path) == []


def test_text_that_is_not_utf8_is_named_with_its_byte(tmp_path: Path) -> None:
    """So that the place can be found."""
    path = tmp_path / "text.txt"
    path.write_bytes("Straße".encode("latin-1"))
    with pytest.raises(UserError, match=r"text\.txt is not UTF-8 \(byte 4\)"):
        files.read_text(path)


def test_a_missing_file_says_how_to_get_it(tmp_path: Path) -> None:
    """Most files are results of the pipeline."""
    with pytest.raises(UserError, match=r"none\.txt does not exist; `dvc repro`"):
        files.read_lines(tmp_path / "none.txt")


def test_json_keeps_order_and_characters(tmp_path: Path) -> None:
    """The same content gives the same bytes, which a person can read."""
    path = tmp_path / "value.json"
    value = {"z": [1, 2.5], "a": "汉字", "m": None}
    files.write_json(path, value)
    assert files.read_json(path) == value
    assert path.read_text("utf-8") == '{\n  "z": [\n    1,\n    2.5\n  ],\n  "a": "汉字",\n  "m": null\n}\n'


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_json_holds_no_number_that_json_has_not(tmp_path: Path, number: float) -> None:
    """NaN in a report would be read by nobody but Python."""
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(tmp_path / "value.json", {"loss": number})
    assert names(tmp_path) == []


def test_json_lines_round_trip_and_name_a_broken_line(tmp_path: Path) -> None:
    """A separator inside a string is no line's end."""
    path = tmp_path / "values.jsonl"
    values = [{"text": "a\u2028b\nc"}, [], 1]
    files.write_json_lines(path, values)
    assert files.read_json_lines(path) == values
    assert [json.loads(line) for line in path.read_text("utf-8").split("\n")[:-1]] == values
    path.write_text('{"a": 1}\n{"a":\n')
    with pytest.raises(UserError, match=r"values\.jsonl, line 2 is not valid JSON"):
        files.read_json_lines(path)


def test_broken_json_is_named(tmp_path: Path) -> None:
    """With the file and the place."""
    path = tmp_path / "value.json"
    path.write_text("{")
    with pytest.raises(UserError, match=r"value\.json is not valid JSON: .*line 1"):
        files.read_json(path)


def test_csv_keeps_columns_and_quotes(tmp_path: Path) -> None:
    """Line ends are those of this project on every system."""
    path = tmp_path / "folder" / "rows.csv"
    files.write_csv(path, [{"b": 1, "a": "x,y"}, {"b": 0.5, "a": 'say "hi"'}])
    assert path.read_bytes() == b'b,a\n1,"x,y"\n0.5,"say ""hi"""\n'


@given(shapes=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=6))
def test_matrices_round_trip(tmp_path_factory: pytest.TempPathFactory, shapes: list[tuple[int, int]]) -> None:
    """Any number of matrices of any shapes, none and empty ones included."""
    path = tmp_path_factory.getbasetemp() / "matrices.npz"
    generator = np.random.default_rng(1)
    matrices = [generator.random(shape).astype(np.float32) for shape in shapes]
    files.write_matrices(path, matrices)
    again = files.read_matrices(path)
    assert [matrix.shape for matrix in again] == shapes
    assert all(np.array_equal(one, other) for one, other in zip(matrices, again, strict=True))


def test_the_same_matrices_give_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A zip archive usually holds the time of writing."""
    matrices = [np.eye(3)]
    files.write_matrices(tmp_path / "one.npz", matrices)
    monkeypatch.setattr("time.time", lambda: 2_000_000_000.0)
    files.write_matrices(tmp_path / "two.npz", matrices)
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()


def test_a_pickle_is_no_matrix(tmp_path: Path) -> None:
    """An archive of objects is refused before one of them is made."""
    np.savez(tmp_path / "objects.npz", weights=np.array([Path], dtype=object), shapes=np.zeros((1, 2), np.int32))
    with pytest.raises(UserError, match="allow_pickle=False"):
        files.read_matrices(tmp_path / "objects.npz")


def test_a_sealed_folder_is_held_to_its_seal(tmp_path: Path) -> None:
    """A changed file, a missing one and a damaged seal are told; what came later is read; `sha256sum` agrees."""
    with files.fresh_folder(tmp_path / "folder") as draft:
        files.write_text(draft / "a b.txt", "one")
        files.write_text(draft / "ä.txt", "two")
    folder = tmp_path / "folder"
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", files.SEAL], cwd=folder, check=True)
    files.write_text(folder / "later.txt", "three")
    assert [files.read_text(folder / name) for name in ("a b.txt", "ä.txt", "later.txt")] == ["one", "two", "three"]
    files.check_folder(folder)
    files.check_seal(folder, ["a b.txt"])
    with pytest.raises(UserError, match=r"does not name later\.txt"):
        files.check_seal(folder, ["later.txt"])
    files.write_text(folder / "a b.txt", "onf")
    for check in (files.read_text, files.check_file, lambda path: files.check_folder(path.parent)):
        with pytest.raises(UserError, match=r"a b\.txt is not as it was written .*dvc checkout"):
            check(folder / "a b.txt")
    (folder / "a b.txt").unlink()
    with pytest.raises(UserError, match=r"a b\.txt does not exist"):
        files.check_folder(folder)
    with pytest.raises(UserError, match=r"a b\.txt does not exist"):
        files.check_seal(folder, ["ä.txt"])
    files.write_bytes(folder / files.SEAL, (folder / files.SEAL).read_bytes()[:-1])
    with pytest.raises(UserError, match="SHA256SUMS is damaged"):
        files.read_text(folder / "later.txt")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("NaN", "NaN is not a number"),
        ("[1e999]", "1e999 is too large a number"),
        ("9" * 5000, "Exceeds the limit"),
        ("[" * 100_000, "nested too deeply"),
        (r'"\ud800"', "lone surrogate"),
    ],
    ids=["NaN", "1e999", "digits", "brackets", "surrogate"],
)
def test_what_python_takes_for_json_and_others_do_not(text: str, reason: str) -> None:
    """It would fail later, or be written as something that is no JSON."""
    with pytest.raises(UserError, match=f"^origin is .*{reason}"):
        files.parse_json(text, "origin")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a,b\n1\n", "row 1: 1 cells instead of 2"),
        ('a,b\n"1,2\n', "is not CSV"),
        ("b,c\n1,2\n", "has no column a"),
        ("", "no column a"),
    ],
)
def test_damaged_tables(text: str, reason: str) -> None:
    """A row of another length, an open quote and a missing column are named."""
    with pytest.raises(UserError, match=reason):
        files.parse_csv(text, "origin", ["a"])


def test_sha256_is_that_of_the_bytes(tmp_path: Path) -> None:
    """Known answer: the empty file."""
    path = tmp_path / "empty"
    path.touch()
    assert files.sha256(path) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_a_fresh_folder_takes_the_place_whole(tmp_path: Path) -> None:
    """Nothing of the old folder is left, and nothing of the draft."""
    path = tmp_path / "parent" / "folder"
    path.mkdir(parents=True)
    (path / "old").touch()
    with files.fresh_folder(path) as draft:
        (draft / "new").touch()
        assert names(path) == ["old"]
    assert names(path) == [files.SEAL, "new"]
    assert names(path.parent) == ["folder"]
    assert path.stat().st_mode & 0o777 == 0o755


def test_a_fresh_folder_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    """An interrupted download does not pass for a corpus."""
    path = tmp_path / "folder"
    path.mkdir()
    (path / "old").touch()
    with pytest.raises(FileNotFoundError), files.fresh_folder(path) as draft:
        shutil.copytree(tmp_path / "nowhere", draft / "new")
    assert names(path) == ["old"]
    assert names(tmp_path) == ["folder"]


def test_a_link_in_a_folders_place_is_named(tmp_path: Path) -> None:
    """What it leads to is not ours to remove; it says what to do."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "folder").symlink_to("elsewhere")
    with pytest.raises(UserError, match=r"folder is a symbolic link, .*: remove the link"):
        files.fresh_folder(tmp_path / "folder").__enter__()
    assert names(tmp_path) == ["elsewhere", "folder"]


def test_processes_may_write_one_file_at_the_same_time(tmp_path: Path) -> None:
    """None takes another's draft, just made and not locked yet, for one that a killed process left."""
    program = (
        "from pathlib import Path; from nmt import files\n"
        "for _ in range(200): files.write_text(Path('file'), 'new')\n"
        "for _ in range(200):\n"
        "    with files._drafted(Path('folder'), files.tempfile.mkdtemp) as draft: draft.rmdir()\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(files.__file__).parents[1])}
    writers = [subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path, env=environment) for _ in range(4)]
    assert [writer.wait() for writer in writers] == [0] * 4
    assert names(tmp_path) == ["file"]
