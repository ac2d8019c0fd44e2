"""Everything that needs the trained model: hypotheses, forced references, attention, influence, joined sentences.

Reads   models/<variant>/<seed>, data/prepared/test.{source.txt,target.txt,jsonl}, data/gold
Writes  reports/translations/<variant>/<seed>:
        hypotheses.txt                    the best hypothesis of each test sentence, detokenised
        hypotheses.jsonl                  its pieces and score, and those of the n best
        attention.npz                     [T, S] of each best hypothesis; not without attention
        references.jsonl                  each reference, forced: log-probabilities per token
        references.attention.npz          [T, S] under forced decoding; not without attention
        erasure.npz, gradient.npz         [T, source words] of each best hypothesis, in nats (see nmt.influence)
        references.{erasure,gradient}.npz the same of the references that have gold links; [0, 0] of all others
        ablation.<name>.txt               the best hypotheses with the attention disturbed; not without attention
        joined.jsonl                      2, 3, ... consecutive test sentences joined and translated as one
Params  corpus, runtime, translate

With several GPUs each translates a part; on a CPU the cores that no other stage uses do, or as many processes as
NMT_PROCESSES says. No result depends on it.
It takes minutes, so what is done lies in .nmt/unfinished/translate-<id> part by part, and a run that was killed goes on
from there.
"""

import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from nmt import identity, paths, records, tracking, unfinished
from nmt.config import load_params
from nmt.corpus import join_sentences
from nmt.decoding import Decoding
from nmt.errors import UserError
from nmt.files import fresh_folder, read_json_lines, read_lines, write_json_lines, write_lines, write_matrices
from nmt.gold import read_gold
from nmt.runtime import processes, processor, resolve
from nmt.stages.runner import run_for_model, share_of_cores
from nmt.translation import Forced, Hypothesis, Translation
from nmt.translator import Translator
from nmt.words import segment

WORTH_A_PROCESS = 500
"""Test sentences that take longer than a process takes to start."""


def main(variant: str, seed: int) -> None:
    """Translate the test set with one model."""
    params = load_params()
    sources, targets, pairs = read_test_set()
    translator = Translator.load(
        paths.bundle(variant, seed),
        Decoding.of(params.translate),
        device=params.runtime.device,
        threads=params.runtime.threads,
        processes=processes(resolve(params.runtime).device, cores=useful_cores(len(sources), params.runtime.threads)),
    )
    labelled = read_gold(paths.gold_links(params.corpus.name))
    given = [pair["id"] in labelled for pair in pairs]
    groups = [group for joined in params.translate.joined for group in consecutive_groups(len(sources), joined)]
    with closing(translator), unfinished.work("translate", work_id("translate", variant, seed, translator)) as done:
        hypotheses, references = done / "hypotheses", done / "references"
        part(hypotheses, write_hypotheses, translator, sources)
        part(references, write_references, translator, sources, targets)
        part(done / "influence", write_influence, translator, hypotheses, references, given)
        for name in params.translate.ablations if translator.has_attention else ():
            part(done / name, write_ablation, translator, sources, name)
        part(done / "joined", write_joined, translator, groups, sources, pairs)
        gather(done, paths.translations(variant, seed))
    tracking.publish_model(variant, seed)


def read_test_set() -> tuple[list[str], list[str], list[dict[str, Any]]]:
    """Normalised source and target sentences and the raw records, line by line."""
    source, target = (paths.prepared_text("test", side) for side in paths.SIDES)
    record = paths.prepared_records("test")
    sources, targets, pairs = read_lines(source), read_lines(target), records.read_each(record, records.Labelled)
    if not len(sources) == len(targets) == len(pairs):
        raise UserError(
            f"{source} has {len(sources)} lines, {target} {len(targets)}, {record} {len(pairs)}: "
            "they must match line by line; run `dvc repro prepare`"
        )
    return sources, targets, pairs


def useful_cores(sentences: int, threads: int) -> int:
    """How many processes of so many threads: of those that would fit, as many as are worth their start."""
    return max(1, min(share_of_cores() // threads, sentences // WORTH_A_PROCESS))


def work_id(stage: str, variant: str, seed: int | str, translator: Translator) -> str:
    """Whose parts this run may go on with: of the same model, data, code and parameters, on the same processor."""
    return identity.work_id(stage, variant, seed, torch.__version__, processor(translator.device))


def part(folder: Path, write: Callable[..., None], *inputs: object) -> None:
    """Write a part of the outputs, unless a run that was killed has; all together take minutes."""
    if not unfinished.has_part(folder):
        with fresh_folder(folder) as draft:
            write(draft, *inputs)


def gather(done: Path, output: Path) -> None:
    """Make the outputs of all parts."""
    with fresh_folder(output) as folder:
        for one in sorted(path for path in done.iterdir() if path.is_dir()):
            shutil.copytree(one, folder, dirs_exist_ok=True)
    unfinished.done(done, output)


def write_hypotheses(folder: Path, translator: Translator, sources: Sequence[str]) -> None:
    """The best as text, all with pieces and scores, and the attention of the best."""
    with _bar(len(sources), "test sentences") as bar:
        translations = translator.translate(sources, progress=bar.update)
    best = [translation.hypotheses[0] for translation in translations]
    write_lines(folder / "hypotheses.txt", (hypothesis.text for hypothesis in best))
    write_json_lines(folder / "hypotheses.jsonl", map(_translation_record, translations))
    _write_attention(folder / "attention.npz", best)


def write_references(folder: Path, translator: Translator, sources: Sequence[str], targets: Sequence[str]) -> None:
    """The log-probabilities of the references, and what the model looks at while it writes them."""
    with _bar(len(sources), "references") as bar:
        references = translator.score(sources, targets, progress=bar.update)
    write_json_lines(folder / "references.jsonl", map(_reference_record, references))
    _write_attention(folder / "references.attention.npz", references)


def write_influence(
    folder: Path, translator: Translator, hypotheses: Path, references: Path, labelled: Sequence[bool]
) -> None:
    """What each source word does to each piece of the best hypotheses, and of the references that are `labelled`."""
    translated = read_json_lines(hypotheses / "hypotheses.jsonl")
    best = [(one["source_pieces"], one["hypotheses"][0]["pieces"]) for one in translated]
    nothing: tuple[list[str], list[str]] = ([], [])
    given = [
        (one["source_pieces"], one["pieces"]) if wanted else nothing
        for one, wanted in zip(read_json_lines(references / "references.jsonl"), labelled, strict=True)
    ]
    language = translator.bundle.config.languages.source
    for prefix, pairs in (("", best), ("references.", given)):
        sources, targets = zip(*pairs, strict=True)
        shares = [segment(source, language).shares[:, :-1] for source in sources]
        with _bar(len(pairs), f"{prefix}influence") as bar:
            measured = translator.influence(sources, targets, shares, progress=bar.update)
        write_matrices(folder / f"{prefix}erasure.npz", [one.erasure for one in measured])
        write_matrices(folder / f"{prefix}gradient.npz", [one.gradient for one in measured])


def write_ablation(folder: Path, translator: Translator, sources: Sequence[str], name: str) -> None:
    """The best hypotheses with the attention disturbed in this way."""
    with _bar(len(sources), f"test sentences, attention {name}") as bar, translator.ablated(name):
        translations = translator.translate(sources, n_best=1, progress=bar.update)
    write_lines(folder / f"ablation.{name}.txt", (one.hypotheses[0].text for one in translations))


def consecutive_groups(sentences: int, size: int) -> list[range]:
    """The first `size` sentences, the next, and so on; a rest that is smaller is left out."""
    return [range(begin, begin + size) for begin in range(0, sentences - size + 1, size)]


def write_joined(
    folder: Path,
    translator: Translator,
    groups: Sequence[range],
    sources: Sequence[str],
    pairs: Sequence[dict[str, Any]],
) -> None:
    """Each group of test sentences as one line, translated, beside its members' first references as one."""
    languages = translator.bundle.config.languages
    texts = [join_sentences((sources[row] for row in group), languages.source) for group in groups]
    with _bar(len(groups), "joined sentences") as bar:
        translations = translator.translate(texts, n_best=1, whole_lines=True, progress=bar.update)
    rows = (
        {
            "joined": len(group),
            "members": list(group),
            "source": text,
            "references": [join_sentences((pairs[row]["references"][0] for row in group), languages.target)],
            "hypothesis": translation.hypotheses[0].text,
        }
        for group, text, translation in zip(groups, texts, translations, strict=True)
    )
    write_json_lines(folder / "joined.jsonl", rows)


def _translation_record(translation: Translation) -> dict[str, Any]:
    hypotheses = [
        {"text": one.text, "pieces": one.pieces, "score": one.score, "log_probability": one.log_probability}
        for one in translation.hypotheses
    ]
    return {"source_pieces": translation.source_pieces, "hypotheses": hypotheses}


def _reference_record(reference: Forced) -> dict[str, Any]:
    return {
        "source_pieces": reference.source_pieces,
        "pieces": reference.pieces,
        "log_probability": reference.log_probability,
        "token_log_probabilities": reference.token_log_probabilities,
    }


def _write_attention(path: Path, decoded: Sequence[Hypothesis] | Sequence[Forced]) -> None:
    """One matrix per line, unless the model has none."""
    matrices: list[np.ndarray] = [one.attention for one in decoded if one.attention is not None]
    if matrices:
        assert len(matrices) == len(decoded)
        write_matrices(path, matrices)


def _bar(total: int, unit: str) -> "tqdm[Any]":
    return tqdm(total=total, unit=f" {unit}", file=sys.stderr, disable=None)


if __name__ == "__main__":
    run_for_model(main)
