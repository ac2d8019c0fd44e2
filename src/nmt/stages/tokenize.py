"""Train the subword models and encode train and dev, train in several ways if asked to.

Reads   data/prepared/{train,dev}.{source,target}.txt
Writes  data/tokenized/{source,target}.model, data/tokenized/{train,dev}.{source,target}.{ids,offsets}.npy,
        data/tokenized/train.{source,target}.sample-<number>.{ids,offsets}.npy, reports/tokenization.json
Params  corpus, tokenize
"""

import sys
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from nmt import config, paths
from nmt.batching import TokenStore
from nmt.config import load_params
from nmt.corpus import UNSEGMENTED
from nmt.errors import UserError
from nmt.files import each_line, fresh_folder, line_blocks, write_bytes, write_json
from nmt.sampling import sampled
from nmt.stages.runner import run
from nmt.subwords import Subwords, train_subwords
from nmt.tokenization_report import Part, describe_tokenization

ENCODED = ("train", "dev")


def main() -> None:
    """A model for each side, or one for both; then one side after the other: token stores, report."""
    params = load_params()
    languages = {"source": params.corpus.source, "target": params.corpus.target}
    models = learned(params.tokenize, languages)
    with fresh_folder(paths.TOKENIZED) as folder:
        report = {side: tokenized(side, models[side], params.tokenize, languages[side], folder) for side in paths.SIDES}
    write_json(paths.TOKENIZATION_REPORT, report)


def learned(settings: config.Tokenize, languages: Mapping[str, str]) -> dict[str, Subwords]:
    """The subword model of each side; a joint one is both sides', and learns from as much text of each."""
    characters = settings.training_characters // (2 if settings.joint else 1)
    texts = {side: evenly_spread(paths.prepared_text("train", side), characters) for side in paths.SIDES}
    spaced = {side: languages[side] not in UNSEGMENTED for side in paths.SIDES}
    if settings.joint:
        joint = trained("source", settings.source, chain.from_iterable(texts.values()), any(spaced.values()))
        return dict.fromkeys(paths.SIDES, joint)
    return {side: trained(side, getattr(settings, side), texts[side], spaced[side]) for side in paths.SIDES}


def tokenized(side: str, subwords: Subwords, settings: config.Tokenize, language: str, folder: Path) -> dict[str, Any]:
    """Write one side's model and token stores into `folder`; return its report."""
    section: config.Subwords = getattr(settings, side)
    texts = {part: paths.prepared_text(part, side) for part in ENCODED}
    write_bytes(folder / paths.subword_model(side).name, subwords.content)
    parts = {}

    def write(part: str, stem: Path, text: Path, sequences: Iterator[list[int]]) -> None:
        TokenStore.write(folder / stem.name, sequences)
        parts[part] = Part(TokenStore.open(folder / stem.name), line_blocks(text))

    for part, text in texts.items():
        best = chain.from_iterable(map(subwords.encode, line_blocks(text)))
        write(part, paths.token_store(part, side), text, best)
    for number in range(1, settings.sampling.of(side) + 1):
        keys = (paths.SIDES.index(side), number)
        drawn = sampled(subwords, section.kind, settings.sampling.alpha, each_line(texts["train"]), keys)
        write(f"train.sample-{number}", paths.training_store(side, number), texts["train"], drawn)
    return describe_tokenization(subwords, section.vocabulary, parts, language)


def evenly_spread(text: Path, characters: int) -> Iterator[str]:
    """Lines of a file with about so many characters, or all if it has no more.

    SentencePiece holds what it learns from in memory, at some 20 bytes a character.
    """
    every = sum(sum(map(len, lines)) for lines in line_blocks(text))
    share = min(characters, every)
    for number, line in enumerate(each_line(text)):
        if (number + 1) * share // max(1, every) > number * share // max(1, every) or share == every:
            yield line


def trained(side: str, section: config.Subwords, lines: Iterator[str], spaced: bool) -> Subwords:
    """A model of some of the side's training text; a vocabulary that came out smaller than asked for is said."""
    try:
        content = train_subwords(
            lines,
            kind=section.kind,
            size=section.vocabulary,
            character_coverage=section.character_coverage,
            spaced=spaced,
        )
    except UserError as error:
        raise UserError(f"{paths.PARAMS}, tokenize.{side}: {error}") from None
    subwords = Subwords(content)
    print(f"tokenize: {side}, {subwords.size:,} of at most {section.vocabulary:,} pieces", file=sys.stderr)
    return subwords


if __name__ == "__main__":
    run(main)
