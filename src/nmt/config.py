"""`params.yaml` as typed, frozen sections.

Strict: an unknown, missing or ill-typed key is an error that names the nearest known one. No field has a default, so
this module cannot change a number, and what DVC sees in `params.yaml` is all there is. A stage loads `Params` at its
door and passes sections, or single values, down.
"""

import difflib
import reprlib
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from nmt import paths
from nmt.errors import UserError
from nmt.files import read_text

# Upper bounds are far above what makes sense, and below what makes a library overflow or the memory end.
Positive = Annotated[int, Field(gt=0, lt=2**31)]
Natural = Annotated[int, Field(ge=0, lt=2**31)]
Width = Annotated[int, Field(gt=0, le=2**16)]
Layers = Annotated[int, Field(gt=0, le=100)]
VocabularySize = Annotated[int, Field(ge=4, lt=2**16)]
Threads = Annotated[int, Field(gt=0, le=1024)]
Samples = Annotated[int, Field(gt=0, le=1_000_000)]
WIDEST_BEAM = 1000
Beam = Annotated[int, Field(gt=0, le=WIDEST_BEAM)]
LengthPenalty = Annotated[float, Field(ge=0.0, le=10.0)]
CoveragePenalty = Annotated[float, Field(ge=0.0, le=10.0)]
LengthRatio = Annotated[float, Field(gt=0.0, le=100.0)]
LengthExtra = Annotated[int, Field(gt=0, le=10_000)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Dropout = Annotated[float, Field(ge=0.0, lt=1.0)]
PositiveFloat = Annotated[float, Field(gt=0.0)]
NaturalFloat = Annotated[float, Field(ge=0.0)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_]*$")]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Language = Annotated[str, Field(pattern=r"^[a-z]{2,3}$")]


_UNTOLD = (ValueError, KeyError, IndexError, AttributeError, TypeError, OverflowError, RecursionError)
"""How ruamel fails on `!!int foo`, `!!bool foo`, a day 99, an escape beyond Unicode, thousands of brackets."""
_LONGEST_REASON = 500
_LONGEST_VALUE = 100
_MOST_FAULTS = 20


class Section(BaseModel):
    """A mapping of `params.yaml`."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


class Corpus(Section):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
    """An entry of `data/corpora.yaml`."""
    source: Language
    target: Language


class Variant(Section):
    attention: Literal["none", "additive", "dot", "general"]


class Runtime(Section):
    device: Literal["auto", "cpu", "cuda"]
    precision: Literal["auto", "float32", "bfloat16"]
    threads: Threads
    kernels: Literal["auto", "none"]


class UnicodeForms(Section):
    source: Literal["NFC", "NFKC"]
    target: Literal["NFC", "NFKC"]


class TrainFilters(Section):
    max_length: Positive
    max_length_ratio: Annotated[float, Field(ge=1.0)]
    min_script_share: Share
    drop_identical: bool
    drop_duplicates: bool


class Prepare(Section):
    test_pairs: Positive
    dev_pairs: Positive
    split_seed: Natural
    length_strata: Positive
    max_component_share: Share
    unicode: UnicodeForms
    train_filters: TrainFilters


class Subwords(Section):
    kind: Literal["unigram", "bpe"]
    vocabulary: Annotated[int, Field(ge=300, le=65_535)]
    """Pieces in all, the 256 bytes of the fallback and the special ones included."""
    character_coverage: Annotated[float, Field(gt=0.9, le=1.0)]


class Sampling(Section):
    segmentations: Annotated[int, Field(ge=0, le=1000)]
    """Random ones of the training text, beside the best: as many epochs read another one each."""
    alpha: Share
    """unigram: a segmentation is drawn with its probability to this power; bpe: so often a merge is skipped."""
    side: Literal["both", "source", "target"]
    """Whose text is cut at random; the other side's pieces are the best ones in every epoch."""

    def of(self, side: str) -> int:
        """How many random segmentations this side has."""
        return self.segmentations if self.side in {"both", side} else 0


class Tokenize(Section):
    training_characters: Positive
    """Of a longer training text, lines of about so many characters in all are what a subword model learns from."""
    source: Subwords
    target: Subwords
    joint: bool
    """Whether both sides have one model, which learns from half as much text of each."""
    sampling: Sampling

    @model_validator(mode="after")
    def _joint_is_one(self) -> "Tokenize":
        if self.joint and self.source != self.target:
            raise ValueError("a joint model is one for both sides: source and target must ask for the same")
        return self


class Encoder(Section):
    hidden_size: Width
    """Per direction."""
    layers: Layers
    bidirectional: bool


class Decoder(Section):
    hidden_size: Width
    layers: Layers


class DropoutRates(Section):
    word: Dropout
    """Of the pieces of the vocabulary, drawn for each example: one that is dropped is zero wherever it stands."""
    embedding: Dropout
    recurrent: Dropout
    output: Dropout


class Model(Section):
    cell: Literal["gru", "lstm"]
    embedding_size: Width
    encoder: Encoder
    decoder: Decoder
    attention_size: Width
    readout: Literal["state", "deep"]
    tie_output: bool
    tie_embeddings: bool
    """Whether source and target have one embedding, which wants a joint subword model."""
    layer_norm: bool
    residual: bool
    """Whether each layer but the first hands on the sum of its states and its input."""
    word_query: bool
    """Whether attention's query is the state beside the word that is read next; of the state alone else."""
    lexical: bool
    """Whether attention fetches the words' embeddings, too, from where a way leads to the output; plain has none."""
    dropout: DropoutRates


class Schedule(Section):
    warmup_updates: Natural
    decay: Literal["none", "linear", "cosine", "inverse_sqrt"]
    final_share: Share
    """Of the peak rate, at the last update of `max_epochs` (linear, cosine)."""


def _betas(betas: list[float]) -> list[float]:
    if len(betas) != 2 or not all(0.0 <= beta < 1.0 for beta in betas):
        raise ValueError("must be two numbers in [0, 1)")
    return betas


class Joining(Section):
    share: Share
    """Of the training sentences, in each epoch others."""
    up_to: Annotated[int, Field(ge=2)]
    """Sentences in one example; from 2 on, every number is equally likely."""


class Train(Section):
    max_epochs: Positive
    batch_tokens: Positive
    devices: Positive
    """Shares that a batch is cut into, each for a process with a GPU, or with `runtime.threads` CPU threads."""
    accumulate: Positive
    """Turns in which a device takes its share of a batch."""
    cuda_graphs: bool
    """Whether on CUDA an update's work is recorded once for each shape of batch; see `nmt.graphs`."""
    joining: Joining
    optimizer: Literal["adam", "adamw"]
    learning_rate: PositiveFloat
    betas: Annotated[list[float], AfterValidator(_betas)]
    weight_decay: NaturalFloat
    schedule: Schedule
    clip_norm: PositiveFloat
    label_smoothing: Dropout
    average_decay: Dropout
    patience: Natural
    """Epochs without a better dev loss before training stops with the best weights; 0: all epochs, the last weights."""


def _distinct(numbers: list[int]) -> list[int]:
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"{numbers} names a number twice")
    return numbers


def _rising(numbers: list[int]) -> list[int]:
    if any(low >= high for low, high in pairwise(numbers)):
        raise ValueError(f"{numbers} must rise from each number to the next")
    return numbers


class Translate(Section):
    beam_size: Beam
    length_penalty: LengthPenalty
    coverage_penalty: CoveragePenalty
    max_length_ratio: LengthRatio
    max_length_extra: LengthExtra
    n_best: Positive
    batch_sentences: Positive
    joined: Annotated[list[Annotated[int, Field(ge=2)]], AfterValidator(_distinct)]
    ablations: list[Literal["uniform", "shifted", "frozen"]]
    """Of attention; see `nmt.ablation`."""

    @model_validator(mode="after")
    def _n_best_fits_beam(self) -> "Translate":
        if self.n_best > self.beam_size:
            raise ValueError(f"n_best is {self.n_best}, but a beam of {self.beam_size} holds no more than that many")
        return self


class Evaluate(Section):
    bootstrap_samples: Samples
    confidence: Annotated[float, Field(gt=0.0, lt=1.0)]
    bootstrap_seed: Natural
    length_bins: Positive
    frequency_classes: Annotated[list[Positive], AfterValidator(_rising)]
    """How often a word stands in the training text at least, class by class; below the first, never or less."""


class AnalyzeAttention(Section):
    heatmaps: Natural
    link_threshold: Share
    uncovered: NaturalFloat
    """A source word whose weights add up to less may have been left out."""
    overcovered: PositiveFloat
    """A source word whose weights add up to more may have been translated twice."""
    worst_share: Share
    """Of the sentences, by attention and by translation: those that are in both are listed."""


class Compare(Section):
    baseline: Name
    bootstrap_samples: Samples
    bootstrap_seed: Natural
    examples: Annotated[int, Field(ge=0, le=10)]


class Report(Section):
    sentences: Positive


class Tracking(Section):
    experiment: Annotated[str, Field(min_length=1)]


class Promote(Section):
    metric: Literal["bleu", "chrf"]
    p_below: Annotated[float, Field(gt=0.0, lt=1.0)]
    """A champion is beaten where the paired test's two-sided p-value is lower."""


class Params(Section):
    """All of `params.yaml`."""

    corpus: Corpus
    variants: Annotated[dict[Name, Variant], Field(min_length=1)]
    seeds: Annotated[list[Seed], Field(min_length=1)]
    ensembles: list[Name]
    """Variants whose seeds' models also translate together."""
    runtime: Runtime
    prepare: Prepare
    tokenize: Tokenize
    model: Model
    train: Train
    translate: Translate
    evaluate: Evaluate
    analyze_attention: AnalyzeAttention
    compare: Compare
    report: Report
    tracking: Tracking
    promote: Promote

    @model_validator(mode="after")
    def _fits_together(self) -> "Params":
        if self.compare.baseline not in self.variants:
            raise ValueError(
                f"compare.baseline is {self.compare.baseline!r}, "
                f"which is not a key of variants: {', '.join(self.variants)}"
            )
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds: {self.seeds} names a seed twice")
        if self.model.tie_embeddings and not self.tokenize.joint:
            raise ValueError("model.tie_embeddings: source and target have other pieces; set tokenize.joint to true")
        if unknown := [name for name in self.ensembles if name not in self.variants]:
            raise ValueError(f"ensembles: {unknown[0]!r} is not a key of variants: {', '.join(self.variants)}")
        if len(set(self.ensembles)) < len(self.ensembles):
            raise ValueError(f"ensembles: {self.ensembles} names a variant twice")
        if self.ensembles and len(self.seeds) < 2:
            raise ValueError(f"ensembles: {self.ensembles} need several models of a variant, but seeds is {self.seeds}")
        return self

    def variant(self, name: str) -> Variant:
        """The variant of that name."""
        if name not in self.variants:
            raise UserError(f"{paths.PARAMS}: no variant {name!r}; there are {', '.join(self.variants)}")
        return self.variants[name]


def load_yaml(path: Path) -> Any:
    """Read YAML 1.2 as DVC does: `1e-05` is a number."""
    if not path.exists():
        raise UserError(f"{path} does not exist here; go to the repository's root, or `git restore {path}`")
    return parse_yaml(read_text(path), path)


def parse_yaml(text: str, origin: Path | str) -> Any:
    """Parse YAML 1.2 that came from `origin`."""
    try:
        return YAML(typ="safe", pure=True).load(text)
    except (YAMLError, *_UNTOLD) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())
        raise UserError(f"{origin} is not YAML: {reason[:_LONGEST_REASON]}") from None


def load_params(path: Path = paths.PARAMS) -> Params:
    """Read and check `params.yaml`; every fault is listed in one UserError."""
    values = load_yaml(path)
    if not isinstance(values, dict):
        raise UserError(f"{path} holds no mapping of sections")
    return parse_params(values, str(path))


def parse_params(values: dict[str, Any], origin: str) -> Params:
    """Check a mapping that came from `origin`."""
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        faults = error.errors()
        lines = [f"{origin}: {_explain(fault)}" for fault in faults[:_MOST_FAULTS]]
        more = len(faults) - len(lines)
        raise UserError("\n".join([*lines, *([f"{origin}: and {more} more faults"] if more else [])])) from None


def _explain(fault: Any) -> str:
    """One fault of pydantic's list as a sentence: the key's full name and, for a wrong key, the nearest known one."""
    location = [str(part) for part in fault["loc"] if part != "[key]"]
    key = ".".join(location)
    if fault["type"] == "extra_forbidden":
        known = _known_keys(location[:-1])
        near = difflib.get_close_matches(location[-1], known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known)}"
        return f"unknown key {key!r}; {hint}"
    if fault["type"] == "missing":
        return f"missing key {key!r}"
    if fault["type"] == "value_error":
        return f"{key}: {fault['ctx']['error']}" if key else str(fault["ctx"]["error"])
    return f"{key}: {fault['msg'][0].lower()}{fault['msg'][1:]}, got {shown(fault['input'])}"


def shown(value: Any) -> str:
    """A value as Python writes it, in one short line: aliases make a few lines of YAML endless."""
    form = reprlib.Repr()
    form.maxlevel, form.maxstring, form.maxother = 2, _LONGEST_VALUE, _LONGEST_VALUE
    return form.repr(value)[:_LONGEST_VALUE]


def _known_keys(location: list[str]) -> list[str]:
    """The keys that the section at `location` may have."""
    section: Any = Params
    for part in location:
        if section is Params and part == "variants":
            section = {"": Variant}
        elif isinstance(section, dict):
            section = Variant
        else:
            section = section.model_fields[part].annotation
    return [] if isinstance(section, dict) else list(section.model_fields)
