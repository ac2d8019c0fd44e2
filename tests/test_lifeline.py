"""A process that ends with its parent, however that ended, and work that one process does at a time."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from nmt import files, lifeline, paths, unfinished

SOURCES = str(Path(lifeline.__file__).parents[1])

PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]])
print(child.pid, flush=True)
time.sleep(60)
"""
CHILD = """
import ctypes, signal, sys, time
from nmt import lifeline
lifeline.GRACE_SECONDS = 0.5
{before}
lifeline.end_with_parent()
print("ready", flush=True)
time.sleep(60)
"""
CASES = {
    "": "Linux's signal",
    "lifeline.sys.platform = 'other'": "the look at the parent",
    "signal.signal(signal.SIGTERM, lambda *_: None)": "the kill after a while",
}


@pytest.mark.parametrize("before", CASES, ids=CASES.values())
def test_a_child_ends_with_its_parent(before: str) -> None:
    """`kill -9` of the parent alone; by each of the ways, also a child that does not heed SIGTERM."""
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT, CHILD.format(before=before)],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": SOURCES},
        text=True,
    )
    assert process.stdout
    orphan = psutil.Process(int(process.stdout.readline()))
    assert process.stdout.readline() == "ready\n"
    process.kill()
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 30
    while orphan.is_running() and orphan.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "it lives on"
        time.sleep(0.05)


def test_one_process_works_at_a_time(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The second waits, says so, and goes on when the first is killed."""
    program = (
        "import time; from pathlib import Path; from nmt import unfinished\n"
        "with unfinished.alone(Path('x.lock'), 'busy'): print('mine', flush=True); time.sleep(60)\n"
    )
    environment = os.environ | {"PYTHONPATH": SOURCES}
    command = [sys.executable, "-c", program]
    first = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, env=environment)
    assert first.stdout
    assert first.stdout.readline() == b"mine\n"
    second = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    assert second.stdout
    assert second.stderr
    assert second.stderr.readline() == b"waiting: busy\n"
    first.kill()
    assert second.stdout.readline() == b"mine\n"
    second.kill()
    for process in (first, second):
        process.communicate()


def test_work_stays_until_dvc_has_its_outcome(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unfinished work, and finished work that dvc.lock does not name with these bytes, is kept; the rest goes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    output = Path("out")
    files.write_text(output / "b/file", "content")
    files.write_text(output / "a", "other")
    with unfinished.work("train", "begun") as begun:
        files.write_text(begun / "state", "half")
    with unfinished.work("train", "ended") as ended:
        unfinished.done(ended, output)
    unfinished.clear()
    for md5, kept in (("0" * 32 + ".dir", True), (DVC_MD5, False)):
        entry = f"stages: {{train: {{cmd: x, outs: [{{path: out, md5: {md5}}}]}}}}\n"
        files.write_text(paths.LOCK, entry)
        with unfinished.work("train", "ended"):
            unfinished.clear()
            assert ended.exists(), "somebody is at it"
        unfinished.clear()
        assert ended.exists() == kept
    assert (begun / "state").exists()
    for damaged in ("", "[]", '{"output": 1}'):
        files.write_text(begun / "outcome.json", damaged)
        unfinished.clear()
        assert (begun / "state").exists()
    files.write_text(paths.LOCK, "stages:\n  train:\n    cmd: [")  # DVC is writing it at this moment
    unfinished.clear()
    assert (begun / "state").exists()
    files.write_text(paths.LOCK, "stages: {}\n")
    os.utime(begun, (time.time() - 31 * 24 * 3600,) * 2)
    unfinished.clear()
    assert not begun.exists(), "nobody has gone on with it for a month"


DVC_MD5 = "c3048cbb53d6eca8edf41b9a2716ac91.dir"
"""What `dvc add` gives a folder of these two files."""
