"""A small project for the tests: a copy of the repository with a toy corpus, on which git and DVC run for real."""

import dataclasses
import hashlib
import itertools
import os
import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from nmt import paths

ROOT = Path(__file__).parent.parent
OTHERS = [path.as_posix() for path in (paths.LEADERBOARD, paths.study_table(paths.INGREDIENTS))]
"""What git keeps of experiments, and the report page tells."""


@dataclasses.dataclass(frozen=True)
class Project:
    """A copy of the repository with a corpus and params of its own, under git and DVC."""

    folder: Path

    def run(self, *command: str, check: bool = True, **environment: str) -> str:
        """Run a command in the project; return all that it printed."""
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment() | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=900,
        )
        if check and done.returncode:
            pytest.fail(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}", pytrace=False)
        return done.stdout

    def dvc(self, *arguments: str, **environment: str) -> str:
        """Run dvc."""
        return self.run(sys.executable, "-m", "dvc", *arguments, **environment)

    def make(self, target: str, **variables: str) -> str:
        """Run make, in the environment that runs the tests."""
        settings = [f"{name}={value}" for name, value in {"VENV": sys.prefix, **variables}.items()]
        return self.run("make", "--assume-old", "setup", target, *settings)

    def start(self, *command: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start a command in the project and leave it to the caller; what it prints is lost."""
        quiet = subprocess.DEVNULL
        environment = self.environment() | environment
        return subprocess.Popen(command, cwd=self.folder, env=environment, stdin=quiet, stdout=quiet, stderr=quiet)

    def nmt(self, *arguments: str, status: int = 0, **environment: str) -> str:
        """Run the project's own nmt, which must end with that exit status; return all that it printed."""
        command = [sys.executable, "-m", "nmt", *arguments]
        environment = {"PYTHONPATH": str(self.folder / "src"), **environment}
        marked = self.run("sh", "-c", '"$@"; echo "status $?"', "sh", *command, check=False, **environment)
        output, _, ended = marked.rpartition("status ")
        if int(ended) != status:
            pytest.fail(f"nmt {' '.join(arguments)} ended with {ended.strip()}, not {status}:\n{output}", pytrace=False)
        return output

    def commit(self, message: str) -> None:
        """Commit all that git does not ignore."""
        self.run("git", "add", "--all")
        self.run("git", "commit", "--quiet", "--message", message)

    def stages_run(self, output: str) -> set[str]:
        """The stages that dvc says it ran, not those that it restored or found up to date."""
        return {line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage '")}

    def copy(self, folder: Path) -> "Project":
        """A copy, cache, history and MLflow store included, that a test may change."""
        copied = Project(Path(shutil.copytree(self.folder, folder, symlinks=True)))
        copied.move_store(self.folder)
        return copied

    def move_store(self, old: Path) -> None:
        """MLflow remembers where artifacts lie by absolute paths: else the copy would write into the original."""
        if not (self.folder / "mlflow.db").exists():
            return
        with sqlite3.connect(self.folder / "mlflow.db") as database:
            for table, column in _ARTIFACT_PATHS:
                database.execute(f"update {table} set {column} = replace({column}, ?, ?)", (str(old), str(self.folder)))
        database.close()

    def set_params(self, values: Mapping[str, object]) -> None:
        """Write dotted keys into params.yaml; comments stay."""
        edit_yaml(self.folder / "params.yaml", values)

    def environment(self) -> dict[str, str]:
        """Ours, with this Python first on PATH, and without settings of the user's own git, DVC and MLflow."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("GIT_", "MLFLOW_TRACKING", "DVC_EXP", "PYTEST_", "NMT_"))
        }
        beside = self.folder.parent
        return kept | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": "",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "DVC_GLOBAL_CONFIG_DIR": str(beside / "dvc-global"),
            "DVC_SYSTEM_CONFIG_DIR": str(beside / "dvc-system"),
            "DVC_SITE_CACHE_DIR": str(beside / "dvc-site"),
        }


SMALL_PARAMS: dict[str, object] = {
    "corpus": {"name": "local", "source": "de", "target": "en"},
    "runtime": {"device": "cpu", "precision": "float32", "threads": 1, "kernels": "auto"},
    "prepare.test_pairs": 30,
    "prepare.dev_pairs": 20,
    "prepare.length_strata": 2,
    "tokenize.source.vocabulary": 310,
    "tokenize.target.vocabulary": 310,
    "model.embedding_size": 32,
    "model.encoder.hidden_size": 24,
    "model.decoder.hidden_size": 48,
    "model.attention_size": 32,
    "model.dropout": {"word": 0.0, "embedding": 0.0, "recurrent": 0.0, "output": 0.1},
    "train.max_epochs": 3,
    "train.batch_tokens": 110,
    "train.joining.share": 0.1,
    "train.learning_rate": 0.02,
    "train.schedule.warmup_updates": 5,
    "train.average_decay": 0.9,
    "translate.beam_size": 2,
    "translate.n_best": 2,
    "translate.joined": [2],
    "evaluate.bootstrap_samples": 20,
    "evaluate.length_bins": 2,
    "analyze_attention.heatmaps": 1,
    "compare.bootstrap_samples": 100,
    "compare.examples": 3,
    "report.sentences": 20,
}

WORDS = (
    "ich/I du/you wir/we Anna/Anna Tom/Tom".split(),
    "sehe/see kaufe/buy suche/seek male/paint".split(),
    "eins/one zwei/two drei/three vier/four".split(),
    "rote/red blaue/blue alte/old neue/new kleine/small".split(),
    "Häuser/houses Bäume/trees Bücher/books Züge/trains".split(),
)


def toy_pairs(count: int, seed: int = 1) -> list[tuple[str, str]]:
    """Sentences of a toy grammar in two languages, each different on both sides; half of them get a second clause."""
    generator = random.Random(seed)
    phrases = list(itertools.product(*WORDS))
    generator.shuffle(phrases)
    pairs = []
    for number in range(count):
        words = [word.split("/") for word in phrases[number]]
        if number % 2:
            words += [["und", "and"], *(word.split("/") for word in generator.choice(phrases)[3:])]
        pairs.append((" ".join(german for german, _ in words) + ".", " ".join(english for _, english in words) + "."))
    return pairs


def edit_yaml(path: Path, values: Mapping[str, object]) -> None:
    """Set dotted keys of a YAML file."""
    yaml = YAML()
    content: Any = yaml.load(path)
    for key, value in values.items():
        section = content
        *parents, last = key.split(".")
        for parent in parents:
            section = section[parent]
        assert last in section, f"{path.name} has no {key}"
        section[last] = value
    yaml.dump(content, path)


def write_local_corpus(folder: Path, pairs: list[tuple[str, str]]) -> None:
    """Put a German-English corpus of one's own at its place, and pin it."""
    text = "".join(f"{source}\t{target}\n" for source, target in pairs).encode()
    (folder / "data" / "local.tsv").write_bytes(text)
    entry = YAML(typ="safe").load(folder / "data" / "corpora.yaml")["local"]
    entry["languages"] = entry["layout"]["columns"] = ["de", "en"]
    entry["files"]["local.tsv"]["sha256"] = hashlib.sha256(text).hexdigest()
    edit_yaml(folder / "data" / "corpora.yaml", {"local": entry})


_ARTIFACT_PATHS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


def new_project(folder: Path) -> Project:
    """A project with a small corpus and tiny models, committed, nothing run yet."""
    project = Project(folder)
    copy_sources(folder)
    write_local_corpus(folder, toy_pairs(360))
    project.set_params(SMALL_PARAMS)
    project.run("git", "init", "--quiet")
    for key, value in {"user.name": "Test", "user.email": "test@example.com", "commit.gpgsign": "false"}.items():
        project.run("git", "config", key, value)
    project.commit("Start")
    return project


def copy_sources(folder: Path) -> None:
    """Copy what git tracks, or would, but for results, and what is kept of other experiments."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    for name in listed.stdout.rstrip("\0").split("\0"):
        left_out = name == "dvc.lock" or name.startswith(("reports/", "docs/", "benchmarks/"))
        if (not left_out or name in OTHERS) and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
