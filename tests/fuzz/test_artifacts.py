"""Any truncation, any flipped bit, any other damage of any file that one stage writes and another, or a command, reads.

Sealed files (see `nmt.files`) are refused whatever was changed. So that the readers behind the seal are tried, too, and
those of files that git carries, the same damage is done to folders without a seal: there a reader may take what is
well formed, but neither fail in another way nor lose a line.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nmt import comparison, files, leaderboard, lockfile, paths, records, runs, study_table, testset, tracking
from nmt.batching import ParallelText, TokenStore
from nmt.bundle import FILES, load_bundle
from nmt.config import load_params
from nmt.decoding import Decoding
from nmt.decodings import read_decodings
from nmt.errors import UserError
from nmt.gold import read_gold
from nmt.html_report import tables
from nmt.stages import prepare, tokenize, translate
from nmt.stages.report import read_shown
from nmt.subwords import Subwords
from tests import page_project
from tests.bundles import write_bundle
from tests.fuzz.harness import REFUSED, attempt, damaged, flipped, fuzzed, overwrite, some
from tests.project import ROOT, edit_yaml

CPU = torch.device("cpu")
SENTENCES = ["我喜欢吃苹果。", "你今天好吗?", "他们在学校学习汉语。", "天气很好,我们去公园吧!"]


class Artifact(NamedTuple):
    """A file, and what reads it."""

    path: Path
    read: Callable[[], Any]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, page_folder: Path) -> Iterator[Path]:
    """The present folder: a page's project, and beside it what a real `translate` and `tokenize` wrote."""
    folder = Path(shutil.copytree(page_folder, tmp_path_factory.mktemp("artifacts") / "project"))
    with pytest.MonkeyPatch.context() as monkeypatch:
        page_project.enter(folder, monkeypatch)
        monkeypatch.setattr(tracking, "publish_model", lambda variant, seed: None)
        edit_yaml(paths.PARAMS, {"translate.beam_size": 2, "translate.n_best": 2, "translate.joined": [2]})
        make_real(folder)
        yield folder


def make_real(folder: Path) -> None:
    """A model, the token stores of a text, and the translations of some sentences, in a folder `real`."""
    real = folder / "real"
    real.mkdir()
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(real)
        shutil.copy(folder / paths.PARAMS, real)
        write_bundle(paths.bundle("attention", 1), "additive")
        with files.fresh_folder(paths.PREPARED) as prepared:
            write_prepared(prepared)
        edit_yaml(paths.PARAMS, {"tokenize.source.vocabulary": 300, "tokenize.target.vocabulary": 300})
        tokenize.main()
        files.write_json_lines(paths.gold_links("tatoeba-zh-en"), GOLD)
        pipeline = "stages: {translate: {params: [translate], deps: [data, 'models/${item.variant}']}}"
        files.write_text(paths.PIPELINE, pipeline)
        translate.main("attention", 1)


GOLD = [{"id": "0", "sure": [[0, 1, 0, 1]], "possible": [[1, 2, 0, 1]]}]


def write_prepared(folder: Path) -> None:
    """What `prepare` writes."""
    lines = {"source": SENTENCES, "target": [f"This is number {n}." for n, _ in enumerate(SENTENCES)]}
    for split in paths.SPLITS:
        for side, text in lines.items():
            files.write_lines(folder / paths.prepared_text(split, side).name, text * (10 if split == "train" else 1))
    rows = [
        {"id": str(n), "source": source, "references": [target], "source_id": None, "reference_ids": []}
        for n, (source, target) in enumerate(zip(lines["source"], lines["target"], strict=True))
    ]
    files.write_json_lines(folder / "test.jsonl", rows)


def artifacts(folder: Path) -> dict[str, Artifact]:
    """Every kind, by name; `paths` spells where they lie."""
    real = folder / "real"
    params = load_params()
    bundle = real / paths.bundle("attention", 1)
    found = {f"bundle: {name}": Artifact(bundle / name, lambda: load_bundle(bundle, CPU) and None) for name in FILES}
    found["bundle: seal"] = Artifact(bundle / files.SEAL, lambda: load_bundle(bundle, CPU) and None)
    for kind in ("ids", "offsets"):
        stem = real / paths.token_store("train", "source")
        found[f"token store: {kind}"] = Artifact(stem.with_name(f"{stem.name}.{kind}.npy"), lambda: read_store(real))
    subwords = real / paths.subword_model("source")
    found["subword model"] = Artifact(subwords, lambda: read_subwords(subwords))
    translations = real / paths.translations("attention", 1)
    for name in ("hypotheses.jsonl", "references.jsonl", "attention.npz", "erasure.npz", "references.gradient.npz"):
        found[name] = Artifact(
            translations / name, lambda: inside(real, lambda: read_decodings("attention", 1, True, params.corpus))
        )
    for name in ("hypotheses.txt", "references.jsonl", "joined.jsonl", "ablation.uniform.txt"):
        found[f"to score: {name}"] = Artifact(translations / name, lambda: inside(real, read_translations))
    found["test set"] = Artifact(real / paths.prepared_records("test"), lambda: inside(real, testset.read_sentences))
    for side in paths.SIDES:
        found[f"test {side}"] = Artifact(
            real / paths.prepared_text("test", side), lambda: inside(real, translate.read_test_set)
        )
    gold = real / paths.gold_links("tatoeba-zh-en")
    found["gold links"] = Artifact(gold, lambda: read_gold(gold))
    for name in ("history.csv", "summary.json"):
        found[f"training: {name}"] = Artifact(folder / paths.training_report("plain", 1) / name, read_all_runs)
    found["scores"] = Artifact(folder / paths.scores("plain", 1), read_all_runs)
    together = folder / paths.scores("plain", paths.ENSEMBLE)
    files.write_json(together, files.read_json(folder / paths.scores("plain", 1)) | {"seeds": [1]})
    found["ensemble's scores"] = Artifact(together, lambda: records.read_one(together, records.EnsembleScores))
    for name in ("words.jsonl", "suspects.csv"):
        path = folder / paths.attention_report("attention", 1) / name
        found[name] = Artifact(path, lambda: read_shown("attention", "additive", 1))
    summary = folder / paths.attention_report("attention", 1) / "summary.json"
    found["analysis"] = Artifact(summary, lambda: (read_all_runs(), read_analysis(summary)))
    lock = folder / paths.LOCK
    shutil.copy(ROOT / paths.LOCK, lock)
    found["dvc.lock"] = Artifact(lock, lambda: lockfile.outputs(lockfile.parse(files.read_text(lock))))
    decoding = bundle / "decoding.json"
    files.write_json(decoding, Decoding.of(params.translate).model_dump())
    found["decoding.json"] = Artifact(decoding, lambda: Decoding.beside(bundle))
    board = folder / paths.LEADERBOARD
    files.write_csv(board, [dict.fromkeys(leaderboard.TEXT_COLUMNS, "a") | {"bleu": 1.5, "bleu_low": 1.0}] * 2)
    found["leaderboard"] = Artifact(board, lambda: leaderboard.from_csv(files.read_text(board)))
    table = folder / paths.study_table(paths.INGREDIENTS)
    found["study"] = Artifact(
        table, lambda: tables.study(study_table.from_csv(files.read_csv(table, study_table.COLUMNS)), ["plain"])
    )
    return found


NAMES = [
    *(f"bundle: {name}" for name in (*FILES, "seal")),
    *("token store: ids", "token store: offsets", "subword model"),
    *("hypotheses.jsonl", "references.jsonl", "attention.npz", "erasure.npz", "references.gradient.npz"),
    *(f"to score: {name}" for name in ("hypotheses.txt", "references.jsonl", "joined.jsonl", "ablation.uniform.txt")),
    *("test set", "test source", "test target", "gold links", "training: history.csv", "training: summary.json"),
    *(
        "scores",
        "ensemble's scores",
        "words.jsonl",
        "suspects.csv",
        "analysis",
        "dvc.lock",
        "decoding.json",
        "leaderboard",
        "study",
    ),
]


def inside(folder: Path, work: Callable[[], Any]) -> Any:
    """What the work returns in another folder."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)
        return work()


def read_subwords(path: Path) -> Any:
    """A sentence there and back."""
    subwords = Subwords.load(path)
    (ids,) = subwords.encode([SENTENCES[0]])
    return subwords.size, subwords.pieces(ids), subwords.decode([ids])


def read_store(real: Path) -> Any:
    """The batches of a training text."""
    stores = [TokenStore.open(real / paths.token_store("train", side)) for side in paths.SIDES]
    text = ParallelText(*stores)
    return [text.batch(examples).outputs_BT.tolist() for examples in text.plan(100)]


def read_translations() -> Any:
    """What `evaluate` reads."""
    return testset.read_translations("attention", 1, testset.read_sentences())


def read_all_runs() -> Any:
    """What `compare` reads, as the tables that it writes."""
    found = runs.read_runs(load_params(), testset.read_sentences())
    tables = (runs.curves, runs.by_length, runs.joined, runs.by_frequency, runs.ablations, runs.alignment)
    return [table(found) for table in tables], [comparison.summarise(several) for several in found.values()]


def read_analysis(path: Path) -> Any:
    """What `report` reads, as the tables of its page."""
    analysis = records.read_one(path, records.Analysis)
    kinds = {"alignment": tables.alignment, "influence": tables.influence}
    return [make({"attention": analysis[kind]}) for kind, make in kinds.items() if analysis.get(kind)]


class Damage:
    """One artifact with other content, until the block ends."""

    def __init__(self, artifact: Artifact, content: bytes, *, sealed: bool) -> None:
        self.artifact, self.content = artifact, content
        self.before = artifact.path.read_bytes()
        self.seal = artifact.path.with_name(files.SEAL)
        self.sealed = sealed or not self.seal.exists() or self.seal == artifact.path

    def __enter__(self) -> None:
        self.seal_before = self.seal.read_bytes() if self.seal.exists() else None
        overwrite(self.artifact.path, self.content)
        if not self.sealed:
            files.seal(self.artifact.path.parent)

    def __exit__(self, *_: object) -> None:
        overwrite(self.artifact.path, self.before)
        if self.seal_before is not None:
            overwrite(self.seal, self.seal_before)


SEALED = [
    name
    for name in NAMES
    if name.startswith(("bundle", "token", "subword", "test")) or "ences" in name or "eses" in name
]


def test_every_kind_is_read(project: Path) -> None:
    """As they were written, all can be read; and the files that stages write as a folder are sealed."""
    kinds = artifacts(project)
    assert list(kinds) == NAMES
    for name, artifact in kinds.items():
        assert attempt(artifact.read) is not REFUSED, name
        assert artifact.path.with_name(files.SEAL).exists() or name not in SEALED, name


@pytest.mark.parametrize("name", NAMES)
def test_any_damage(project: Path, name: str) -> None:
    """Sealed: refused. Without a seal: refused, or read as what it now is."""
    artifact = artifacts(project)[name]
    content = artifact.path.read_bytes()

    @fuzzed(few=6)
    @given(other=damaged(content), sealed=st.booleans())
    def any_damage(other: bytes, sealed: bool) -> None:
        with Damage(artifact, other, sealed=sealed):
            found = attempt(artifact.read)
        if sealed and name in SEALED and other != content:
            assert found is REFUSED

    any_damage()


HEADERS = {
    "bundle: model.safetensors": None,
    "token store: ids": 128,
    "token store: offsets": 128,
    "attention.npz": 200,
}
"""Bytes of the header; None: as many as its first eight say."""


@pytest.mark.parametrize("name", HEADERS)
def test_each_byte_of_a_header(project: Path, name: str) -> None:
    """Each one flipped, whole and by a bit: refused by the seal, and without it by the reader, or read."""
    artifact = artifacts(project)[name]
    content = artifact.path.read_bytes()
    size = HEADERS[name] or 8 + int.from_bytes(content[:8], "little")
    for place in some(range(size)):
        for mask in (0xFF, 1 << place % 8):
            other = content[:place] + bytes([content[place] ^ mask]) + content[place + 1 :]
            with Damage(artifact, other, sealed=True):
                assert attempt(artifact.read) is REFUSED
            with Damage(artifact, other, sealed=False):
                attempt(artifact.read)


@pytest.mark.parametrize("name", NAMES)
def test_other_values(project: Path, name: str) -> None:
    """JSON that is well formed, with other values anywhere."""
    artifact = artifacts(project)[name]
    if artifact.path.suffix not in (".json", ".jsonl"):
        return
    lines = artifact.path.read_text().splitlines() if artifact.path.suffix == ".jsonl" else [artifact.path.read_text()]

    @fuzzed(few=6)
    @given(data=st.data())
    def other_values(data: st.DataObject) -> None:
        number = data.draw(st.integers(0, len(lines) - 1))
        value = json.loads(lines[number])
        changed = [*lines[:number], json.dumps(replaced(data.draw, value)), *lines[number + 1 :]]
        with Damage(artifact, ("\n".join(changed) + "\n").encode(), sealed=False):
            attempt(artifact.read)

    other_values()


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def replaced(draw: Callable[..., Any], value: Any) -> Any:
    """A JSON value with another one somewhere."""
    if isinstance(value, dict | list) and value and draw(st.integers(0, 5)):
        inside = value.copy()
        key = draw(st.sampled_from(list(value) if isinstance(value, dict) else range(len(value))))
        inside[key] = replaced(draw, value[key])
        return inside
    return draw(anything)


def test_a_flipped_bit_inside_weights_is_seen(project: Path) -> None:
    """A model that is a bit other, in the middle of a number, is none that was trained."""
    artifact = artifacts(project)["bundle: model.safetensors"]
    content = artifact.path.read_bytes()
    with Damage(artifact, flipped(content, len(content) - 100, 0), sealed=True):
        assert attempt(artifact.read) is REFUSED


def test_damaged_data_end_prepare(project: Path) -> None:
    """Raw data that changed since `fetch` checked it are not what the catalogue pins."""
    raw = project / "real" / paths.RAW
    with files.fresh_folder(raw) as folder:
        files.write_bytes(folder / "tatoeba.tsv", b"1\t\xe7\x8c\xab\t2\tcat\n")
    shutil.copytree(ROOT / "data" / "gold", project / "real" / "data" / "gold", dirs_exist_ok=True)
    shutil.copy(ROOT / paths.CORPORA, project / "real" / paths.CORPORA)
    (raw / "tatoeba.tsv").write_bytes(b"1\t\xe7\x8c\xaa\t2\tcat\n")
    with pytest.raises(UserError, match="is not as it was written"):
        inside(project / "real", prepare.main)
