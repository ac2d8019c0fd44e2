"""What `nmt reproduce` takes from the project's cache; the whole of it is in test_operations.py."""

import hashlib
import json
from pathlib import Path

import pytest

from nmt import files, paths, reproduction
from nmt.repository import dvc
from tests.synthetic_results import git


@pytest.mark.parametrize("listing", ["whole", "cut off", "of another kind", "gone"])
def test_a_harmed_corpus_is_left_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listing: str) -> None:
    """It is downloaded then, and no error; a whole one is copied, file by file."""
    monkeypatch.chdir(tmp_path)
    git("init", "--quiet")
    dvc("init", "--quiet")
    cache = Path(".dvc", "cache", "files", "md5")

    def put(content: str, kind: str = "") -> tuple[str, Path]:
        md5 = hashlib.md5(content.encode()).hexdigest() + kind
        files.write_text(cache / md5[:2] / md5[2:], content)
        return md5, cache / md5[:2] / md5[2:]

    text, _ = put("猫\tcat\n")
    folder, place = put(json.dumps([{"md5": text, "relpath": "corpus.tsv"}]), ".dir")
    if listing == "gone":
        place.unlink()
    elif listing != "whole":
        place.write_text({"cut off": '[{"md5": "', "of another kind": '["a", 1]'}[listing])
    clone = tmp_path / "clone"
    recorded = {"fetch": {"cmd": "fetch", "outs": [{"path": "data/raw", "md5": folder}]}}
    reproduction._reuse_corpus(recorded, clone)
    copied = sorted(path.relative_to(clone / cache).as_posix() for path in (clone / cache).rglob("*") if path.is_file())
    whole = sorted(f"{md5[:2]}/{md5[2:]}" for md5 in (text, folder))
    assert copied == (whole if listing == "whole" else [])
    assert (clone / paths.LOCK).exists() == (listing == "whole")
