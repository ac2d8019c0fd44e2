"""The git repository and the DVC project that the commands work on: calls of both tools, failures told in one line."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from nmt.errors import UserError

LONGEST_REASON = 300
GIT = ("git", "--no-optional-locks", "-c", "color.ui=false")
"""Without the locks that git can do without: its refreshing of the index would refuse the user's own `git add`."""


def git(*arguments: str, folder: Path | None = None, stdin: bytes | None = None) -> str:
    """Call git and return what it printed; a failure is a UserError with git's own last line."""
    return _output([*GIT, *arguments], "git", arguments, folder, stdin)


def dvc(*arguments: str, folder: Path | None = None) -> str:
    """Call the DVC of this Python and return what it printed; a failure is a UserError with DVC's own last line."""
    return _output([sys.executable, "-m", "dvc", *arguments], "dvc", arguments, folder, None)


def show_dvc(*arguments: str, folder: Path, environment: dict[str, str]) -> None:
    """Call DVC and let the user watch, on standard error: it may take as long as a training."""
    command = [sys.executable, "-m", "dvc", *arguments]
    if subprocess.run(command, cwd=folder, env=environment, stdout=sys.stderr, check=False).returncode:
        raise UserError(f"`dvc {' '.join(arguments)}` failed in {folder}; its messages are above")


def has(*arguments: str, folder: Path | None = None) -> bool:
    """Whether a call of git succeeds."""
    return _call([*GIT, *arguments], folder, None).returncode == 0


def stage_environment() -> dict[str, str]:
    """Ours, with this Python first on PATH: DVC starts each stage with the `python` that it finds there."""
    return os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}


def last_line(text: str) -> str:
    """The last line that says something, shortened."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:LONGEST_REASON] if lines else "it said nothing"


def _output(
    command: list[str],
    tool: str,
    arguments: tuple[str, ...],
    folder: Path | None,
    stdin: bytes | None,
) -> str:
    done = _call(command, folder, stdin)
    if done.returncode:
        said = last_line(done.stderr.decode("utf-8", "replace") or done.stdout.decode("utf-8", "replace"))
        raise UserError(f"`{tool} {' '.join(arguments)}` failed: {said}")
    return done.stdout.decode("utf-8", "surrogateescape")


def _call(command: list[str], folder: Path | None, stdin: bytes | None) -> "subprocess.CompletedProcess[bytes]":
    """Run a command and keep what it prints.

    In files: a process that it leaves behind, such as a worker of DVC's queue, would hold a pipe open for hours.
    """
    with tempfile.TemporaryFile() as printed, tempfile.TemporaryFile() as complained:
        given = {"input": stdin} if stdin is not None else {"stdin": subprocess.DEVNULL}
        try:
            done = subprocess.run(
                command,
                cwd=folder,
                env=stage_environment(),
                stdout=printed,
                stderr=complained,
                check=False,
                **given,
            )
        except FileNotFoundError:
            if folder is not None and not folder.is_dir():
                raise UserError(f"the folder {folder} does not exist") from None
            raise UserError(f"{command[0]} is not installed, or not on the PATH") from None
        printed.seek(0)
        complained.seek(0)
        return subprocess.CompletedProcess(command, done.returncode, printed.read(), complained.read())
