"""Models that translate together: the mean of what each says, and nothing else."""

import functools
from contextlib import closing
from pathlib import Path

import pytest
import torch

from nmt.decoding import Decoding
from nmt.ensemble import Ensemble, force_together
from nmt.errors import UserError
from nmt.places import Places
from nmt.search import beam_search, greedy_search
from nmt.subwords import BOS
from nmt.translator import Translator
from tests.bundles import write_bundle
from tests.models import random_sentences, tiny_model

BEAM = Decoding(
    beam_size=3, n_best=3, length_penalty=1.0, coverage_penalty=0.2, max_length_ratio=1.5, max_length_extra=4,
    batch_sentences=4,
)  # fmt: skip
LINES = ["我喜欢吃苹果。", "天气很好，我们去公园吧！他们在学校学习汉语。", "", "你好", "她有3只猫和2条狗。"]
PENALTIES = {"length_penalty": 1.0, "coverage_penalty": 0.2}


@pytest.mark.parametrize("attention", ["additive", "none"])
def test_probabilities_and_attention_are_means(attention: str) -> None:
    """Step by step and forced: p is the arithmetic mean of the models' p, the weights that of their weights."""
    models = [tiny_model(attention, seed=seed) for seed in (1, 2, 3)]
    ensemble = Ensemble(models)
    source, lengths = random_sentences(models[0], 5, "source")
    previous = torch.tensor([BOS, 5, 6, 7])
    with torch.inference_mode():
        memory = ensemble.encode(source, lengths)
        log_p, _, weights = ensemble.step(memory, ensemble.start(memory), previous, Places(4, 1, None))
        forced, forced_weights = force_together(models, source, lengths, previous[:, None])
        own = [model.encode(source, lengths) for model in models]
        steps = [model.step(one, model.start(one), previous) for model, one in zip(models, own, strict=True)]
    mean = torch.stack([logits.softmax(1) for logits, _, _ in steps]).mean(0)
    torch.testing.assert_close(log_p.exp(), mean)
    torch.testing.assert_close(forced[:, 0].exp(), mean)
    assert (weights is None) == (forced_weights is None) == (attention == "none")
    if weights is not None and forced_weights is not None:
        torch.testing.assert_close(weights, sum(one for _, _, one in steps if one is not None) / 3)
        torch.testing.assert_close(forced_weights[:, 0], weights)


def test_a_model_beside_itself_is_itself() -> None:
    """Two equal models search as one does: rows of memories and states are kept together through the whole search."""
    model = tiny_model("additive", seed=3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0)
    source, lengths = random_sentences(model, 7, "source", batch=9, longest=8)
    arguments = {**PENALTIES, "max_lengths_B": lengths + 6}
    for search in (greedy_search, functools.partial(beam_search, beam_size=4, n_best=4)):
        one, two = (search(each, source, lengths, **arguments) for each in (model, Ensemble([model] * 2)))
        assert torch.equal(one.ids_BNT, two.ids_BNT)
        torch.testing.assert_close(one.scores_BN, two.scores_BN)
        torch.testing.assert_close(one.attention_BNTS, two.attention_BNTS)


def test_beam_of_one_is_greedy() -> None:
    """Ids, scores and attention of both searches agree for an ensemble, too."""
    models = [tiny_model("general", seed=seed) for seed in (1, 2)]
    ensemble = Ensemble(models)
    source, lengths = random_sentences(models[0], 7, "source", batch=9, longest=8)
    arguments = {**PENALTIES, "max_lengths_B": lengths + 6}
    greedy = greedy_search(ensemble, source, lengths, **arguments)
    beam = beam_search(ensemble, source, lengths, beam_size=1, n_best=1, **arguments)
    assert torch.equal(greedy.ids_BNT, beam.ids_BNT)
    assert torch.equal(greedy.scores_BN, beam.scores_BN)
    assert greedy.attention_BNTS is not None
    assert beam.attention_BNTS is not None
    assert torch.equal(greedy.attention_BNTS, beam.attention_BNTS)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three untrained models that differ in their seed alone."""
    root = tmp_path_factory.mktemp("seeds")
    return [write_bundle(root / str(seed), "additive", seed=seed) for seed in (4, 5, 6)]


def test_an_ensemble_translates_otherwise_than_its_models(bundles: list[Path]) -> None:
    """All models take part, and their order says nothing."""
    single = [Translator.load(folder, BEAM, device="cpu", threads=1).translate(LINES) for folder in bundles]
    together = Translator.load(bundles[0], BEAM, others=bundles[1:], device="cpu", threads=1)
    found = together.translate(LINES)
    texts = [[line.hypotheses[0].text for line in lines] for lines in (found, *single)]
    assert texts[0] not in texts[1:]
    turned = Translator.load(bundles[2], BEAM, others=bundles[1::-1], device="cpu", threads=1).translate(LINES)
    assert [line.hypotheses[0].text for line in turned] == texts[0]


@pytest.mark.integration
def test_processes_change_no_bit(bundles: list[Path]) -> None:
    """Each process loads all models."""
    results = []
    for processes in (1, 2):
        translator = Translator.load(bundles[0], BEAM, others=bundles[1:], device="cpu", threads=1, processes=processes)
        with closing(translator):
            found = translator.translate(LINES * 3)
        results.append([(one.pieces, one.score) for line in found for one in line.hypotheses])
    assert results[0] == results[1]


def test_other_subwords_are_refused(bundles: list[Path], tmp_path: Path) -> None:
    """Models whose pieces mean other texts are named in one error, before anything is translated."""
    swapped = write_bundle(tmp_path / "swapped", "additive", ("en", "zh"))
    with pytest.raises(UserError, match=r"swapped cannot translate together: their languages differ"):
        Translator.load(bundles[0], BEAM, others=[swapped], device="cpu")
    other = write_bundle(tmp_path / "other", "additive", lines=2)
    with pytest.raises(UserError, match=r"other cannot translate together: their subword models differ"):
        Translator.load(bundles[0], BEAM, others=[bundles[1], other], device="cpu")
