"""What stands in the files that stages hand on: their records as types, checked where they are read.

A record may hold more than is named here; what is named must be there, and of that type.
"""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from nmt import files
from nmt.errors import UserError

_REMEDY = "it was made by another version, or edited; `dvc repro --force` makes it anew"


class Record(BaseModel):
    """A JSON object."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)


class Labelled(Record):
    """A line of `dev.jsonl` and `test.jsonl`, as models and the analysis of attention read it."""

    id: str
    source: str
    references: Annotated[list[str], Field(min_length=1)]


class Attributed(Record):
    """Such a line, as scoring and reports read it."""

    source: str
    references: Annotated[list[str], Field(min_length=1)]
    source_id: str | None
    reference_ids: list[str]


class Candidate(Record):
    """One of the n best."""

    pieces: list[str]
    score: float
    log_probability: float


class Translated(Record):
    """A line of `hypotheses.jsonl`."""

    source_pieces: list[str]
    hypotheses: Annotated[list[Candidate], Field(min_length=1)]


class ForcedLine(Record):
    """A line of `references.jsonl`, as scoring reads it."""

    pieces: list[str]
    log_probability: float


class Forced(ForcedLine):
    """A line of `references.jsonl`, as the analysis of attention reads it."""

    source_pieces: list[str]


class JoinedLine(Record):
    """A line of `joined.jsonl`."""

    joined: int
    members: list[int]
    references: list[str]
    hypothesis: str


class Words(Record):
    """A line of `words.jsonl`."""

    id: str
    source: list[str]
    target: list[str]
    attention: list[list[float]] | None
    erasure: list[list[float]] | None
    gradient: list[list[float]] | None
    entropy: float | None
    chrf: float | None
    score: float | None


class Training(Record):
    """`summary.json` of a training."""

    training_id: str
    parameters: int
    updates: int
    epochs: int
    best_epoch: int
    """The one whose weights were kept."""
    source_tokens: int
    target_tokens: int
    flops: float
    train_loss: float
    dev_loss: float
    dev_perplexity: float


class Row(Record):
    """A row of a table, which holds just these columns: it becomes a line of a CSV file."""

    model_config = ConfigDict(extra="forbid")


class Estimate(Record):
    """Numbers with their intervals: of each, all three are known, or all are null."""

    known_together: ClassVar[tuple[tuple[str, str, str], ...]]

    @model_validator(mode="after")
    def _known_together(self) -> Self:
        for names in self.known_together:
            if len({getattr(self, name) is None for name in names}) > 1:
                raise ValueError(f"of {', '.join(names)} some are null, and some are not")
        return self


class AlignedRow(Row, Estimate):
    """The quality of the word links that one method reads; null where it has none."""

    known_together = (("aer", "low", "high"),)
    method: str
    precision: float | None
    recall: float | None
    aer: float | None
    low: float | None
    high: float | None


class Alignment(Record):
    """Word links beside those that were made by hand."""

    sentences: int
    rows: list[AlignedRow]


class Agreement(Estimate):
    """How far two ways to tell where a word comes from agree; null where there was nothing to compare."""

    known_together = (("tau", "tau_low", "tau_high"), ("top", "top_low", "top_high"))
    tau: float | None
    tau_low: float | None
    tau_high: float | None
    top: float | None
    top_low: float | None
    top_high: float | None


class Influence(Record):
    """Each two of them, by both names."""

    hypotheses: dict[str, Agreement]


class Analysis(Record):
    """`summary.json` of an analysis of attention."""

    attention: dict[str, Any] | None = None
    alignment: Alignment | None = None
    influence: Influence | None = None


class Score(Record):
    """A metric with its interval."""

    score: float
    low: float
    high: float
    signature: str


class Ranked(Record):
    """The scores of one model, as the leaderboard reads them, also those of older commits."""

    result_id: str
    variant: str
    seed: int
    perplexity_per_token: float
    bleu: Score
    chrf: Score
    ter: Score


class LengthRow(Row):
    """The scores of a class of source lengths."""

    low: int
    high: int
    sentences: int
    mean_length: float
    bleu: float
    bleu_low: float
    bleu_high: float
    chrf: float
    chrf_low: float
    chrf_high: float


class JoinedRow(Row):
    """The scores of inputs of so many sentences."""

    joined: int
    sentences: int
    bleu: float
    low: float
    high: float
    chrf: float


class FrequencyRow(Row, Estimate):
    """Which share of a class of reference words was found; null where the test set has none of them."""

    known_together = (("recall", "recall_low", "recall_high"),)
    low: int
    high: int | None
    words: int
    recall: float | None
    recall_low: float | None
    recall_high: float | None


class AblatedRow(Row):
    """BLEU with the attention disturbed."""

    bleu: float
    low: float
    high: float


class Measured(Record):
    """All scores of one model, or of an ensemble."""

    bleu: Score
    chrf: Score
    ter: Score
    attention: str
    perplexity_per_token: float
    by_length: list[LengthRow]
    joined: list[JoinedRow]
    perplexity_per_word: float
    exact_match: float
    by_frequency: list[FrequencyRow]
    ablations: dict[str, AblatedRow]


class Scores(Measured, Ranked):
    """The scores of one model."""


class EnsembleScores(Measured):
    """The scores of the models of several seeds that translate together."""

    variant: str
    seeds: list[int]


def read_one(path: Path, kind: type[Record]) -> dict[str, Any]:
    """Read a JSON file that holds one record; anything else is a UserError."""
    return check(files.read_json(path), kind, str(path))


def read_each(path: Path, kind: type[Record]) -> list[dict[str, Any]]:
    """Read a file of one record a line."""
    lines = enumerate(files.read_json_lines(path), start=1)
    return [check(value, kind, f"{path}, line {number}") for number, value in lines]


def check(value: Any, kind: type[Record], origin: str) -> dict[str, Any]:
    """The value as it is, if it is a record of that kind; `origin` is where it came from."""
    try:
        kind.model_validate(value)
    except ValidationError as error:
        raise UserError(f"{origin}: {explain(error)}; {_REMEDY}") from None
    checked: dict[str, Any] = value
    return checked


def explain(error: ValidationError) -> str:
    """The first fault of pydantic's list: where, and what should stand there."""
    fault = error.errors(include_input=False, include_url=False)[0]
    place = ".".join(map(str, fault["loc"]))
    return f"{place}: {fault['msg']}" if place else fault["msg"]
