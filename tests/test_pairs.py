"""The pairs of a corpus on disk, and how many processes made them."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nmt import corpora, files, paths, processes, sampling
from nmt.config import UnicodeForms
from nmt.corpora import Corpus, read_chunks
from nmt.corpus import identity_keys, normalise, text_length
from nmt.errors import UserError
from nmt.fingerprints import fingerprints
from nmt.pairs import Pairs
from nmt.stages import fetch, prepare, tokenize
from tests.test_corpora import TABLE, changed
from tests.test_prepare import Workspace, number_pairs, run_stages, workspace  # noqa: F401

FORMS = UnicodeForms(source="NFKC", target="NFC")
ROWS = ["9\t你好\tx\t10\tHello", "10\t再見\tx\t7\tBye", "9\t你好\tx\t9\tHi", "11\t 1１！\tx\t7\tBye  you"]


def pairs_of(entry: dict[str, Any], folder: Path, source: str = "zh", target: str = "en") -> Pairs:
    """What lies in `folder`, described in files beside it."""
    work = folder / f"{source}-{target}"
    work.mkdir()
    return Pairs.write(work, read_chunks(Corpus.model_validate(entry), folder, source, target), (source, target), FORMS)


@pytest.fixture(params=[1, 2, 100])
def chunk_lines(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of one line, of two, and one of all; all in this process."""
    monkeypatch.setattr(corpora, "CHUNK_LINES", request.param)
    monkeypatch.setenv(processes.PROCESSES, "1")


@pytest.mark.usefixtures("chunk_lines")
@pytest.mark.parametrize("seed", range(4))
def test_a_table_is_in_the_order_of_ids(seed: int, tmp_path: Path) -> None:
    """Columns by language, numbers sorted as numbers, a byte order mark and CR LF taken away, rows in any order."""
    rows = ROWS.copy()
    random.Random(seed).shuffle(rows)
    (tmp_path / "table.tsv").write_bytes("\r\n".join(["\ufeff" + rows[0], *rows[1:], ""]).encode())
    pairs = pairs_of(TABLE, tmp_path)
    every = np.arange(4)
    assert pairs.strings("id").to_list() == ["9-9", "9-10", "10-7", "11-7"]
    assert pairs.texts("raw_source", every) == ["你好", "你好", "再見", " 1１！"]
    assert pairs.texts("source", every[::-1]) == ["11!", "再见", "你好", "你好"]
    assert list(pairs.lines("target", every[1:])) == ["Hello", "Bye", "Bye you"]
    assert pairs_of(TABLE, tmp_path, "en", "zh").strings("id").to_list() == ["7-10", "7-11", "9-9", "10-9"]


@pytest.mark.usefixtures("chunk_lines")
def test_what_is_known_of_a_pair(tmp_path: Path) -> None:
    """Numbers and fingerprints are those of each sentence alone, in the order of lines where there are no ids."""
    sides = [row.split("\t")[1::3] for row in ROWS]
    (tmp_path / "table.tsv").write_text("".join(f"{source}\t{target}\n" for source, target in sides))
    pairs = pairs_of(changed(TABLE, "layout/columns", ["zh", "en"]), tmp_path)
    sources = [normalise(source, "zh", "NFKC") for source, _ in sides]
    assert len(pairs) == 4
    assert pairs.strings("id").to_list() == [f"line-{number:06d}" for number in range(1, 5)]
    assert pairs.texts("source_id", np.arange(2)) == [None, None]
    assert pairs.numbers("source_length").tolist() == [text_length(source, "zh") for source in sources]
    assert pairs.fingerprints("source_key").tolist() == fingerprints(identity_keys(sources, "zh")).tolist()


def test_same_bytes_however_many_processes(
    workspace: Workspace,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One process, two, chunks of other sizes: every output is the same, and no work is left behind."""
    workspace.write_numbers(number_pairs(120))
    workspace.set_params({"tokenize.sampling.segmentations": 1})
    monkeypatch.setenv(processes.PROCESSES, "1")
    expected = run_stages()
    for count, chunk_lines in (("2", 50), ("1", 7)):
        monkeypatch.setenv(processes.PROCESSES, count)
        monkeypatch.setattr(corpora, "CHUNK_LINES", chunk_lines)
        monkeypatch.setattr(files, "_BLOCK_LINES", chunk_lines)
        monkeypatch.setattr(sampling, "_AT_ONCE", chunk_lines)
        assert run_stages() == expected
    assert {path.name for path in Path("data").iterdir()} == {
        "corpora.yaml",
        "local.tsv",
        "raw",
        "prepared",
        "tokenized",
    }


def test_a_fault_in_a_worker_is_one_error(
    workspace: Workspace,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It names the file's line, and leaves nothing."""
    workspace.write_numbers(number_pairs(60))
    fetch.main()
    (paths.RAW / files.SEAL).unlink()
    with (paths.RAW / "local.tsv").open("ab") as stream:
        stream.write(b"1\t\xff\n")
    monkeypatch.setattr(corpora, "CHUNK_LINES", 40)
    monkeypatch.setenv(processes.PROCESSES, "2")
    with pytest.raises(UserError, match=r"local\.tsv, line 73 \(byte \d+\) is not UTF-8"):
        prepare.main()
    assert {path.name for path in Path("data").iterdir()} == {"corpora.yaml", "local.tsv", "raw"}


def test_a_long_text_teaches_with_lines_from_all_of_it(tmp_path: Path) -> None:
    """About as many characters as asked for, evenly spread; all lines of a short one, empty ones included."""
    path = tmp_path / "lines.txt"
    lines = [*map(str, range(10)), "", ""]
    files.write_lines(path, lines)
    assert list(tokenize.evenly_spread(path, 10)) == list(tokenize.evenly_spread(path, 99)) == lines
    files.write_lines(path, [str(number) * 5 for number in range(10)])
    assert list(tokenize.evenly_spread(path, 20)) == ["22222", "44444", "77777", "99999"]
