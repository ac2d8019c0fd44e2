"""Text in, text out: order, batches, odd lines, long lines, prefixes, forced decoding."""

import multiprocessing
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nmt.config import load_params
from nmt.decoding import Decoding
from nmt.ensemble import force_together
from nmt.errors import UserError
from nmt.files import write_json, write_text
from nmt.subwords import BOS
from nmt.translation import Hypothesis, Translation
from nmt.translator import LONGEST_SOURCE, Translator
from tests.bundles import write_bundle

BEAM = Decoding(
    beam_size=3,
    n_best=3,
    length_penalty=1.0,
    coverage_penalty=0.0,
    max_length_ratio=1.5,
    max_length_extra=4,
    batch_sentences=4,
)
LINES = [
    "我喜欢吃苹果。",
    "",
    "天气很好，我们去公园吧！他们在学校学习汉语。",
    "你好",
    " \t\u3000 ",
    "這是什麼？",
    "她有3只猫和2条狗。",
    "I only speak English, sorry.",
    "我👍🏽🇨🇳你",
    "猫",
]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Untrained bundles on disk, one per kind of attention."""
    root = tmp_path_factory.mktemp("bundles")
    return {kind: write_bundle(root / kind / "bundle", kind) for kind in ("additive", "general", "none")}


@pytest.fixture(scope="module", params=[["additive"], ["general"], ["none"], ["additive", "general"]], ids="+".join)
def translator(bundles: dict[str, Path], request: pytest.FixtureRequest) -> Translator:
    """A translator with a beam of 3, of one model or of two together."""
    first, *others = (bundles[kind] for kind in request.param)
    return Translator.load(first, BEAM, others=others, device="cpu", threads=1)


@pytest.fixture(scope="module")
def attentive(bundles: dict[str, Path]) -> Translator:
    """A translator with attention and a beam of 3."""
    return Translator.load(bundles["additive"], BEAM, device="cpu", threads=1)


def ids_of(translator: Translator, pieces: list[str]) -> list[int]:
    """The target ids of pieces."""
    names = translator.bundle.target.pieces(range(translator.bundle.target.size))
    return [names.index(piece) for piece in pieces]


def assert_close(left: list[Hypothesis], right: list[Hypothesis]) -> None:
    """The same texts and pieces, and numbers equal up to float noise."""
    assert [(one.text, one.pieces) for one in left] == [(one.text, one.pieces) for one in right]
    for one, other in zip(left, right, strict=True):
        assert one.score == pytest.approx(other.score, rel=1e-4)
        assert one.log_probability == pytest.approx(other.log_probability, rel=1e-4)
        assert (one.attention is None) == (other.attention is None)
        if one.attention is not None:
            np.testing.assert_allclose(one.attention, other.attention, atol=1e-5)


@settings(max_examples=6)
@given(order=st.permutations(range(len(LINES))), batch=st.integers(1, len(LINES)))
def test_batches_and_order_change_nothing(attentive: Translator, order: list[int], batch: int) -> None:
    """A line gets the translation that it gets alone, wherever it stands and whatever stands beside it."""
    shuffled = Translator(attentive.bundle, BEAM.model_copy(update={"batch_sentences": batch}))
    alone = [attentive.translate([line])[0] for line in LINES]
    together = shuffled.translate([LINES[i] for i in order])
    for place, i in enumerate(order):
        assert together[place].source_pieces == alone[i].source_pieces
        assert_close(together[place].hypotheses, alone[i].hypotheses)


def test_threads_and_processes_change_no_bit(bundles: dict[str, Path]) -> None:
    """Batches side by side give what they give one after the other, and progress counts them all."""
    results = []
    for threads, processes in ((1, 1), (3, 1), (1, 2)):
        translator = Translator.load(bundles["additive"], BEAM, device="cpu", threads=threads, processes=processes)
        with closing(translator):
            results.append(everything(translator))
            if processes > 1:
                assert_told_when_lost(translator)
    for other in results[1:]:
        for alone, beside in zip(results[0], other, strict=True):
            np.testing.assert_equal(alone, beside)


def everything(translator: Translator) -> list[object]:
    """Numbers, pieces and matrices of all that a translator does."""
    done: list[int] = []
    translations = translator.translate(LINES * 3, progress=done.append)
    forced = translator.score(LINES * 3, LINES[::-1] * 3, progress=done.append)
    pairs = [(one.source_pieces, one.pieces) for one in forced[: len(LINES)]]
    shares = [np.eye(len(source)) for source, _ in pairs]
    sources, targets = zip(*pairs, strict=True)
    influences = translator.influence(sources, targets, shares, progress=done.append)
    assert sum(done) == 7 * len(LINES)
    with translator.ablated("uniform"):
        disturbed = translator.translate(LINES)
    assert unevenness(disturbed) < 1e-6
    assert unevenness(translations) > 1e-4
    found = [one for line in translations + disturbed for one in line.hypotheses]
    decoded = [(one.pieces, one.log_probability, one.attention) for one in [*found, *forced]]
    return [*decoded, *((one.erasure, one.gradient) for one in influences)]


def test_the_first_translation_may_be_disturbed(bundles: dict[str, Path]) -> None:
    """What search asks in other cases is made of the whole model, later."""
    translator = Translator.load(bundles["additive"], BEAM, device="cpu", threads=1)
    with translator.ablated("uniform"):
        assert unevenness(translator.translate(LINES)) < 1e-6
    assert unevenness(translator.translate(LINES)) > 1e-4


def unevenness(translations: list[Translation]) -> float:
    """By how much the weights of a token's positions differ at most."""
    matrices = [one.attention for line in translations for one in line.hypotheses if one.pieces]
    return max(float(np.ptp(row[row > 0])) for matrix in matrices if matrix is not None for row in matrix)


def assert_told_when_lost(translator: Translator) -> None:
    """A process that is killed is an error in one line, not the traceback of a pool."""
    for process in multiprocessing.active_children():
        process.kill()
    with pytest.raises(UserError, match="a process that translates was ended"):
        translator.translate(LINES)


def test_every_line_has_its_translation(translator: Translator) -> None:
    """Sorted n-best lists with pieces, one line each; a line without text gives one hypothesis without any."""
    translations = translator.translate(LINES)
    assert len(translations) == len(LINES)
    for line, translation in zip(LINES, translations, strict=True):
        assert translation.hypotheses
        for hypothesis in translation.hypotheses:
            assert "\n" not in hypothesis.text
            shape = (len(hypothesis.pieces), len(translation.source_pieces))
            if hypothesis.attention is not None:
                assert hypothesis.attention.shape == shape
                np.testing.assert_allclose(hypothesis.attention.sum(axis=1), 1.0, atol=1e-5)
        if line.strip():
            assert translation.source_pieces[-1] == "</s>"
            assert len(translation.hypotheses) == 3
            scores = [hypothesis.score for hypothesis in translation.hypotheses]
            assert scores == sorted(scores, reverse=True)
        else:
            assert translation.source_pieces == []
            assert [(one.text, one.pieces, one.score) for one in translation.hypotheses] == [("", [], 0.0)]
        assert all((one.attention is not None) == translator.has_attention for one in translation.hypotheses)


def test_attention_and_score_are_those_of_forced_decoding(translator: Translator) -> None:
    """Every hypothesis of the beam, forced through the model, has the log-probability and attention of the search."""
    for line, translation in zip(LINES, translator.translate(LINES), strict=True):
        for hypothesis in translation.hypotheses:
            if not hypothesis.pieces:
                continue
            ids = ids_of(translator, hypothesis.pieces)
            source = translator._encode("source", [line])[0]
            with torch.inference_mode():
                read = torch.tensor([[*source, 3]]), torch.tensor([len(source) + 1])
                log_p_BTV, weights = force_together(translator.models, *read, torch.tensor([[BOS, *ids[:-1]]]))
            log_p = log_p_BTV[0, range(len(ids)), ids].sum()
            assert hypothesis.log_probability == pytest.approx(float(log_p), rel=1e-4)
            assert hypothesis.score == pytest.approx(float(log_p) / len(ids), rel=1e-4)
            if hypothesis.attention is not None:
                assert weights is not None
                np.testing.assert_allclose(hypothesis.attention, weights[0].numpy(), atol=1e-5)


def test_coverage_counts_in_the_score(attentive: Translator) -> None:
    """Scores are those of the docstring, of a line that is cut, too; some best translations change."""
    decoding = BEAM.model_copy(update={"coverage_penalty": 0.4})
    lines = [line for line in LINES if line.strip()] + ["我喜欢吃苹果。你好!" * 60]
    translations = Translator(attentive.bundle, decoding).translate(lines)
    for translation in translations:
        for one in translation.hypotheses:
            assert one.attention is not None
            assert one.score == pytest.approx(one.log_probability / len(one.pieces) + 0.4 * one.coverage, rel=1e-4)
        scores = [one.score for one in translation.hypotheses]
        assert scores == sorted(scores, reverse=True)
    assert translations[-1].source_pieces.count("</s>") > 1
    assert [one.hypotheses[0].text for one in translations] != [
        one.hypotheses[0].text for one in attentive.translate(lines)
    ]


def test_greedy_is_a_beam_of_one(attentive: Translator) -> None:
    """`beam_size=1` gives one hypothesis, the same as a beam of one would, without asking for fewer hypotheses."""
    translations = attentive.translate(LINES, beam_size=1)
    assert all(len(translation.hypotheses) == 1 for translation in translations)
    assert [t.hypotheses[0].text for t in translations] != [t.hypotheses[0].text for t in attentive.translate(LINES)]


def test_long_lines_are_cut_at_sentence_ends(attentive: Translator) -> None:
    """Each sentence of an overlong line is translated for itself, and the attention shows nothing across them."""
    sentences = ["天气很好,我们去公园吧!", "我喜欢吃苹果。", "你今天好吗?", "3.5只猫..."] * 40
    translation = attentive.translate(["".join(sentences) + " \n"])[0]
    encoded = attentive._encode("source", sentences)
    assert sum(map(len, encoded)) > LONGEST_SOURCE
    single = [one.hypotheses[0] for one in attentive.translate(sentences[:3])]
    best = translation.hypotheses[0]
    assert best.text.startswith(" ".join(one.text for one in single if one.text))
    assert best.pieces[: len(single[0].pieces)] == single[0].pieces
    assert translation.source_pieces.count("</s>") > 100
    assert best.attention is not None
    assert best.attention.shape == (len(best.pieces), len(translation.source_pieces))
    np.testing.assert_allclose(best.attention.sum(axis=1), 1.0, atol=1e-5)
    assert single[0].attention is not None
    height, width = single[0].attention.shape
    np.testing.assert_allclose(best.attention[:height, :width], single[0].attention, atol=1e-5)
    assert not best.attention[:height, width:].any()
    assert not best.attention[height:, :width].any()
    scores = [one.score for one in translation.hypotheses]
    assert scores == sorted(scores, reverse=True)
    assert best.score == pytest.approx(best.log_probability / len(best.pieces))


@pytest.mark.parametrize(
    "text", ["猫" * 5000, "a" * 5000, "word " * 1000, "👍" * 1250 + "。", "我喜欢。" * 1250, ". " * 2500]
)
def test_long_text_without_help_is_answered(attentive: Translator, text: str) -> None:
    """5,000 characters without a place to cut still give one translation, none of whose source is lost."""
    translator = Translator(attentive.bundle, BEAM.model_copy(update={"batch_sentences": 100, "max_length_ratio": 0.5}))
    translations = translator.translate([text, "你好"], n_best=1, beam_size=2)
    pieces = [piece for piece in translations[0].source_pieces if piece != "</s>"]
    assert len(pieces) >= len(attentive._encode("source", [text])[0])
    assert translations[0].hypotheses[0].pieces
    assert len(translations) == 2


def test_whole_lines_are_not_cut(attentive: Translator) -> None:
    """Where the question is what long inputs do, a line stays one."""
    text = "我喜欢吃苹果。" * 100
    translation = attentive.translate([text], n_best=1, beam_size=1, whole_lines=True)[0]
    assert translation.source_pieces.count("</s>") == 1
    assert len(translation.source_pieces) > LONGEST_SOURCE


def test_prefixes_are_forced(attentive: Translator) -> None:
    """Each translation begins with its own prefix; lines without one are free, a long prefix leaves room."""
    prefixes = ["They", "", "", "Let us go to the park and then to school and then to", "x", "", "I", "", "", "Zoë"]
    translations = attentive.translate(LINES, prefixes=prefixes)
    free = attentive.translate(LINES)
    for line, prefix, translation, without in zip(LINES, prefixes, translations, free, strict=True):
        if not line.strip():
            assert translation.hypotheses[0].text == ""
        elif prefix:
            assert all(one.text.startswith(prefix) for one in translation.hypotheses)
            assert len(translation.hypotheses[0].pieces) > len(attentive._encode("target", [prefix])[0])
        else:
            assert_close(translation.hypotheses, without.hypotheses)


def test_prefix_leads_the_first_part_only(attentive: Translator) -> None:
    """Of a line that is cut, the whole translation begins with the prefix, not each sentence."""
    text = attentive.translate(["我喜欢吃苹果。" * 100], prefixes=["They study"], n_best=1)[0].hypotheses[0].text
    assert text.startswith("They study")
    assert text.count("They study") < 50


def test_unequal_prefixes_and_unfit_beams_are_refused(attentive: Translator) -> None:
    """Clear errors for what cannot be meant."""
    with pytest.raises(UserError, match="2 prefixes for 1 lines"):
        attentive.translate(["你好"], prefixes=["a", "b"])
    with pytest.raises(UserError, match="beam"):
        attentive.translate(["你好"], n_best=4)
    with pytest.raises(UserError, match="beam"):
        attentive.translate(["你好"], beam_size=0)


def test_no_lines_give_no_translations(attentive: Translator) -> None:
    """Nothing in, nothing out."""
    assert attentive.translate([]) == []
    assert attentive.score([], []) == []


def test_progress_counts_lines(attentive: Translator) -> None:
    """Each line is told once, the empty and the cut ones, too."""
    told: list[int] = []
    attentive.translate([*LINES, "我喜欢吃苹果。" * 100], beam_size=1, progress=told.append)
    assert sum(told) == len(LINES) + 1
    told.clear()
    attentive.score(LINES, LINES, progress=told.append)
    assert sum(told) == len(LINES)


def test_scores_of_given_translations(translator: Translator) -> None:
    """Log-probabilities per token that sum to the whole, independent of the batch; empty lines are their eos."""
    targets = ["I like apples.", "No.", "Let us go!", "", "", "What is this?", "Zoë\u2019s cats", "Yes.", "👍", "cat"]
    together = translator.score(LINES, targets)
    for line, target, forced in zip(LINES, targets, together, strict=True):
        assert forced.source_pieces[-1] == forced.pieces[-1] == "</s>"
        assert translator.bundle.target.decode([ids_of(translator, forced.pieces)]) == [target]
        assert len(forced.token_log_probabilities) == len(forced.pieces)
        assert sum(forced.token_log_probabilities) == pytest.approx(forced.log_probability)
        assert all(log_p <= 0.0 for log_p in forced.token_log_probabilities)
        alone = translator.score([line], [target])[0]
        assert alone.token_log_probabilities == pytest.approx(forced.token_log_probabilities, rel=1e-4, abs=1e-5)
        assert (forced.attention is not None) == translator.has_attention
        if forced.attention is not None:
            assert forced.attention.shape == (len(forced.pieces), len(forced.source_pieces))
            np.testing.assert_allclose(forced.attention.sum(axis=1), 1.0, atol=1e-5)
    with pytest.raises(UserError, match="1 sources and 2 targets"):
        translator.score(["你好"], ["a", "b"])


def test_scores_are_a_distribution(attentive: Translator) -> None:
    """What each possible next piece adds to one beginning sums to 1 over the vocabulary, but for pad, never scored."""
    source, start = attentive._encode("source", ["你好"])[0], attentive._encode("target", ["They"])[0]
    pieces = range(1, attentive.bundle.target.size)
    with torch.inference_mode():
        forced = attentive._force([[*source, 3]] * len(pieces), [[*start, piece] for piece in pieces])
        memory = attentive.models[0].encode(torch.tensor([[*source, 3]]), torch.tensor([len(source) + 1]))
        pad = attentive.models[0].force(memory, torch.tensor([[BOS, *start]]))[0][0, -1].softmax(0)[0]
    whole = sum(np.exp([one.token_log_probabilities[-1] for one in forced])) + float(pad)
    assert whole == pytest.approx(1.0, rel=1e-4)


def test_diverged_model_is_named(bundles: dict[str, Path]) -> None:
    """A model full of NaN gives one error, not nonsense."""
    broken = Translator.load(bundles["additive"], BEAM, device="cpu", threads=1)
    with torch.no_grad():
        broken.bundle.model.bridge.weight.fill_(torch.nan)
    for beam in (1, 3):
        with pytest.raises(UserError, match="not finite"):
            broken.translate(["你好"], beam_size=beam)


def test_decoding_settings_come_from_params_the_bundle_or_nowhere(bundles: dict[str, Path], tmp_path: Path) -> None:
    """Given ones first; else decoding.json; else greedy; a broken file is named."""
    params = load_params(Path(__file__).parent.parent / "params.yaml")
    assert Decoding.of(params.translate).beam_size == params.translate.beam_size
    assert Translator.load(bundles["none"]).decoding.beam_size == 1
    write_json(tmp_path / "decoding.json", BEAM.model_dump())
    assert Decoding.beside(tmp_path) == BEAM
    write_json(tmp_path / "decoding.json", {**BEAM.model_dump(), "beam_size": 2})
    with pytest.raises(UserError, match=r"decoding\.json.*n_best is 3"):
        Decoding.beside(tmp_path)
    write_text(tmp_path / "decoding.json", "{")
    with pytest.raises(UserError, match=r"decoding\.json"):
        Decoding.beside(tmp_path)
    older = {name: value for name, value in BEAM.model_dump().items() if name != "coverage_penalty"}
    write_json(tmp_path / "decoding.json", older)
    assert Decoding.beside(tmp_path) == BEAM
    with pytest.raises(UserError, match="holds no model"):
        Translator.load(tmp_path)
    assert BEAM.changed(2, None).n_best == 2
    assert BEAM.changed(None, 1) == BEAM.model_copy(update={"n_best": 1})
