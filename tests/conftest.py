"""What the tests share: the skips that CI allows, and a small project on which DVC runs for real."""

import os
import shutil
from pathlib import Path

import hypothesis
import pytest
import torch
from filelock import FileLock

from tests import page_project
from tests.project import Project, new_project

ALLOWED_SKIPS = {
    "needs a CUDA device": "the machines of CI have none",
    "needs the right to mount a file system": "containers may forbid it; a limit on the size of files stands in there",
}
"""With CI=true, a test may be skipped for these reasons (word for word) alone; each says why it cannot run there."""

os.environ.update(DVC_NO_ANALYTICS="1", MLFLOW_DISABLE_TELEMETRY="true")
torch.set_num_threads(1)  # two test processes share two cores
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the same for what they start
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # kernels.py then runs on a CPU

hypothesis.settings.register_profile("project", deadline=None, derandomize=os.environ.get("CI") == "true")
hypothesis.settings.load_profile("project")


class SkipGuard:
    """Collects the reasons of skipped tests, and fails a CI run in which one is not on the list."""

    def __init__(self) -> None:
        self.forbidden: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped:
            self._note(report.nodeid, report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.skipped:
            self._note(report.nodeid, report)

    def _note(self, name: str, report: pytest.TestReport | pytest.CollectReport) -> None:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if reason.removeprefix("Skipped: ") not in ALLOWED_SKIPS:
            self.forbidden.append(f"{name}: {reason}")

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.forbidden and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for line in self.forbidden:
            terminalreporter.write_line(f"SKIP NOT ALLOWED IN CI {line}", red=True)


def pytest_configure(config: pytest.Config) -> None:
    """Watch the skips, in CI, from the process that sees all of them."""
    if os.environ.get("CI") == "true" and not hasattr(config, "workerinput"):
        config.pluginmanager.register(SkipGuard(), "skip-guard")


@pytest.fixture(scope="session")
def unrun_project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The project with a small corpus and tiny models, committed, nothing run yet; `copy` it to change it."""
    return new_project(tmp_path_factory.mktemp("small") / "project")


@pytest.fixture(scope="session")
def small_project(unrun_project: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The project after `make repro` (models side by side), results committed; `copy` it to change it.

    It takes two cores a minute and more, so one test process makes it, and each has a copy of its own.
    """
    base = tmp_path_factory.getbasetemp()
    made = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "made"
    with FileLock(made.with_suffix(".lock")):
        if not (made / "complete").exists():
            shutil.rmtree(made, ignore_errors=True)  # what another process had begun when it failed
            project = unrun_project.copy(made / "project")
            (made / "repro.log").write_text(project.make("repro", JOBS="2"))
            project.commit("Results")
            (made / "complete").touch()
    folder = tmp_path_factory.mktemp("run")
    shutil.copy(made / "repro.log", folder)
    return Project(made / "project").copy(folder / "project")


@pytest.fixture(scope="session")
def page_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with its page; copy it to change it."""
    folder = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as monkeypatch:
        page_project.build(folder, monkeypatch)
    return folder
