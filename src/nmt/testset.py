"""The test set and what one model made of it, as the stages before wrote them, checked to fit together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nmt import paths, records
from nmt.errors import UserError
from nmt.files import read_lines


@dataclass(frozen=True)
class Sentences:
    """The test set: raw text, in order."""

    sources: Sequence[str]
    references: Sequence[Sequence[str]]
    """The pair's own first, then the source's other translations."""
    source_ids: Sequence[str | None]
    reference_ids: Sequence[Sequence[str]]

    def __len__(self) -> int:
        """How many there are."""
        return len(self.sources)


@dataclass(frozen=True)
class Translations:
    """One model's output for every test sentence."""

    hypotheses: Sequence[str]
    forced: Sequence[dict[str, Any]]
    """For each pair's own reference: `pieces` (the end of the sentence included) and `log_probability`."""
    joined: Sequence[dict[str, Any]]
    """For each input of several sentences: `joined`, `members`, `references`, `hypothesis`."""
    ablations: Mapping[str, Sequence[str]]
    """Hypotheses with the attention disturbed, by the name of the disturbance; none of a model without attention."""


def read_sentences() -> Sentences:
    """Read the test set."""
    path = present(paths.prepared_records("test"), "prepare")
    pairs = records.read_each(path, records.Attributed)
    if not pairs:
        raise UserError(f"{path} holds no sentence; raise prepare.test_pairs and run `dvc repro prepare`")
    return Sentences(
        sources=[pair["source"] for pair in pairs],
        references=[pair["references"] for pair in pairs],
        source_ids=[pair["source_id"] for pair in pairs],
        reference_ids=[pair["reference_ids"] for pair in pairs],
    )


def read_translations(variant: str, seed: int | str, sentences: Sentences) -> Translations:
    """Read one model's translations of `sentences`, or the ensemble's."""
    folder, stage = paths.translations(variant, seed), paths.stage("translate", variant, seed)
    translations = Translations(
        hypotheses=read_lines(present(folder / "hypotheses.txt", stage)),
        forced=records.read_each(present(folder / "references.jsonl", stage), records.ForcedLine),
        joined=records.read_each(present(folder / "joined.jsonl", stage), records.JoinedLine),
        ablations={path.name.split(".")[1]: read_lines(path) for path in sorted(folder.glob("ablation.*.txt"))},
    )
    ablated = [(f"ablation.{name}.txt", lines) for name, lines in translations.ablations.items()]
    lined: list[tuple[str, Sequence[Any]]] = [*ablated, ("hypotheses.txt", translations.hypotheses)]
    for name, lines in (*lined, ("references.jsonl", translations.forced)):
        if len(lines) != len(sentences):
            raise UserError(
                f"{folder / name} has {len(lines)} lines, the test set {len(sentences)}; run `dvc repro {stage}`"
            )
    return translations


def read_training(variant: str, seed: int) -> dict[str, Any]:
    """Read the summary of one training."""
    path = paths.training_report(variant, seed) / "summary.json"
    return records.read_one(present(path, paths.stage("train", variant, seed)), records.Training)


def present(path: Path, stage: str) -> Path:
    """Return `path`, or say which stage makes it."""
    if not path.exists():
        raise UserError(f"{path} does not exist; run `dvc repro {stage}`")
    return path
