"""Any Unicode as a sentence: translated, scored, cut into words, and shown as text."""

import json
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nmt import plots
from nmt.decoding import Decoding
from nmt.errors import UserError
from nmt.html_report import page
from nmt.markdown import literal
from nmt.serving.answers import answer
from nmt.serving.worker import to_json
from nmt.translator import Translator
from nmt.word_view import word_view
from tests.bundles import write_bundle
from tests.fuzz.harness import REFUSED, attempt, fuzzed

BEAM = Decoding(
    beam_size=2,
    n_best=2,
    length_penalty=1.0,
    coverage_penalty=0.0,
    max_length_ratio=1.0,
    max_length_extra=3,
    batch_sentences=8,
)
anything = st.text(st.characters(), max_size=60)
"""Control characters, unassigned ones, halves of characters (surrogates) and marks without a letter included."""
markup = st.lists(
    st.sampled_from(["<script>", "</script>", "<!--", "-->", "&amp;", "&#0;", "'", '"', "]]>", "猫"])
).map("".join)
marks = st.text(
    "\u0300\u0489\u200b\u200d\u202e\u2028\u2029\ufeff\u2581\ufffd\U0001f1e8\U0001f3fd a猫\t\r\n\0\x1b", max_size=40
)
sentences = anything | markup | marks


@pytest.fixture(scope="module")
def translator(tmp_path_factory: pytest.TempPathFactory) -> Translator:
    """A small untrained model with attention, which reads Chinese."""
    return Translator.load(
        write_bundle(tmp_path_factory.mktemp("model") / "bundle", "additive"), BEAM, device="cpu", threads=1
    )


@fuzzed(few=30)
@given(lines=st.lists(sentences, max_size=3))
def test_any_sentences(translator: Translator, lines: list[str]) -> None:
    """Each line has its translations, in one line each, with words and weights that fit together and go out as JSON."""
    found = attempt(translator.translate, lines)
    if found is REFUSED:
        assert any(is_broken(line) for line in lines)
        return
    assert len(found) == len(lines)
    languages = translator.bundle.config.languages
    for translation in found:
        for hypothesis in translation.hypotheses:
            assert "\n" not in hypothesis.text
            view = word_view(translation, hypothesis, languages)
            assert view.weights is not None
            assert view.weights.shape == (len(view.target), len(view.source))
            assert np.allclose(view.weights.sum(axis=1), 1.0, atol=1e-4)
        content = json.loads(to_json(answer(translation, languages, with_attention=True)))
        assert [one["translation"] for one in content["hypotheses"]] == [one.text for one in translation.hypotheses]


@fuzzed(few=20)
@given(source=sentences, target=sentences)
def test_any_pair(translator: Translator, source: str, target: str) -> None:
    """Any text has a probability as the translation of any other."""
    found = attempt(translator.score, [source], [target])
    if found is REFUSED:
        assert is_broken(source + target)
        return
    (forced,) = found
    assert np.isfinite(forced.log_probability)
    assert forced.pieces[-1] == "</s>"


def is_broken(text: str) -> bool:
    """Whether it holds half a character, which is no Unicode text."""
    return any("\ud800" <= character <= "\udfff" for character in text)


class Texts(HTMLParser):
    """The text of a page, and the elements in it."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[str] = []

    def handle_starttag(self, tag: str, attributes: object) -> None:
        """Note the element."""
        self.elements.append(tag)


@fuzzed(few=40)
@given(text=anything.filter(lambda text: not is_broken(text)) | markup)
def test_text_in_reports(text: str) -> None:
    """A sentence neither ends the element that holds it, nor begins one, nor a row or a picture in Markdown."""
    data = page.embedded({"sentence": text})
    assert json.loads(data) == {"sentence": text}
    parser = Texts()
    parser.feed(f"<script type='application/json'>{data}</script><p></p>")
    assert parser.elements == ["script", "p"]
    shown = literal(text.replace("\n", " ").replace("\r", " "))
    for place, character in enumerate(shown):
        assert character not in "|<[`" or shown[place - 1] == "\\"


@fuzzed(few=2)
@given(words=st.lists(sentences.filter(bool), min_size=1, max_size=3))
def test_any_words_in_a_heatmap(tmp_path_factory: pytest.TempPathFactory, words: list[str]) -> None:
    """Labels are drawn as they are: a dollar sign begins no formula, and a picture comes out."""
    path = tmp_path_factory.getbasetemp() / "heatmap.png"
    path.unlink(missing_ok=True)
    if attempt(plots.heatmap, path, np.eye(len(words)), words, words, "$\\frac{ a title") is not REFUSED:
        assert path.read_bytes().startswith(b"\x89PNG")


def test_half_a_character_is_refused(translator: Translator) -> None:
    """A lone surrogate, as an escape in JSON or a file name can bring one, is no text that can be read."""
    with pytest.raises(UserError, match="half a character"):
        translator.translate(["猫", "a\ud800"])
