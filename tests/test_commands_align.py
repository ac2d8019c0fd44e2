"""`nmt align` as it is called."""

import shutil
from pathlib import Path

import pytest

from nmt import alignment
from nmt.commands import main
from nmt.commands.align import read_pairs, symmetrised
from nmt.files import write_lines
from nmt.translator import Translator
from tests.bundles import write_bundle

ROOT = Path(__file__).parent.parent
SOURCES = ["我 喜欢 吃 苹果 。", "天气 很好 ， 我们 去 公园 吧 ！"]
TARGETS = ["I like eating apples .", "Let us go to -LRB- the park -RRB- !"]
GOLD = ["0-0 1-1 2-2 3-3 4-4 ", "3-0-P 3-1 4-2 5-6 7-8"]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with params.yaml, untrained bundles of both directions, and labelled lines."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copy(ROOT / "params.yaml", folder)
    write_bundle(folder / "forward/bundle", "additive")
    write_bundle(folder / "reverse/bundle", "additive", ("en", "zh"))
    for name, lines in {"source": SOURCES, "target": TARGETS, "gold": GOLD}.items():
        write_lines(folder / name, lines)
    return folder


@pytest.fixture(autouse=True)
def _inside(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)


def output(capsys: pytest.CaptureFixture[str], *more: str, status: int = 0) -> str:
    """What the command prints, to stdout when it succeeds and to stderr when it fails."""
    files = ("--source", "source", "--target", "target", "--gold", "gold")
    assert main(["align", "--model", "forward/bundle", *files, *more]) == status
    captured = capsys.readouterr()
    return captured.err if status else captured.out


def test_table(capsys: pytest.CaptureFixture[str]) -> None:
    """A row for each reading; the diagonal's numbers are known by counting."""
    text = output(capsys)
    rows = {line.split("|")[1].strip(): line.split("|")[2:] for line in text.splitlines() if line.startswith("|")}
    kinds = ("attention t", "attention t+1", "erasure", "gradient")
    assert set(rows) - {"", ":--"} == {"uniform", "diagonal"} | {
        f"{k} {by}" for k in kinds for by in ("argmax", "threshold")
    }
    # of five and nine links, the first sentence's five are right and 3-4, 5-6, 7-8 of the second have 5-6 and 7-8
    assert [cell.strip() for cell in rows["diagonal"][:2]] == ["0.500", "0.778"]
    assert "2 pairs, 9 sure links" in text


def test_a_reverse_model_adds_symmetrised_links(capsys: pytest.CaptureFixture[str]) -> None:
    """The intersection and grow-diag are made of the two directions' links between the same words."""
    text = output(capsys, "--reverse", "reverse/bundle")
    for kind in ("attention t argmax", "erasure argmax"):
        for made in ("reverse", "intersection", "grow-diag"):
            assert f"| {kind}, {made} |" in text
    words = [[line.split() for line in lines] for lines in (SOURCES, TARGETS)]
    pairs = read_pairs(Translator.load("forward/bundle"), *words)
    assert [pair.source.words for pair in pairs][1][:3] == ["天气", "很好", ","]
    assert pairs[1].target.words == ["Let", "us", "go", "to", "(", "the", "park", ")", "!"]
    forward, backward = {"x": [{(0, 1), (1, 0)}]}, {"x": [{(1, 0), (2, 2)}]}
    found = symmetrised(forward, backward)
    assert found["x, reverse"] == [{(0, 1), (2, 2)}]
    assert found["x, intersection"] == [{(0, 1)}]
    assert found["x, grow-diag"] == [alignment.grow_diag({(0, 1), (1, 0)}, {(0, 1), (2, 2)})]


@pytest.mark.parametrize(
    ("name", "lines", "message"),
    [
        ("gold", GOLD[:1], "gold has 1 lines, the sources 2, the targets 2"),
        ("gold", ["0-0", "0:1"], "gold, line 2: '0:1' is not a link"),
        ("gold", ["5-0", ""], "gold, line 1 links words beyond the 5 and 5 there are"),
        ("source", None, "source cannot be read"),
    ],
)
def test_input_that_does_not_fit(
    capsys: pytest.CaptureFixture[str], project: Path, name: str, lines: list[str] | None, message: str
) -> None:
    """One line says which file, where and what."""
    kept = (project / name).read_bytes()
    try:
        (project / name).unlink()
        if lines is not None:
            write_lines(project / name, lines)
        assert message in output(capsys, status=1)
    finally:
        (project / name).write_bytes(kept)


def test_nothing_to_align(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Empty files are no pairs."""
    (tmp_path / "empty").touch()
    files = [f"--{name}={tmp_path / 'empty'}" for name in ("source", "target", "gold")]
    assert main(["align", "--model", "forward/bundle", *files]) == 1
    assert "empty holds no line" in capsys.readouterr().err
