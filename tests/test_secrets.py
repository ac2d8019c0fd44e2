"""No password, token or private address is told to anyone: in errors, in findings, in logs, in what a run keeps."""

import logging
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from nmt.commands import diagnosis
from nmt.commands.diagnosis import BROKEN, Finding, tracking
from nmt.errors import UserError, without_secrets
from nmt.tracking import links, place, provenance, publish

SECRET = "hunter2-and-more"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"http://anna:{SECRET}@tracker:5000/api", "http://tracker:5000/api"),
        (f"https://{SECRET}@example.org/repo.git", "https://example.org/repo.git"),
        (f"https://anna:{SECRET}@a@example.org/x", "https://example.org/x"),
        (f"postgresql://nmt:{SECRET}/with/slashes@db/mlflow", "postgresql://db/mlflow"),
        (
            f"postgresql+psycopg://nmt:{SECRET}@db/mlflow?sslpassword={SECRET}&x=1",
            "postgresql+psycopg://db/mlflow?sslpassword=***&x=1",
        ),
        (
            f"s3://bucket/x?X-Amz-Signature={SECRET}&AWS_ACCESS_KEY={SECRET}",
            "s3://bucket/x?X-Amz-Signature=***&AWS_ACCESS_KEY=***",
        ),
        (
            f"fatal: unable to access 'https://anna:{SECRET}@example.org/': 403",
            "fatal: unable to access 'https://example.org/': 403",
        ),
        ("models:/nmt-zh-en@attention", "models:/nmt-zh-en@attention"),
        ("http://example.org/a@b and a@b.org", "http://example.org/a@b and a@b.org"),
        ("file:///home/a@b/x", "file:///home/a@b/x"),
    ],
)
def test_addresses(text: str, shown: str) -> None:
    """User names, passwords and signatures are cut out of addresses; whatever else has an @ stays."""
    assert without_secrets(text) == shown
    assert str(UserError(f"no answer from {text}")) == f"no answer from {shown}"


@pytest.mark.parametrize(
    "name", ["MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_PASSWORD", "AWS_SECRET_ACCESS_KEY", "DB_PASSWD"]
)
def test_environment(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """What secret variables hold is cut out wherever it turns up, if it is long enough to be one."""
    monkeypatch.setenv(name, SECRET)
    assert str(UserError(f"401: the header was Bearer {SECRET}")) == "401: the header was Bearer ***"
    monkeypatch.setenv(name, "on")
    assert without_secrets("on and on") == "on and on"


def test_a_package_that_cannot_be_loaded_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the end of no other check: this is what `nmt doctor` is for."""
    broken = "libcudart.so.12: cannot open shared object file\nand so on"

    def check() -> Iterator[Finding]:
        raise ImportError(broken)
        yield

    monkeypatch.setattr(diagnosis, "CHECKS", (check, lambda: iter([Finding("ok", "next", "fine")])))
    assert list(diagnosis.diagnose()) == [
        Finding(BROKEN, "check", broken.partition("\n")[0]),
        Finding("ok", "next", "fine"),
    ]


@pytest.mark.parametrize("uri", [f"http://anna:{SECRET}@127.0.0.1:1", f"http://anna:{SECRET}@[broken"])
def test_a_tracker_that_does_not_answer(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, uri: str
) -> None:
    """Neither the error, nor the doctor, nor a stage's log has the password of its address."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("NMT_TRACKING", "on")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(place.Unavailable) as caught:
        place.probe(uri)
    assert SECRET not in str(caught.value)
    (finding,) = tracking()
    assert finding.state == BROKEN
    assert SECRET not in str(finding)
    assert SECRET not in str(Finding(BROKEN, "DVC remote", f"does not answer (https://a:{SECRET}@example.org: 401)"))
    with caplog.at_level(logging.INFO):
        publish_in_a_stage()
    assert "no answer from" in caplog.text
    assert SECRET not in caplog.text


def publish_in_a_stage() -> None:
    """What every stage ends with."""
    from nmt import tracking

    tracking.publish_model("plain", 1)


def test_failures_of_the_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """MLflow's own messages are cut likewise, and so is the address of a page."""
    assert SECRET not in publish.one_line(OSError(f"cannot reach https://anna:{SECRET}@tracker/"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://anna:{SECRET}@127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("NMT_TRACKING", "on")
    with pytest.raises(UserError) as caught:
        links.link("attention-12345678")
    assert SECRET not in str(caught.value)


def test_settings_of_dvc_are_no_part_of_a_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`dvc remote modify` writes a password into .dvc/config: its change is not logged with the local changes."""
    monkeypatch.chdir(tmp_path)
    for command in (["init", "-q"], ["config", "user.name", "Test"], ["config", "user.email", "test@example.org"]):
        subprocess.run(["git", *command], check=True)
    config, params = tmp_path / ".dvc" / "config", tmp_path / "params.yaml"
    config.parent.mkdir()
    for path in (config, params):
        path.write_text("a: 1\n")
    subprocess.run(["git", "add", "--all"], check=True)
    subprocess.run(["git", "commit", "-q", "-m", "Start"], check=True)
    config.write_text(f"password = {SECRET}\n")
    params.write_text("a: 2\n")
    checkout = provenance.read_checkout()
    assert checkout is not None
    changes = provenance.changes(checkout)
    assert b"a: 2" in changes
    assert SECRET.encode() not in changes
