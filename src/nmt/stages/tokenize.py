"""Train the subword models and encode train and dev.

Reads   data/prepared/{train,dev}.{source,target}.txt
Writes  data/tokenized/{source,target}.model, data/tokenized/{train,dev}.{source,target}.{ids,offsets}.npy,
        reports/tokenization.json
Params  corpus, tokenize
"""

import sys
from pathlib import Path
from typing import Any

from nmt import config, paths
from nmt.batching import TokenStore
from nmt.config import load_params
from nmt.corpus import UNSEGMENTED
from nmt.errors import UserError
from nmt.files import fresh_folder, read_lines, write_bytes, write_json
from nmt.stages.runner import run
from nmt.subwords import Subwords, train_subwords
from nmt.tokenization_report import describe_tokenization

ENCODED = ("train", "dev")


def main() -> None:
    """One side after the other: model, token stores, report."""
    params = load_params()
    sections = {"source": params.tokenize.source, "target": params.tokenize.target}
    languages = {"source": params.corpus.source, "target": params.corpus.target}
    with fresh_folder(paths.TOKENIZED) as folder:
        report = {side: tokenized(side, section, languages[side], folder) for side, section in sections.items()}
    write_json(paths.TOKENIZATION_REPORT, report)


def tokenized(side: str, section: config.Subwords, language: str, folder: Path) -> dict[str, Any]:
    """Write one side's model and token stores into `folder`; return its report."""
    lines = {part: read_lines(paths.prepared_text(part, side)) for part in ENCODED}
    subwords = trained(side, section, lines["train"], language)
    write_bytes(folder / paths.subword_model(side).name, subwords.content)
    ids = {part: subwords.encode(lines[part]) for part in ENCODED}
    for part in ENCODED:
        TokenStore.write(folder / paths.token_store(part, side).name, ids[part])
    return describe_tokenization(subwords, section.size, lines, ids, language)


def trained(side: str, section: config.Subwords, lines: list[str], language: str) -> Subwords:
    """A model of the side's training text; a vocabulary that came out smaller than asked for is said."""
    try:
        content = train_subwords(
            lines,
            kind=section.kind,
            size=section.size,
            character_coverage=section.character_coverage,
            spaced=language not in UNSEGMENTED,
        )
    except UserError as error:
        raise UserError(f"{paths.PARAMS}, tokenize.{side}: {error}") from None
    subwords = Subwords(content)
    print(f"tokenize: {side}, {subwords.size:,} of at most {section.size:,} pieces", file=sys.stderr)
    return subwords


if __name__ == "__main__":
    run(main)
