"""`nmt translate` and `nmt score` as they are called."""

import io
import math
import re
import shutil
import sys
from pathlib import Path

import pytest

from nmt import paths, tracking
from nmt.commands import main
from nmt.commands.translate import word_links
from nmt.config import load_params
from nmt.translator import Translator
from tests.bundles import write_bundle

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with params.yaml and an untrained bundle of both variants."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copy(ROOT / "params.yaml", folder)
    write_bundle(folder / paths.bundle("plain", 1), "none")
    write_bundle(folder / paths.bundle("attention", 1), "additive")
    return folder


@pytest.fixture(autouse=True)
def _inside(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)


def give(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    """Put bytes on standard input."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))


def output(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> str:
    """What a command prints, to stdout when it succeeds and to stderr when it fails."""
    assert main(arguments) == status
    captured = capsys.readouterr()
    return captured.err if status else captured.out


def test_one_line_out_for_each_line_in(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """From arguments, a file and standard input alike: empty, very long, emoji, Latin, odd line separators."""
    lines = ["我喜欢吃苹果。", "", "我喜欢吃苹果。" * 715, "👍🏽🇨🇳", "Nur Latein hier.", "一\u2028二\u0085三", "   "]
    options = ["--beam", "1"]
    from_arguments = output(capsys, "translate", *options, *lines)
    assert from_arguments.endswith("\n")
    assert from_arguments.count("\n") == len(lines)
    assert [not line for line in from_arguments.split("\n")[:-1]] == [False, True, False, False, False, False, True]
    content = "\n".join(lines).encode()
    (tmp_path / "lines.txt").write_bytes(content)
    assert output(capsys, "translate", *options, "--file", str(tmp_path / "lines.txt")) == from_arguments
    give(monkeypatch, b"\xef\xbb\xbf" + content.replace(b"\n", b"\r\n") + b"\n")
    assert output(capsys, "translate", *options) == from_arguments


def test_default_is_the_first_variant_with_attention(capsys: pytest.CaptureFixture[str]) -> None:
    """`--variant`, `--seed` and `--model` choose; without them it is attention's first seed."""
    line = "他们在学校学习汉语。"
    default = output(capsys, "translate", line)
    assert default == output(capsys, "translate", "--variant", "attention", "--seed", "1", line)
    assert default != output(capsys, "translate", "--variant", "plain", line)
    greedy = output(capsys, "translate", "--beam", "1", line)
    assert output(capsys, "translate", "--model", str(paths.bundle("attention", 1)), line) == greedy
    assert "no variant 'dot'" in output(capsys, "translate", "--variant", "dot", line, status=1)
    assert "holds no model" in output(capsys, "translate", "--seed", "9", line, status=1)
    assert "leave --variant" in output(capsys, "translate", "--model", "x", "--seed", "1", line, status=1)


def test_registered_model_is_fetched(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """An address of the registry goes to tracking, and what comes back is loaded."""
    asked = []
    monkeypatch.setattr(tracking, "download_bundle", lambda uri: asked.append(uri) or paths.bundle("plain", 1))
    fetched = output(capsys, "translate", "--model", "models:/nmt-zh-en@plain", "你好")
    assert asked == ["models:/nmt-zh-en@plain"]
    assert fetched == output(capsys, "translate", "--variant", "plain", "--beam", "1", "你好")


def test_n_best_lists_ranks_and_scores(capsys: pytest.CaptureFixture[str]) -> None:
    """Tab-separated rank, score and text, ranks starting anew for each line; more than the beam holds is refused."""
    printed = output(capsys, "translate", "--n-best", "3", "猫", "你好").split("\n")[:-1]
    rows = [line.split("\t", 2) for line in printed]
    assert [row[0] for row in rows] == ["1", "2", "3"] * 2
    assert [float(row[1]) for row in rows[:3]] == sorted((float(row[1]) for row in rows[:3]), reverse=True)
    assert rows[0][2] == output(capsys, "translate", "猫").removesuffix("\n")
    assert "beam" in output(capsys, "translate", "--n-best", "9", "猫", status=1)
    for wrong in ("0", "x", "2000"):
        with pytest.raises(SystemExit):
            main(["translate", "--n-best", wrong, "--beam", "3", "猫"])
    assert "2000 is too large; the beam size is at most 1000" in capsys.readouterr().err


def test_prefix_leads(capsys: pytest.CaptureFixture[str]) -> None:
    """Every translation begins with the text given."""
    for line in output(capsys, "translate", "--prefix", "They study", "猫", "你好").split("\n")[:-1]:
        assert line.startswith("They study")


def test_attention_names_words(capsys: pytest.CaptureFixture[str]) -> None:
    """Each word of the translation with a word of the source and its weight; refused without attention."""
    first, *links = output(capsys, "translate", "--attention", "她有3只猫。").split("\n")[:-1]
    assert first
    assert links
    for link in links:
        assert link.startswith("    ")
        _, source_word, weight = link.rsplit("\t", 2)
        assert source_word == "</s>" or source_word in "她有3只猫。"
        assert 0.0 < float(weight) <= 1.0
    assert "no attention" in output(capsys, "translate", "--attention", "--variant", "plain", "猫", status=1)


def test_ensemble_is_all_seeds(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The printed score is that of the mean of the seeds' models; what does not go with it is refused."""
    assert "several models" in output(capsys, "translate", "--ensemble", "猫", status=1)
    params = paths.PARAMS.read_text(encoding="utf-8")
    monkeypatch.setattr(paths, "PARAMS", Path("two.yaml"))
    paths.PARAMS.write_text(re.sub(r"(?m)^seeds: .*$", "seeds: [1, 2]", params), encoding="utf-8")
    monkeypatch.setattr("nmt.commands.model_choice.load_params", lambda: load_params(paths.PARAMS))
    folders = [paths.bundle("attention", 1), write_bundle(paths.bundle("attention", 2), "additive", seed=5)]
    give(monkeypatch, "猫\tcat\n".encode())
    log_p = float(output(capsys, "score", "--ensemble").split("\t")[0])
    together = Translator.load(folders[0], others=folders[1:], device="cpu").score(["猫"], ["cat"])[0]
    alone = [Translator.load(folder, device="cpu").score(["猫"], ["cat"])[0] for folder in folders]
    assert log_p == pytest.approx(together.log_probability, abs=1e-3)
    assert log_p != pytest.approx(alone[0].log_probability, abs=1e-2)
    assert "leave --seed out" in output(capsys, "translate", "--ensemble", "--seed", "2", "猫", status=1)
    options = ["--ensemble", "--model", str(folders[0])]
    assert "--ensemble out" in output(capsys, "translate", *options, "猫", status=1)


def test_word_links_average_pieces() -> None:
    """A word gets the mean of its pieces' rows, a source word the sum of its pieces' columns."""
    translator = Translator.load(paths.bundle("attention", 1), device="cpu")
    translation = translator.translate(["她有3只猫。"], prefixes=["They study"])[0]
    hypothesis = translation.hypotheses[0]
    assert hypothesis.attention is not None
    word, _, weight = word_links(translation, hypothesis, translator.bundle.config.languages)[0]
    assert word == "They"
    end = next(i for i, piece in enumerate(hypothesis.pieces) if i and piece.startswith("\u2581"))
    mean = hypothesis.attention[:end].mean(axis=0)
    assert weight >= mean.max() - 1e-6
    assert weight <= 1.0


def test_bad_input_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Which line is not UTF-8, which file is missing, what excludes what."""
    give(monkeypatch, "你好\n猫\n".encode() + b"\xff\n")
    assert "standard input, line 3 is not UTF-8" in output(capsys, "translate", status=1)
    assert "nowhere.txt cannot be read" in output(capsys, "translate", "--file", "nowhere.txt", status=1)
    assert "not both" in output(capsys, "translate", "--file", "nowhere.txt", "猫", status=1)
    (tmp_path / "bad.txt").write_bytes(b"\xff\n")
    assert "bad.txt, line 1 is not UTF-8" in output(capsys, "translate", "--file", str(tmp_path / "bad.txt"), status=1)


def test_score_prints_log_probability_perplexity_and_target(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """From two files, one file of two columns, and standard input alike, as the translator has it."""
    sources, targets = ["你好", "猫", ""], ["Hello!", "", "cat"]
    (tmp_path / "s.txt").write_text("\n".join(sources) + "\n", encoding="utf-8")
    (tmp_path / "t.txt").write_text("\n".join(targets) + "\n", encoding="utf-8")
    pairs = "".join(f"{source}\t{target}\n" for source, target in zip(sources, targets, strict=True))
    (tmp_path / "pairs.tsv").write_text(pairs, encoding="utf-8")
    printed = output(capsys, "score", str(tmp_path / "s.txt"), str(tmp_path / "t.txt"))
    assert output(capsys, "score", "--pairs", str(tmp_path / "pairs.tsv")) == printed
    give(monkeypatch, pairs.encode())
    assert output(capsys, "score") == printed
    rows = [line.split("\t") for line in printed.split("\n")[:-1]]
    expected = Translator.load(paths.bundle("attention", 1), device="cpu").score(sources, targets)
    for (log_p, perplexity, target), forced, given in zip(rows, expected, targets, strict=True):
        assert float(log_p) == pytest.approx(forced.log_probability, abs=1e-3)
        assert float(perplexity) == pytest.approx(math.exp(-forced.log_probability / len(forced.pieces)), rel=1e-3)
        assert target == given


def test_score_refuses_what_does_not_match(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Unequal files, a missing column, one file alone, files and pairs."""
    (tmp_path / "two").write_text("a\nb\n")
    (tmp_path / "one").write_text("a\n")
    two, one = str(tmp_path / "two"), str(tmp_path / "one")
    assert "has 2 lines" in output(capsys, "score", two, one, status=1)
    assert "two files" in output(capsys, "score", two, status=1)
    assert "not both" in output(capsys, "score", two, one, "--pairs", two, status=1)
    give(monkeypatch, b"a\tb\nc\n")
    assert "standard input, line 2 has 1 columns" in output(capsys, "score", status=1)
