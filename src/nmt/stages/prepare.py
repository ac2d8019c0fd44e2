"""Normalise the corpus, split it without leaks, filter the training part.

Reads   data/corpora.yaml, data/raw
Writes  data/prepared/{train,dev,test}.{source,target}.txt, data/prepared/{dev,test}.jsonl, reports/corpus.json
Params  corpus, prepare
"""

from pathlib import Path
from typing import Any

import pandas as pd

from nmt import config, paths
from nmt.config import load_params
from nmt.corpora import Corpus, load_corpus, read_pairs
from nmt.corpus import normalise_lines, simplify_lines, text_lengths
from nmt.corpus_report import describe_corpus
from nmt.errors import UserError
from nmt.files import check_folder, fresh_folder, write_json, write_json_lines, write_lines
from nmt.filters import reasons_to_drop
from nmt.splits import HELD_OUT, in_drawn_order, leaks, link, references, split_by_components
from nmt.stages.runner import run


def main() -> None:
    """Text, split, filters; then files and the report."""
    params = load_params()
    languages = (params.corpus.source, params.corpus.target)
    corpus = load_corpus(params.corpus.name, *languages)
    check_folder(paths.RAW)
    pairs = normalised(read_pairs(corpus, paths.RAW, *languages), languages, params.prepare.unicode)
    pairs = divided(pairs, corpus.has_own_split, languages, params.prepare)
    pairs = filtered(pairs, languages, params.prepare.train_filters)
    refuse_leaks(pairs, corpus)
    seed = params.prepare.split_seed
    records = {part: held_out_records(pairs, part, corpus, languages[1], seed) for part in HELD_OUT}
    with fresh_folder(paths.PREPARED) as folder:
        write_parts(folder, pairs, records)
    counts = records["test"]["references"].map(len).to_list()
    report = describe_corpus(pairs, corpus, languages=languages, seed=seed, test_references=counts)
    write_json(paths.CORPUS_REPORT, {"corpus": params.corpus.name, **report})


def normalised(raw: pd.DataFrame, languages: tuple[str, str], forms: config.UnicodeForms) -> pd.DataFrame:
    """`source` and `target` as the model sees them; `raw_source` and `raw_target` as delivered."""
    pairs = raw.rename(columns={side: f"raw_{side}" for side in paths.SIDES})
    for side, language, form in zip(paths.SIDES, languages, (forms.source, forms.target), strict=True):
        pairs[side] = normalise_lines(pairs[f"raw_{side}"].to_list(), language, form)
    return pairs


def divided(
    pairs: pd.DataFrame, has_own_split: bool, languages: tuple[str, str], rules: config.Prepare
) -> pd.DataFrame:
    """The pairs with their keys, component and `part`: train, dev, test or spare."""
    pairs = pairs.join(link(pairs, *languages))
    if has_own_split:
        return pairs.assign(part=pairs["split"])
    usable = pairs[(pairs["source"] != "") & (pairs["target"] != "")]
    part = split_by_components(
        usable["id"],
        usable["component"],
        text_lengths(usable["source"], languages[0]),
        test_pairs=rules.test_pairs,
        dev_pairs=rules.dev_pairs,
        seed=rules.split_seed,
        strata=rules.length_strata,
        max_component_share=rules.max_component_share,
    )
    return pairs.assign(part=part.reindex(pairs.index, fill_value="train"))


def filtered(pairs: pd.DataFrame, languages: tuple[str, str], filters: config.TrainFilters) -> pd.DataFrame:
    """The pairs with `dropped`, why a train pair is not used; a train part with nothing left is a UserError."""
    train = pairs["part"] == "train"
    reasons = reasons_to_drop(pairs[train], *languages, filters)
    if not (reasons == "").any():
        counts = ", ".join(f"{reason} {count}" for reason, count in reasons.value_counts().items())
        why = f"no train pair is left ({counts or 'there was none'})"
        raise UserError(f"{why}; loosen prepare.train_filters in params.yaml")
    return pairs.assign(dropped=reasons.reindex(pairs.index, fill_value=""))


def refuse_leaks(pairs: pd.DataFrame, corpus: Corpus) -> None:
    """Fail if a sentence of dev or test stands in train; a corpus with its own split only has them reported."""
    kept = pairs[pairs["dropped"] == ""]
    found = sum(leaks(kept, kept["part"])[part]["either"] for part in HELD_OUT)
    if found and not corpus.has_own_split:
        raise UserError(f"{found} dev and test pairs have a sentence that stands in train: no score would count")


def held_out_records(pairs: pd.DataFrame, part: str, corpus: Corpus, target_language: str, seed: int) -> pd.DataFrame:
    """The pairs of dev or test, in their final order, with `references` and `reference_ids`."""
    if corpus.has_own_split:
        chosen = pairs[pairs["part"] == part]
        rows = pd.Series({row: [row] for row in chosen.index}, dtype=object)
    else:
        chosen = in_drawn_order(pairs, part, seed)
        rows = references(pairs, chosen)
    every = sorted({row for group in rows for row in group})
    raw = pairs.loc[every, "raw_target"].to_list()
    text = dict(zip(every, simplify_lines(raw) if target_language == "zh" else raw, strict=True))
    ids = pairs.loc[every, "target_id"].dropna().to_dict()
    return chosen.assign(
        references=rows.map(lambda group: [text[row] for row in group]),
        reference_ids=rows.map(lambda group: [ids[row] for row in group if row in ids]),
    )


def write_parts(folder: Path, pairs: pd.DataFrame, records: dict[str, pd.DataFrame]) -> None:
    """Parallel text of all parts, and what scoring needs of dev and test."""
    train = pairs[(pairs["part"] == "train") & (pairs["dropped"] == "")]
    for part, rows in {"train": train, **records}.items():
        for side in paths.SIDES:
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
