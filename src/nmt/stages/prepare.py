"""Normalise the corpus, split it without leaks, filter the training part.

Reads   data/corpora.yaml, data/raw
Writes  data/prepared/{train,dev,test}.{source,target}.txt, data/prepared/{dev,test}.jsonl, reports/corpus.json
Params  corpus, prepare
"""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nmt import config, paths
from nmt.config import load_params
from nmt.corpora import Corpus, load_corpus, read_chunks
from nmt.corpus import simplify_lines
from nmt.corpus_report import describe_corpus
from nmt.errors import UserError
from nmt.files import fresh_folder, write_json, write_json_lines, write_lines
from nmt.filters import Outcome, reasons_to_drop
from nmt.pairs import Pairs
from nmt.splits import HELD_OUT, Part, in_drawn_order, leaks, link, references, related, split_by_components
from nmt.stages.runner import run


def main() -> None:
    """Text, split, filters; then files and the report."""
    params = load_params()
    languages = (params.corpus.source, params.corpus.target)
    corpus = load_corpus(params.corpus.name, *languages)
    seed = params.prepare.split_seed
    with fresh_folder(paths.PREPARED) as folder:
        work = folder / "chunks"
        work.mkdir()
        chunks = read_chunks(corpus, paths.RAW, *languages)
        text = Pairs.write(work, chunks, languages, params.prepare.unicode)
        pairs = filtered(divided(linked(text), corpus.has_own_split, params.prepare), text, params.prepare)
        refuse_leaks(pairs, corpus)
        records = {part: held_out_records(pairs, text, part, corpus, languages[1], seed) for part in HELD_OUT}
        write_parts(folder, pairs, text, records)
        counts = records["test"]["references"].map(len).to_list()
        report = describe_corpus(pairs, corpus, languages=languages, seed=seed, test_references=counts)
        shutil.rmtree(work)
    write_json(paths.CORPUS_REPORT, {"corpus": params.corpus.name, **report})


def linked(text: Pairs) -> pd.DataFrame:
    """The pairs without their text: split, id, lengths, keys and component."""
    lengths = {f"{side}_length": text.numbers(f"{side}_length") for side in paths.SIDES}
    prints = [text.fingerprints(f"{side}_key") for side in paths.SIDES]
    keys = link(*prints, *(column == 0 for column in lengths.values()))
    return keys.assign(split=text.splits(), id=text.strings("id"), **lengths)


def divided(pairs: pd.DataFrame, has_own_split: bool, rules: config.Prepare) -> pd.DataFrame:
    """The pairs with `part`: train, dev, test or spare."""
    if has_own_split:
        return pairs.assign(part=pairs["split"].astype(Part))
    usable = ((pairs["source_length"] > 0) & (pairs["target_length"] > 0)).to_numpy()
    part = pd.Series("train", index=pairs.index, dtype=Part)
    part[usable] = split_by_components(
        pairs["id"][usable],
        pairs["component"][usable],
        pairs["source_length"].to_numpy()[usable],
        test_pairs=rules.test_pairs,
        dev_pairs=rules.dev_pairs,
        seed=rules.split_seed,
        strata=rules.length_strata,
        max_component_share=rules.max_component_share,
    )
    return pairs.assign(part=part)


def filtered(pairs: pd.DataFrame, text: Pairs, rules: config.Prepare) -> pd.DataFrame:
    """The pairs with `dropped`, why a train pair is not used; a train part with nothing left is a UserError."""
    train = (pairs["part"] == "train").to_numpy()
    facts = pairs[["source_length", "target_length"]].assign(
        **{name: text.numbers(name) for name in ("script_share", "identical")}
    )
    rows = np.flatnonzero(train)
    reasons = reasons_to_drop(facts[train], lambda some: text.fingerprints("pair")[rows[some]], rules.train_filters)
    if not (reasons == "").any():
        counts = ", ".join(f"{reason} {count}" for reason, count in reasons.value_counts().items() if count)
        why = f"no train pair is left ({counts or 'there was none'})"
        raise UserError(f"{why}; loosen prepare.train_filters in params.yaml")
    dropped = pd.Series("", index=pairs.index, dtype=Outcome)
    dropped[train] = reasons
    return pairs.assign(dropped=dropped)


def refuse_leaks(pairs: pd.DataFrame, corpus: Corpus) -> None:
    """Fail if a sentence of dev or test stands in train; a corpus with its own split only has them reported."""
    found = leaks(pairs, pairs["part"].where(pairs["dropped"] == ""))
    count = sum(found[part]["either"] for part in HELD_OUT)
    if count and not corpus.has_own_split:
        raise UserError(f"{count} dev and test pairs have a sentence that stands in train: no score would count")


def held_out_records(
    pairs: pd.DataFrame, text: Pairs, part: str, corpus: Corpus, target_language: str, seed: int
) -> pd.DataFrame:
    """The pairs of dev or test, in their final order, with their text, `references` and `reference_ids`."""
    if corpus.has_own_split:
        chosen = pairs[pairs["part"] == part]
        rows = pd.Series({row: [row] for row in chosen.index}, dtype=object)
    else:
        chosen = in_drawn_order(pairs, part, seed)
        others = related(pairs, chosen)
        rows = references(others.assign(target=text.texts("target", others.index.to_numpy())), chosen)
    every = np.array(sorted({row for group in rows for row in group}))
    raw = text.texts("raw_target", every)
    shown = dict(zip(every, simplify_lines(raw) if target_language == "zh" else raw, strict=True))
    ids = dict(zip(every, text.texts("target_id", every), strict=True))
    own = {name: text.texts(name, chosen.index.to_numpy()) for name in ("source", "target", "raw_source", "source_id")}
    return chosen.assign(
        **own,
        references=rows.map(lambda group: [shown[row] for row in group]),
        reference_ids=rows.map(lambda group: [ids[row] for row in group if ids[row] is not None]),
    )


def write_parts(folder: Path, pairs: pd.DataFrame, text: Pairs, records: dict[str, pd.DataFrame]) -> None:
    """Parallel text of all parts, and what scoring needs of dev and test."""
    train = np.flatnonzero((pairs["part"] == "train") & (pairs["dropped"] == ""))
    for side in paths.SIDES:
        write_lines(folder / paths.prepared_text("train", side).name, text.lines(side, train))
        for part, rows in records.items():
            write_lines(folder / paths.prepared_text(part, side).name, rows[side])
    for part, rows in records.items():
        write_json_lines(folder / paths.prepared_records(part).name, map(_record, rows.to_dict("records")))


def _record(row: dict[Any, Any]) -> dict[str, Any]:
    source_id = row["source_id"]
    return {
        "id": row["id"],
        "source": row["raw_source"],
        "references": row["references"],
        "source_id": source_id if isinstance(source_id, str) else None,
        "reference_ids": row["reference_ids"],
    }


if __name__ == "__main__":
    run(main)
