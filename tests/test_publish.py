"""The command line's frame, and `nmt publish` as a user sees it."""

import ast
import errno
import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nmt import commands, files, repository
from nmt.errors import UserError
from nmt.repository import git
from nmt.tracking.model import REQUIREMENTS
from tests.synthetic_results import ROOT, make_comparison, make_project, make_result, make_scores, result_id, set_param


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A synthetic project as the current folder."""
    for name in ("MLFLOW_TRACKING_URI", "NMT_TRACKING", "DVC_ROOT"):
        monkeypatch.delenv(name, raising=False)
    make_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _nmt(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Call `nmt` as a user does, warnings shown."""
    return subprocess.run(
        [sys.executable, "-W", "default", "-m", "nmt", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_publish_says_what_it_added(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line per model and one for the comparison, then "nothing to add"; nothing else on the terminal."""
    make_result("plain")
    make_comparison()
    name = f"plain-{result_id('plain')[:8]}"
    first, second = _nmt("publish"), _nmt("publish")
    assert (first.returncode, first.stderr, second.returncode, second.stderr) == (0, "", 0, "")
    comparison = first.stdout.splitlines()[-1].partition(":")[0]
    assert first.stdout.splitlines() == [
        f"{name}: added provenance, dataset, training, scores, attention, model",
        "attention 1: not trained yet; `dvc repro` does it",
        f"{comparison}: added comparison",
    ]
    assert second.stdout.splitlines() == [
        f"{name}: nothing to add",
        "attention 1: not trained yet; `dvc repro` does it",
        f"{comparison}: nothing to add",
    ]
    make_scores("plain", bleu=30.0)
    assert commands.main(["publish", "--variant", "plain"]) == 1
    assert capsys.readouterr().out.startswith(f"{name}: the run holds scores of other bytes under the same id")


def test_publish_takes_variants_and_seeds(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All of params.yaml, or those that are named; what is not there is an error that tells what is."""
    set_param("seeds: [1]", "seeds: [1, 2]")
    for arguments, models in {
        (): ["plain 1", "plain 2", "attention 1", "attention 2"],
        ("--seed", "2"): ["plain 2", "attention 2"],
        ("--variant", "plain"): ["plain 1", "plain 2"],
        ("--variant", "plain", "--seed", "2"): ["plain 2"],
    }.items():
        assert commands.main(["publish", *arguments]) == 0
        assert [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()] == models
    assert commands.main(["publish", "--variant", "plane"]) == 1
    assert commands.main(["publish", "--seed", "3"]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "error: params.yaml: no variant 'plane'; there are plain, attention",
        "error: params.yaml: no seed 3; there are 1, 2",
    ]
    monkeypatch.setenv("NMT_TRACKING", "off")
    assert commands.main(["publish"]) == 1
    assert capsys.readouterr().err == "error: tracking: switched off by NMT_TRACKING\n"


def test_publish_to_a_store_that_does_not_answer_is_one_line(project: Path) -> None:
    """The address stands in the message; no traceback."""
    make_result("plain")
    files.write_text(Path("broken.db"), "no database\n" * 100)
    uri = f"sqlite:///{Path('broken.db').absolute()}"
    done = _nmt("publish", MLFLOW_TRACKING_URI=uri)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [f"error: no answer from {uri} (file is not a database)"]


def test_the_frame_imports_nothing_heavy() -> None:
    """Help comes at once: neither it nor the frame needs torch, mlflow or pandas; every command is listed."""
    code = "import sys; from nmt.commands import main\ntry: main(['--help'])\nfinally: print(sorted(sys.modules))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, env=environment)
    assert done.returncode == 0
    *help_lines, modules = done.stdout.splitlines()
    assert not {"torch", "mlflow", "pandas", "numpy", "nmt.commands.translate"} & set(ast.literal_eval(modules))
    for name, summary in commands.COMMANDS.items():
        assert f"{name} {summary}" in " ".join(" ".join(help_lines).split())


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each module registers itself under its name, and says what it is for."""
    with pytest.raises(SystemExit, match="0"):
        commands.main([name, "--help"])
    usage, _, rest = capsys.readouterr().out.partition("\n\n")
    assert usage.startswith(f"usage: nmt {name}")
    assert not rest.startswith(("options:", "positional arguments:")), "what it is for is not told"


def test_a_wrong_command_names_the_right_ones(capsys: pytest.CaptureFixture[str]) -> None:
    """Argparse's status 2 and a list."""
    with pytest.raises(SystemExit, match="2"):
        commands.main(["publsh"])
    assert "invalid choice: 'publsh' (choose from" in capsys.readouterr().err


def test_a_closed_pipe_is_no_error(project: Path) -> None:
    """`nmt ... | head -0` ends quietly."""
    command = f"{sys.executable} -m nmt publish | true"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(command, shell=True, capture_output=True, text=True, env=environment, check=False)
    assert done.stderr == ""


def test_what_the_file_system_refuses_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As of a stage; what has no number is a bug of ours, and stays a traceback."""
    faults = [OSError(errno.ENOSPC, "No space left on device", "/tmp/x"), OSError("odd")]
    monkeypatch.setattr("nmt.commands.publish.load_params", lambda: (_ for _ in ()).throw(faults.pop(0)))
    assert commands.main(["publish"]) == 1
    assert capsys.readouterr().err.startswith("error: /tmp/x: No space left on device; make room on this disk")
    with pytest.raises(OSError, match="odd"):
        commands.main(["publish"])


def test_a_folder_that_is_gone_is_not_a_git_that_is_missing(tmp_path: Path) -> None:
    """And the other way round."""
    with pytest.raises(UserError, match=r"the folder .*gone does not exist"):
        git("status", folder=tmp_path / "gone")
    with pytest.raises(UserError, match="no-such-tool is not installed, or not on the PATH"):
        repository._call(["no-such-tool"], tmp_path, None)


def _imports(module: str, seen: set[str]) -> set[str]:
    """Top-level names of other packages that a module of ours, or one that it imports, imports."""
    if module in seen:
        return set()
    seen.add(module)
    base = ROOT / "src" / Path(*module.split("."))
    file = next((path for path in (base / "__init__.py", base.with_suffix(".py")) if path.exists()), None)
    if file is None:
        return set()
    names: set[str] = set()
    for node in ast.walk(ast.parse(files.read_text(file))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.update([node.module, *(f"{node.module}.{alias.name}" for alias in node.names)])
    ours = {name for name in names if name.partition(".")[0] == "nmt"}
    others = {name.partition(".")[0] for name in names - ours}
    return others.union(*(_imports(name, seen) for name in ours))


def test_the_logged_model_requires_what_it_imports() -> None:
    """Its requirements are the distributions that `nmt.translator` and the model's code import, no more, no fewer.

    But for kernels.py, which is for training on a GPU: what it imports comes with a torch that is built for one.
    """
    imported = set.union(*(_imports(name, {"nmt.model.kernels"}) for name in ("nmt.translator", "nmt.tracking.pyfunc")))
    owners = importlib.metadata.packages_distributions()
    several = {"mlflow": "mlflow", "ruamel": "ruamel.yaml"}  # packages that several distributions share
    needed = {several.get(name) or owners[name][0] for name in imported - set(sys.stdlib_module_names)}
    assert sorted(needed, key=str.lower) == sorted(REQUIREMENTS, key=str.lower)
