"""The three stages of the data, run on small corpora, and the test set that all published scores are on."""

import gzip
import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nmt import paths
from nmt.batching import TokenStore
from nmt.config import load_params
from nmt.corpus import identity_keys
from nmt.distributed import Team
from nmt.errors import UserError
from nmt.files import SEAL, read_json, read_json_lines, read_lines
from nmt.runtime import resolve
from nmt.stages import fetch, prepare, tokenize, train
from nmt.subwords import Subwords
from tests.project import ROOT, edit_yaml

TATOEBA_TEST_IDS = "09ef3e688e88df844e0f15cc39d1ff2d9f2d63f244061404c320521fe53041d7"
"""sha256 of the sorted ids of Tatoeba's test pairs, one a line: scores on another test set are other scores."""

TATOEBA_SPLIT = {
    "corpus": {"name": "tatoeba-zh-en", "source": "zh", "target": "en"},
    "test_pairs": 2000,
    "dev_pairs": 1500,
    "split_seed": 1,
    "length_strata": 10,
    "max_component_share": 0.01,
    "unicode": {"source": "NFKC", "target": "NFC"},
}
"""The parameters that this test set follows from."""

DIGITS = "零一二三四五六七八九"
WORDS = "zero one two three four five six seven eight nine".split()


def number_pairs(count: int) -> list[tuple[str, str, str, str]]:
    """Rows of ids and sentences: numbers in Chinese and English, and for every fifth a second translation."""
    rows = []
    for number in range(count):
        chinese = "我數：" + "".join(DIGITS[int(digit)] for digit in str(number)) + "。"
        words = " ".join(WORDS[int(digit)] for digit in str(number))
        rows.append((str(number), chinese, str(2 * number), f"I count {words}."))
        if number % 5 == 0:
            rows.append((str(number), chinese, str(2 * number + 1), f"Counting {words}!"))
    return rows


class Workspace:
    """A folder with params and a catalogue, in which stages run."""

    def __init__(self, folder: Path) -> None:
        (folder / "data").mkdir()
        for path in (paths.PARAMS, paths.CORPORA):
            (folder / path).write_bytes((ROOT / path).read_bytes())
        self.folder = folder
        self.set_params({"corpus.name": "local", "prepare.test_pairs": 20, "prepare.dev_pairs": 10})
        self.set_params({"tokenize.source.vocabulary": 300, "tokenize.target.vocabulary": 300})

    def set_params(self, values: Mapping[str, object]) -> None:
        """Write dotted keys into params.yaml."""
        edit_yaml(self.folder / paths.PARAMS, values)

    def write_local(self, content: bytes, columns: list[str], *, pinned: bool = True) -> None:
        """Put the user's file at its place."""
        (self.folder / "data" / "local.tsv").write_bytes(content)
        sha256 = hashlib.sha256(content).hexdigest() if pinned else None
        pin = {"path": "data/local.tsv", "sha256": sha256}
        edit_yaml(self.folder / paths.CORPORA, {"local.files": {"local.tsv": pin}, "local.layout.columns": columns})

    def write_numbers(self, rows: list[tuple[str, str, str, str]]) -> None:
        """Have `rows` as the user's file."""
        self.write_local("".join("\t".join(row) + "\n" for row in rows).encode(), ["zh_id", "zh", "en_id", "en"])


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """An empty workspace, which is the working directory."""
    monkeypatch.chdir(tmp_path)
    return Workspace(tmp_path)


def run_stages() -> dict[str, bytes]:
    """Run all three; return what they wrote, by path."""
    for stage in (fetch, prepare, tokenize):
        stage.main()
    folders = (paths.RAW, paths.PREPARED, paths.TOKENIZED, paths.REPORTS)
    return {str(path): path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()}


def test_from_raw_to_tokens(workspace: Workspace) -> None:
    """Every file is there, parallel, and holds what its name says."""
    workspace.write_numbers(number_pairs(200))
    written = run_stages()
    assert written["data/raw/local.tsv"] == (workspace.folder / "data/local.tsv").read_bytes()
    report = read_json(paths.CORPUS_REPORT)
    assert {part: report["pairs"][part] for part in ("read", "test", "dev")} == {"read": 240, "test": 20, "dev": 10}
    assert sum(report["pairs"].values()) + sum(report["dropped_from_train"].values()) == 2 * report["pairs"]["read"]
    for part in paths.SPLITS:
        lengths = {len(read_lines(paths.prepared_text(part, side))) for side in paths.SIDES}
        assert lengths == {report["pairs"][part]}
    for part in ("train", "dev"):
        for side in paths.SIDES:
            subwords, store = Subwords.load(paths.subword_model(side)), TokenStore.open(paths.token_store(part, side))
            lines = read_lines(paths.prepared_text(part, side))
            assert subwords.decode([store[row].tolist() for row in range(len(store))]) == lines
    tokenization = read_json(paths.TOKENIZATION_REPORT)
    assert tokenization["source"]["dev"]["sentences"] == 10
    assert "pieces_per_character" in tokenization["source"]["train"]
    assert "pieces_per_word" in tokenization["target"]["train"]


def test_records_of_the_test_set(workspace: Workspace) -> None:
    """Line by line with the text: raw source, all translations of it, first the pair's own, with their ids."""
    workspace.write_numbers(number_pairs(200))
    run_stages()
    rows = {(source, target): text for source, _, target, text in number_pairs(200)}
    records = read_json_lines(paths.prepared_records("test"))
    texts = read_lines(paths.prepared_text("test", "target"))
    for record, text in zip(records, texts, strict=True):
        assert record["id"] == f"{record['source_id']}-{record['reference_ids'][0]}"
        assert record["references"] == [rows[record["source_id"], target] for target in record["reference_ids"]]
        assert record["references"][0] == text
        assert len(record["references"]) == 1 + (int(record["source_id"]) % 5 == 0)
        assert record["source"].startswith("我數：")
    assert read_json(paths.CORPUS_REPORT)["test_references"]["most"] == 2


def test_no_sentence_of_dev_or_test_in_train(workspace: Workspace) -> None:
    """The files themselves share no identity key, on either side; so does the report say."""
    workspace.write_numbers(number_pairs(200))
    run_stages()
    for side, language in zip(paths.SIDES, ("zh", "en"), strict=True):
        keys = {
            part: set(identity_keys(read_lines(paths.prepared_text(part, side)), language)) for part in paths.SPLITS
        }
        assert not keys["train"] & (keys["dev"] | keys["test"])
        assert not keys["dev"] & keys["test"]
    report = read_json(paths.CORPUS_REPORT)
    assert report["leaks"]["test"] == {"source": 0, "target": 0, "either": 0}
    assert report["leaks_of_a_random_split"]["test"]["either"] > 0


def test_same_bytes_whatever_the_order_of_rows(workspace: Workspace) -> None:
    """A second run gives every byte again, and so does a file with its rows shuffled."""
    rows = number_pairs(120)
    workspace.write_numbers(rows)
    first = run_stages()
    random.Random(1).shuffle(rows)
    workspace.write_numbers(rows)
    second = run_stages()
    for name in ("local.tsv", SEAL):
        assert first.pop(f"data/raw/{name}") != second.pop(f"data/raw/{name}")
    assert first == second


def test_chinese_references_are_simplified(workspace: Workspace) -> None:
    """In the other direction the references are simplified, nothing else of them is touched, and the report says so."""
    workspace.write_numbers(number_pairs(200))
    workspace.set_params({"corpus.source": "en", "corpus.target": "zh"})
    run_stages()
    record = read_json_lines(paths.prepared_records("test"))[0]
    assert record["references"][0].startswith("我数：")
    assert read_json(paths.CORPUS_REPORT)["references_simplified"] is True


def test_a_split_of_its_own_is_kept(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Multi30k's layout: order and parts stay, train is filtered, and a sentence of test in train is counted."""
    mirror = workspace.folder / "mirror"
    mirror.mkdir()
    lines = {
        "train": [(f"Hund {n}", f"dog {n}") for n in range(50)] + [("Katze 2", "cat 2")] * 2,
        "val": [(f"Maus {n}", f"mouse {n}") for n in range(5)],
        "test_2016_flickr": [("Katze 2.", "A cat, two"), ("Pferd", "horse"), ("Pferd", "horse")],
    }
    pins = {}
    for part, pairs in lines.items():
        for column, language in enumerate(("de", "en")):
            content = gzip.compress("".join(pair[column] + "\n" for pair in pairs).encode(), mtime=0)
            (mirror / f"{part}.{language}.gz").write_bytes(content)
            key = f"{part}.{language}.gz"
            pins[key] = {"url": f"https://unknown.invalid/{key}", "sha256": hashlib.sha256(content).hexdigest()}
    edit_yaml(workspace.folder / paths.CORPORA, {"multi30k-de-en.files": pins})
    workspace.set_params({"corpus": {"name": "multi30k-de-en", "source": "de", "target": "en"}})
    monkeypatch.setenv("NMT_MIRROR", str(mirror))
    run_stages()
    assert read_lines(paths.prepared_text("test", "source")) == ["Katze 2.", "Pferd", "Pferd"]
    records = read_json_lines(paths.prepared_records("test"))
    assert records[0] == {
        "id": "test-000001",
        "source": "Katze 2.",
        "references": ["A cat, two"],
        "source_id": None,
        "reference_ids": [],
    }
    report = read_json(paths.CORPUS_REPORT)
    assert report["leaks"]["test"] == {"source": 1, "target": 0, "either": 1}
    assert report["dropped_from_train"]["duplicate"] == 1
    assert report["split"] == "the corpus's own"


def test_sides_that_say_nothing_stay_out_of_dev_and_test(workspace: Workspace) -> None:
    """A pair whose side is a zero-width space is counted as empty, and links nothing."""
    rows = number_pairs(40)
    rows += [(str(1000 + number), "\u200b", str(1000 + number), f"Nothing {number}") for number in range(60)]
    workspace.write_numbers(rows)
    workspace.set_params({"prepare.max_component_share": 1.0})
    run_stages()
    report = read_json(paths.CORPUS_REPORT)
    assert report["dropped_from_train"]["empty"] == 60
    assert report["components"]["largest_pairs"] == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the corpus is empty"),
        ("你好\tHello\n再见\n".encode(), "line 2: 1 columns instead of 2"),
        ("你好\tHello\n再见\t\n".encode(), "line 2: the side 'en' is missing"),
        ("你好\tHello\n".encode("utf-16"), "line 1 .* is not UTF-8"),
    ],
)
def test_fetch_leaves_nothing_of_bad_text(workspace: Workspace, content: bytes, message: str) -> None:
    """One error, no data/raw, no leftovers; what was there before stays."""
    workspace.write_local("你好\tHello\n".encode(), ["zh", "en"])
    fetch.main()
    before = paths.RAW.joinpath("local.tsv").read_bytes()
    workspace.write_local(content, ["zh", "en"])
    with pytest.raises(UserError, match=message):
        fetch.main()
    assert paths.RAW.joinpath("local.tsv").read_bytes() == before
    assert {path.name for path in Path("data").iterdir()} == {"corpora.yaml", "local.tsv", "raw"}


def test_an_unpinned_file_tells_its_checksum(workspace: Workspace) -> None:
    """The error says what to write where."""
    content = "你好\tHello\n".encode()
    workspace.write_local(content, ["zh", "en"], pinned=False)
    with pytest.raises(UserError, match=f"data/corpora.yaml to {hashlib.sha256(content).hexdigest()}"):
        fetch.main()
    assert not paths.RAW.exists()


def test_too_small_a_corpus(workspace: Workspace) -> None:
    """The error names the parameters; nothing is written."""
    workspace.write_numbers(number_pairs(25))
    fetch.main()
    with pytest.raises(UserError, match=r"set prepare\.test_pairs and prepare\.dev_pairs"):
        prepare.main()
    assert not paths.PREPARED.exists()
    assert not paths.CORPUS_REPORT.exists()


def test_filters_that_leave_nothing(workspace: Workspace) -> None:
    """The error counts the reasons."""
    workspace.write_numbers(number_pairs(60))
    workspace.set_params({"prepare.train_filters.max_length": 1})
    fetch.main()
    with pytest.raises(UserError, match=r"no train pair is left \(too_long \d+\); loosen"):
        prepare.main()


@pytest.mark.parametrize(("cut", "sides"), [("both", paths.SIDES), ("source", ["source"]), ("target", ["target"])])
def test_each_segmentation_is_another_of_the_same_text(workspace: Workspace, cut: str, sides: Sequence[str]) -> None:
    """Those that were asked for lie beside the best one, which is as ever; training reads them, epoch by epoch.

    A side that is not cut at random has the best one alone, and every epoch reads that.
    """
    workspace.write_numbers(number_pairs(200))
    alone = {path: content for path, content in run_stages().items() if path.startswith(str(paths.TOKENIZED))}
    workspace.set_params({"tokenize.sampling.segmentations": 2, "tokenize.sampling.side": cut})
    tokenize.main()
    changed = {path for path in alone if Path(path).read_bytes() != alone[path]}
    assert changed == {str(paths.TOKENIZED / SEAL)}
    report = read_json(paths.TOKENIZATION_REPORT)
    for side in sides:
        subwords, lines = Subwords.load(paths.subword_model(side)), read_lines(paths.prepared_text("train", side))
        stores = [TokenStore.open(paths.training_store(side, number)) for number in range(3)]
        texts = [[store[row].tolist() for row in range(len(store))] for store in stores]
        assert all(subwords.decode(text) == lines for text in texts)
        assert texts[0] != texts[1] != texts[2] != texts[0]
        assert report[side]["train.sample-1"]["pieces"] == len(stores[1].ids) > report[side]["train"]["pieces"]
    drawn = {(side, name) for side in paths.SIDES for name in report[side] if name.startswith("train.sample-")}
    assert drawn == {(side, f"train.sample-{number}") for side in sides for number in (1, 2)}
    assert len(list(paths.TOKENIZED.glob("*.sample-*.ids.npy"))) == len(drawn)
    params = load_params()
    trainer = train.make_trainer(params, "plain", 1, resolve(params.runtime), Team(1))
    for epoch in range(4):
        text = trainer.train.in_epoch(epoch)
        numbers = [epoch % 3 if side in sides else 0 for side in paths.SIDES]
        expected = [TokenStore.open(paths.training_store(*of)) for of in zip(paths.SIDES, numbers, strict=True)]
        assert np.array_equal(text.source.ids, expected[0].ids)
        assert np.array_equal(text.target.ids, expected[1].ids)


def test_a_joint_model_knows_both_sides(workspace: Workspace) -> None:
    """One model spells both languages without bytes, both sides' stores are in its pieces; embeddings may be one."""
    workspace.write_numbers(number_pairs(200))
    one = {"kind": "unigram", "vocabulary": 340, "character_coverage": 1.0}
    workspace.set_params({"tokenize.source": one, "tokenize.target": one, "tokenize.joint": True})
    workspace.set_params({"model.tie_embeddings": True})
    run_stages()
    joint = Subwords.load(paths.subword_model("source"))
    assert joint.content == Subwords.load(paths.subword_model("target")).content
    report = read_json(paths.TOKENIZATION_REPORT)
    for side in paths.SIDES:
        store = TokenStore.open(paths.token_store("train", side))
        lines = read_lines(paths.prepared_text("train", side))
        assert joint.decode([store[row].tolist() for row in range(len(store))]) == lines
        assert report[side]["train"]["byte_pieces_share"] == 0.0
    params = load_params()
    model = train.make_trainer(params, "attention", 1, resolve(params.runtime), Team(1)).model
    assert model.source_embedding.weight is model.target_embedding.weight is model.output.weight


def test_too_few_pieces_name_their_side(workspace: Workspace) -> None:
    """The error of the tokenizer says which parameter is meant."""
    rows = [(str(n), chr(0x4E00 + n) + chr(0x5E00 + n), str(n), f"Sign {n}") for n in range(200)]
    workspace.write_numbers(rows)
    with pytest.raises(UserError, match=r"params\.yaml, tokenize\.source: 300 pieces are too few"):
        run_stages()
    assert not paths.TOKENIZED.exists()


def test_reports_say_nothing_of_the_machine(workspace: Workspace) -> None:
    """No path of this machine stands in what goes into git, and JSON is JSON."""
    workspace.write_numbers(number_pairs(120))
    written = run_stages()
    for name in map(str, (paths.CORPUS_REPORT, paths.TOKENIZATION_REPORT)):
        assert str(workspace.folder).encode() not in written[name]
        json.loads(written[name])


def test_the_published_test_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """The committed report is of the pinned test pairs, as long as the parameters are those that they follow from."""
    monkeypatch.chdir(ROOT)
    params = load_params()
    split: dict[str, Any] = params.prepare.model_dump(exclude={"train_filters"})
    if split | {"corpus": params.corpus.model_dump()} == TATOEBA_SPLIT:
        assert read_json(paths.CORPUS_REPORT)["test_ids_sha256"] == TATOEBA_TEST_IDS
