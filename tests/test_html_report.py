"""The page as a file: what stands in it and what does not, and that the same results give the same bytes."""

import base64
import hashlib
import html
import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nmt import files, identity, paths, reporting
from nmt.errors import UserError
from nmt.html_report import charts, explorer
from nmt.html_report.charts import Line
from nmt.html_report.explorer import Shown
from nmt.html_report.weave import weave
from nmt.stages import report
from tests import page_project
from tests.page_project import CROSSED, EVIL, NULL, PAIRS
from tests.project import edit_yaml


class Page(HTMLParser):
    """The elements of a page in order, each with its attributes and the text directly in it."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[int, str] = {}
        self.feed(text)
        self.close()

    def handle_endtag(self, tag: str) -> None:
        self.elements.append(("", {}))  # what follows is not its text

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        place = len(self.elements) - 1
        self.texts[place] = self.texts.get(place, "") + data

    def inside(self, tag: str) -> list[str]:
        return [self.texts.get(place, "") for place, (name, _) in enumerate(self.elements) if name == tag]


@pytest.fixture
def page(page_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The page of a project whose copy is the current folder."""
    shutil.copytree(page_folder, tmp_path, dirs_exist_ok=True)
    page_project.enter(tmp_path, monkeypatch)
    return files.read_text(paths.PAGE)


def data(text: str) -> dict[str, Any]:
    """What the page's script reads."""
    content: dict[str, Any] = json.loads(Page(text).inside("script")[0])
    return content


def test_same_results_same_bytes(page: str) -> None:
    """A second run writes the same page, and no path of this machine stands in it."""
    report.main()
    assert files.read_text(paths.PAGE) == page
    assert str(Path.cwd()) not in page


def test_the_page_asks_for_nothing(page: str) -> None:
    """Nothing but links that a reader may follow leads out of it, and its policy allows its own code alone."""
    elements = Page(page).elements
    assert "link" in dict(elements)
    for tag, attributes in elements:
        assert "style" not in attributes, "the policy would drop it"
        assert not [name for name in attributes if name.startswith("on")]
        for name in {"src", "srcset", "href", "action", "data"} & set(attributes):
            assert tag == "a" or (attributes[name] or "").startswith(("data:", "#")), (tag, attributes)
    assert not re.findall(r"url\(|@import", Page(page).inside("style")[0])
    [policy] = [a["content"] for tag, a in elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    for tag, code in (("style", Page(page).inside("style")[0]), ("script", Page(page).inside("script")[1])):
        digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_the_page_tells_its_comparison(page: str) -> None:
    """So that nobody takes it for that of other results."""
    assert f'<meta name="nmt-comparison" content="{identity.content_hash(paths.COMPARISON)}">' in page


def test_a_sentence_cannot_end_its_element(page: str) -> None:
    """HTML in a sentence stays inside the data, and comes out of it as it was."""
    assert [sentence["source"] for sentence in data(page)["sentences"]].count(f"{EVIL}。") == 1
    assert EVIL not in page
    assert len(Page(page).inside("script")) == 2


def test_tables_hold_the_comparison(page: str) -> None:
    """Scores with their intervals, parameters, the verdict; one row per class in the tables behind the charts."""
    compared = files.read_json(paths.COMPARISON / "comparison.json")
    bleu = compared["variants"]["attention"]["scores"]["bleu"]
    spread = f'<span class="spread">{bleu["low"]:.2f} to {bleu["high"]:.2f}</span>'
    assert f"<td>{bleu['mean']:.2f} {spread}</td>" in page
    assert "<strong>attention</strong> is " in page
    assert page.count("<svg ") == 6
    rows = [text.strip() for text in Page(page).inside("th")]
    classes = [reporting.extent(row) for row in compared["variants"]["plain"]["by_length"]]
    assert {*classes, "3"} <= set(rows), "classes of length, epochs"


def test_experiments_on_this_test_set_are_a_table(page: str) -> None:
    """With what they changed; those on another test set are not, and without any there is no such section."""
    assert '<th scope="row">HEAD: plain, seed 1</th>' in page
    changed = f"translate.beam_size={html.escape(EVIL, quote=False)}".replace("'", "&#39;")
    assert f'<th scope="row">evil: attention, seed 1 <span class="note">{changed}</span></th>' in page
    assert "elsewhere" not in page
    rows = files.read_csv(paths.LEADERBOARD, ())
    files.write_csv(paths.LEADERBOARD, [row for row in rows if row["experiment"] == "elsewhere"])
    report.main()
    assert "What else was tried" not in files.read_text(paths.PAGE)


def test_a_study_is_a_table_and_a_chart(page: str) -> None:
    """A row for each step with what it adds, an empty cell for a model that it did not train; none of another test."""
    first = '<th scope="row">1. naive <span class="note">train.average_decay=0</span></th>'
    assert f'{first}<td>10.00 <span class="spread">± 0.50</span></td>' in page
    second = '<th scope="row">2. averaging <span class="note">train.average_decay=0.999</span></th>'
    assert f'{second}<td>–</td><td>20.75 <span class="spread">19.00 to 21.00</span></td>' in page
    assert "Step by step" in page
    assert "elsewhere" not in page
    table = paths.study_table(paths.INGREDIENTS)
    files.write_csv(table, [], list(files.read_csv(table)[0]))
    report.main()
    assert "Step by step" not in files.read_text(paths.PAGE)


def test_ensembles_have_a_table(page: str) -> None:
    """Below the scores of all variants, each of its models alone and then all together; else nothing is said of it."""
    assert "translate together" not in page
    measures = {key: {"mean": 31.25, "deviation": None, "low": 30.5, "high": 32.0} for key in ("bleu", "chrf", "ter")}
    measures["perplexity_per_token"] = {"mean": 4.5, "deviation": None}
    effect = {"value": 1.5, "low": 1.0, "high": 2.0, "p": 0.001}
    one = {"models": 3, "scores": measures, "tests": {"bleu": effect, "chrf": effect}}
    (paths.COMPARISON / files.SEAL).unlink()
    change(paths.COMPARISON / "comparison.json", lambda read: read.update(ensembles={"attention": one}))
    report.main()
    text = files.read_text(paths.PAGE)
    assert "Models that translate together" in text
    seed, together = (f'<th scope="row">attention, {name}</th>' for name in ("seed 1", "ensemble of 3"))
    assert text.index(seed) < text.index(f'{together}<td>31.25 <span class="spread">30.50 to 32.00</span></td>')
    assert "<strong>attention, ensemble of 3</strong> is better than the mean of its models: +1.50" in text


def test_what_was_not_measured_is_not_spoken_of(page: str) -> None:
    """Without gold, influence, ablations, frequencies and attention their tables, charts and links are gone."""
    words = ("AER", "tampered", "Kendall", "Rare words", 'id="where"', 'id="why"', '"#why"')
    assert [word for word in words if word not in page] == []
    for variant in ("plain", "attention"):
        summary = paths.attention_report(variant, 1) / "summary.json"
        change(summary, lambda read: read.update(attention=None, alignment=None, influence=None))
        change(paths.scores(variant, 1), lambda read: read.update(ablations={}, by_frequency=[]))
    report.main()
    text = files.read_text(paths.PAGE)
    assert [word for word in words if word in text] == []


def change(path: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    """Edit a JSON file."""
    content = files.read_json(path)
    edit(content)
    files.write_json(path, content)


def test_alignment_is_a_table(page: str) -> None:
    """The best first; a method that all variants share stands there once, without a variant's name."""
    assert page.count('<th scope="row">diagonal</th>') == 1
    name = '<th scope="row">erasure argmax <span class="note">'
    best, worse = f"{name}attention</span>", f"{name}plain</span>"
    assert 0 < page.index(best) < page.index(worse) < page.index(">diagonal<")
    assert '<td>0.250 <span class="spread">0.188 to 0.312</span></td>' in page


def test_reasons_are_tables(page: str) -> None:
    """Agreement of measures for the models that have them, and BLEU with attention weights tampered with."""
    row = '<th scope="row">attention and erasure <span class="note">rank correlation</span></th><td>–</td>'
    assert f'{row}<td>−0.50 <span class="spread">0.25 to 0.75</span></td>' in page
    assert '<td>62.5% <span class="spread">50.0% to 75.0%</span></td>' in page
    assert '<td>3.25 <span class="spread">2.50 to 4.00</span></td>' in page


def test_recall_of_rare_words_is_a_chart(page: str) -> None:
    """A class without a word has no point, and says so in the table."""
    assert '<th scope="row">0 <span class="note">0</span></th><td>–</td><td>–</td>' in page
    assert '<th scope="row">5+ <span class="note">1,200</span></th><td>50.0% ' in page


def test_the_weave_takes_the_first_sentence_that_fits(page: str) -> None:
    """Short on both sides, and not read straight through; faint looks are left out, thick ones lie on top."""
    straight, crossed = np.eye(4, 5) * 0.98 + 0.004, np.eye(5)[[1, 0, 2, 3]] * 0.9 + 0.02
    crossed[0, 4] = 0.5  # the end of the source is no word
    lines = [
        {"id": name, "source": list("甲乙丙丁"), "target": list("abcd"), "attention": matrix.tolist()}
        for name, matrix in (("straight", straight), ("crossed", crossed), ("again", crossed))
    ]
    model = Shown("attention", "additive", ["a b c d"] * 3, lines, set())
    plain = Shown("plain", "none", ["a b c d"] * 3, [line | {"attention": None} for line in lines], set())
    found = weave([plain, model], 3)
    assert found is not None
    assert (found.id, found.model) == ("crossed", "attention")
    assert [thread.weight for thread in found.threads] == [0.92] * 4
    assert found.threads[0].path.startswith(f"M{found.source[1].x},")
    assert weave([plain, model], 1) is None
    assert weave([plain], 3) is None
    assert page.count('<figure class="weave">') == page.count(f'<a href="#s-{CROSSED}-{CROSSED + 500}">') == 1


def test_the_explorer_holds_what_there_is(page: str) -> None:
    """Every sentence with every model; a matrix or number that is null is absent."""
    sentences = data(page)["sentences"]
    assert len(sentences) == len(PAIRS)
    plain, attention = sentences[NULL]["models"]
    assert set(plain) == {"text", "words", "chrf", "score"}
    assert set(attention) == {"text", "words", "chrf", "score", "entropy", "attention", "erasure", "gradient"}
    assert sentences[0]["ids"] == ["0", "500"]
    assert sentences[0]["length"] == 8


def test_the_explorer_holds_so_many_sentences(page: str) -> None:
    """The first `report.sentences` of the test set, however many there are."""
    edit_yaml(paths.PARAMS, {"report.sentences": 7})
    report.main()
    page = files.read_text(paths.PAGE)
    assert [sentence["id"] for sentence in data(page)["sentences"]] == [f"{row}-{row + 500}" for row in range(7)]
    assert "Explore 7 sentences" in page


def test_words_of_another_test_set_are_refused(page: str) -> None:
    """The message names the stage that makes them anew."""
    path = paths.attention_report("attention", 1) / "words.jsonl"
    lines = files.read_json_lines(path)
    files.write_json_lines(path, lines[:-1])
    with pytest.raises(UserError, match=r"59 lines of words.* 60 test sentences; run `dvc repro analyze_attention`"):
        report.main()
    files.write_json_lines(path, [*lines[:-1], lines[-1] | {"source": ["other"]}])
    with pytest.raises(UserError, match=r"other source words for test sentence 59-559"):
        report.main()
    path.unlink()
    with pytest.raises(UserError, match=r"words.jsonl does not exist; run `dvc repro analyze_attention@attention-1`"):
        report.main()
    assert files.read_text(paths.PAGE) == page


def test_matrices_survive_in_a_byte_a_number() -> None:
    """Shares to 1/510, signed numbers to a 254th of the largest; nothing at all is no division by it."""
    generator = np.random.default_rng(1)
    shares, signed = generator.random((5, 7)), generator.normal(0, 3, (5, 7))
    back = np.frombuffer(base64.b64decode(explorer.pack_shares(shares)), np.uint8).reshape(5, 7) / 255
    assert np.abs(back - shares).max() <= 0.5 / 255 + 1e-9
    largest, packed = explorer.pack_signed(signed)
    back = np.frombuffer(base64.b64decode(packed), np.int8).reshape(5, 7) / 127 * largest
    assert largest == pytest.approx(np.abs(signed).max(), abs=1e-4)
    assert np.abs(back - signed).max() <= largest / 254 + 1e-4
    assert explorer.pack_signed(np.zeros((1, 2)))[0] == 0.0
    assert explorer.pack_signed([]) == [0.0, ""]


def test_two_thousand_sentences_fit(page: str) -> None:
    """At 12 words a side, which is more than Tatoeba has, the page stays below 5 MB."""
    matrix = np.random.default_rng(1).random((12, 13))
    text = "a sentence of twelve words, as they are in the test set"
    model = {"text": text, "words": text.split(), "attention": explorer.pack_shares(matrix)}
    model |= {name: explorer.pack_signed(matrix[:, 1:]) for name in explorer.SIGNED}
    sentence = {"source": "字" * 18, "words": ["字" * 2] * 9, "references": [text], "models": [model, model]}
    sentences = json.dumps([sentence] * 2000, ensure_ascii=False).encode()
    rest = len(page.encode()) - len(json.dumps(data(page)["sentences"], ensure_ascii=False).encode())
    assert len(sentences) + rest < 5e6


def test_a_chart_leaves_colours_and_fonts_to_the_page() -> None:
    """The same lines give the same drawing; it has classes in place of colours, and words as text."""
    lines = [Line("a", 0, [0, 1], [1.0, 2.0], ([0.5, 1.5], [1.5, 2.5])), Line("b", 1, [0, 1], [2.0, 1.0])]
    drawn = charts.chart("one", lines, "length", {0.0: "1–5", 1.0: "<6"}, from_zero=True)
    assert drawn == charts.chart("one", lines, "length", {0.0: "1–5", 1.0: "<6"}, from_zero=True)
    assert not re.search(r"style=|font|#[0-9a-f]{6}|clip", drawn)
    assert drawn.count('class="series-0"') == 2
    assert drawn.count('class="series-1"') == 1
    assert ">1–5</text>" in drawn
    assert "&lt;6" in drawn
    assert "fill-opacity" in drawn
    alone = [Line("a", 0, [0, 2], [1.0, 2.0], ([0.5, 1.5], [1.5, 2.5]), joined=False)]
    apart = charts.chart("three", alone, "step", None, from_zero=False)
    assert "fill-opacity" not in apart  # no band, no line: a marker and a bar at either step
    assert apart.count("<use") == 2
    bars = apart.split('class="series-0"')[2].partition("</g>")[0]
    assert bars.count("<path") == 2
    ids = re.findall(r' id="([^"]+)"', drawn)
    assert ids
    assert not set(ids) & set(re.findall(r' id="([^"]+)"', charts.chart("two", lines, "length", None, from_zero=True)))
