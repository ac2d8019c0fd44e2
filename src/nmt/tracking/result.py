"""One variant with one seed under the present parameters, code and data, and what of it lies on disk."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from nmt import files, identity, paths
from nmt.config import Params, load_params
from nmt.errors import UserError


@dataclass(frozen=True)
class Result:
    """A result as it ought to be now; its properties tell what of it exists, and never take an older one's files."""

    variant: str
    seed: int
    params: Params
    training_id: str
    result_id: str

    @classmethod
    def present(cls, variant: str, seed: int) -> "Result":
        """The result that belongs to `params.yaml`, code and data as they are now."""
        params = load_params()
        params.variant(variant)
        training_id = identity.training_id(variant, seed)
        return cls(variant, seed, params, training_id, identity.result_id(training_id, params))

    @property
    def name(self) -> str:
        return identity.run_name(self.variant, self.seed, self.result_id, self.params)

    @property
    def bundle(self) -> Path:
        return paths.bundle(self.variant, self.seed)

    @property
    def training_report(self) -> Path:
        return paths.training_report(self.variant, self.seed)

    @property
    def history_file(self) -> Path:
        return self.training_report / "history.csv"

    @property
    def scores_file(self) -> Path:
        return paths.scores(self.variant, self.seed)

    @property
    def attention_report(self) -> Path:
        return paths.attention_report(self.variant, self.seed)

    @cached_property
    def training_summary(self) -> dict[str, Any] | None:
        """`summary.json` of this very training, or None."""
        return _read_if_of(self.training_report / "summary.json", training_id=self.training_id)

    @cached_property
    def scores(self) -> dict[str, Any] | None:
        """The scores of this very result, or None."""
        return _read_if_of(self.scores_file, result_id=self.result_id)

    @cached_property
    def attention_summary(self) -> dict[str, Any] | None:
        """The attention's statistics over this very result's translations, or None.

        Translations do not say whose they are: it is the scores that tell that they are not another result's.
        """
        translations = paths.translations(self.variant, self.seed) / "hypotheses.jsonl"
        if self.scores is None or not translations.exists():
            return None
        return _read_if_of(self.attention_report / "summary.json", hypotheses_sha256=files.sha256(translations))

    @property
    def finished(self) -> bool:
        return self.training_summary is not None and self.scores is not None

    @property
    def state(self) -> str:
        """What `nmt publish` says of a result with nothing to add."""
        if self.finished:
            return "nothing to add"
        if self.training_summary is not None:
            return "trained, not scored yet; `dvc repro` goes on"
        if (self.training_report / "summary.json").exists():
            return "what is on disk belongs to other parameters, code or data; `dvc repro` brings it up to date"
        return "not trained yet; `dvc repro` does it"


def _read_if_of(path: Path, **owner: str) -> dict[str, Any] | None:
    """Read a JSON object whose entries name the given owner; None if it is missing or another's."""
    if not path.exists():
        return None
    content = files.read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a JSON object; `dvc repro --force` makes it anew")
    return content if owner.items() <= content.items() else None
