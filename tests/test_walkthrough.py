"""The README's walk, typed as it is printed."""

import json
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.project import ROOT, Project
from tests.test_operations import aliases, copy_of, result_id, version_tags

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("operations")]


def printed() -> list[str]:
    """The commands of the walk, each with its continuation lines, without comments."""
    text = (ROOT / "README.md").read_text("utf-8").split("\n## A walk", 1)[1]
    block = re.search(r"\n```\n(.*?)\n```\n", text, re.DOTALL)
    assert block
    return [re.sub(r" {2,}# .*", "", command) for command in re.split(r"(?<!\\)\n", block[1])]


def test_the_walk_does_as_it_says(small_project: Project, tmp_path: Path) -> None:
    """In one shell, on the small corpus: only its languages and a free port take the place of the printed ones."""
    project = copy_of(small_project, tmp_path / "project")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    commands = printed()
    assert len(commands) >= 11
    script = []
    for command in commands:
        typed = command.replace("zh-en", "de-en").replace("localhost:8000", f"localhost:{port}")
        script.append(re.sub(r"^nmt serve ", f"nmt serve --port {port} ", typed))
        script.append('echo "@@ $?"')
    bin_folder = tmp_path / "bin"  # an `nmt` that runs the project's code, as an editable install does
    bin_folder.mkdir()
    (bin_folder / "nmt").write_text(
        f'#!/bin/sh\nexec env PYTHONPATH={project.folder}/src {sys.executable} -m nmt "$@"\n'
    )
    (bin_folder / "nmt").chmod(0o755)
    environment = project.environment()
    done = subprocess.run(
        ["bash", "-c", "\n".join(script)],
        cwd=project.folder,
        env=environment | {"PATH": f"{bin_folder}:{environment['PATH']}"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=1500,
    )
    parts = re.split(r"@@ (\d+)\n", done.stdout)
    outputs = dict(zip(commands, parts[::2], strict=False))
    statuses = dict(zip(commands, map(int, parts[1::2]), strict=True))
    expected = {command: int(command == "nmt promote plain") for command in commands}
    assert statuses == expected, done.stdout + done.stderr
    for start, said in {
        "nmt sweep": "3 trials, 3 done, 0 faults",
        "nmt leaderboard": "length_penalty=1.2",
        "nmt promote attention": "promoted, there was no champion",
        "nmt promote plain": "refused, not better than version",
    }.items():
        (output,) = (output for command, output in outputs.items() if command.startswith(start))
        assert said in output
    (answer,) = (output for command, output in outputs.items() if command.startswith("curl"))
    assert json.loads(answer.splitlines()[-1])["translations"]  # the server says before that where it answers
    assert outputs[commands[-1]].strip()
    present = result_id(project, "attention")
    assert version_tags(project, aliases(project)["champion"])["result_id"] == present
