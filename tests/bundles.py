"""A bundle on disk, small and untrained, that translates Chinese-looking text into English-looking text."""

from pathlib import Path

import torch

from nmt.bundle import BundleConfig, save_bundle
from nmt.config import UnicodeForms
from nmt.files import sha256, write_bytes
from nmt.subwords import Subwords, train_subwords
from tests.models import tiny_model

SOURCE = ["我喜欢吃苹果。", "你今天好吗?", "他们在学校学习汉语。", "天气很好,我们去公园吧!", "她有3只猫和2条狗。"] * 20
TARGET = ["I like eating apples.", "How are you today?", "They study Chinese at school.", "Let us go to the park!"] * 20


def write_bundle(
    folder: Path, attention: str, languages: tuple[str, str] = ("zh", "en"), seed: int = 4, lines: int = 100
) -> Path:
    """Save a tiny model with subword models of its own; its weights are large, so that its choices are clear."""
    texts = {"zh": SOURCE, "en": TARGET}
    sides = {side: texts[language] for side, language in zip(("source", "target"), languages, strict=True)}
    for side, text in sides.items():
        content = train_subwords(text[:lines], kind="unigram", size=330, character_coverage=1.0, spaced=True)
        write_bytes(folder.parent / f"{side}.model", content)
    subword_models = {side: folder.parent / f"{side}.model" for side in sides}
    sizes = {side: Subwords.load(path).size for side, path in subword_models.items()}
    model = tiny_model(attention, (sizes["source"], sizes["target"]), seed=seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0)
    config = BundleConfig.model_validate(
        {
            "format": 2,
            "attention": attention,
            "model": model.settings,
            "vocabulary": sizes,
            "languages": {"source": languages[0], "target": languages[1]},
            "unicode": UnicodeForms(source="NFKC", target="NFC"),
            "tokenizer_sha256": {side: sha256(path) for side, path in subword_models.items()},
        }
    )
    save_bundle(folder, config, dict(model.named_parameters()), subword_models)
    return folder
