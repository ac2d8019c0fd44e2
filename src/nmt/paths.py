"""Where everything lies: the only module that spells a folder's name.

All paths are relative to the repository root, which is where DVC starts a stage and where `make` and `nmt` are called.
"""

from pathlib import Path

PARAMS = Path("params.yaml")
PIPELINE = Path("dvc.yaml")
LOCK = Path("dvc.lock")
DVC_LOCK = Path(".dvc/tmp/lock")  # DVC's own: held while one dvc plans or records
DVC_READERS = Path(".dvc/tmp/rwlock")  # who reads and writes which output
CORPORA = Path("data/corpora.yaml")
SOURCES = Path("src")
PRESETS = Path("presets")

DATA = Path("data")
RAW = Path("data/raw")
PREPARED = Path("data/prepared")
GOLD = Path("data/gold")  # hand-made word links, in git
TOKENIZED = Path("data/tokenized")
MODELS = Path("models")
REPORTS = Path("reports")
STATE = Path(".nmt")  # resume state, locks and spools: outside every DVC output, ignored by git
UNFINISHED = STATE / "unfinished"

ENSEMBLE = "ensemble"  # stands for a seed where all seeds' models of a variant translate together
SIDES = ("source", "target")
SPLITS = ("train", "dev", "test")

CORPUS_REPORT = REPORTS / "corpus.json"
TOKENIZATION_REPORT = REPORTS / "tokenization.json"
TRAINING = REPORTS / "training"
TRANSLATIONS = REPORTS / "translations"
SCORES = REPORTS / "scores"
ATTENTION = REPORTS / "attention"
COMPARISON = REPORTS / "comparison"
LEADERBOARD = REPORTS / "experiments" / "leaderboard.csv"
INGREDIENTS = "ingredients"  # the study that the report page shows
PROMOTIONS = REPORTS / "promotions.csv"
PAGE = REPORTS / "report.html"


def prepared_text(split: str, side: str) -> Path:
    """Normalised sentences, one a line: what the model reads (`source`) and learns to write (`target`)."""
    return PREPARED / f"{split}.{side}.txt"


def prepared_records(split: str) -> Path:
    """One JSON object a line for dev and test: ids, raw source, raw references."""
    return PREPARED / f"{split}.jsonl"


def gold_links(corpus: str) -> Path:
    """Hand-made links of some test sentences, one JSON object a line; a corpus may have none."""
    return GOLD / f"{corpus}.jsonl"


def preset(name: str) -> Path:
    """A file of overrides for `params.yaml`."""
    return PRESETS / f"{name}.yaml"


def subword_model(side: str) -> Path:
    """The SentencePiece model of one side."""
    return TOKENIZED / f"{side}.model"


def token_store(split: str, side: str) -> Path:
    """The stem of `<stem>.ids.npy` and `<stem>.offsets.npy`."""
    return TOKENIZED / f"{split}.{side}"


def training_store(side: str, number: int) -> Path:
    """The stem of one segmentation of the training text: 0 is the best, those from 1 on are random."""
    return TOKENIZED / (f"train.{side}.sample-{number}" if number else token_store("train", side).name)


def stage(name: str, variant: str, seed: int | str) -> str:
    """What DVC calls the stage of one model, or of an ensemble."""
    return f"{name}_{ENSEMBLE}@{variant}" if seed == ENSEMBLE else f"{name}@{variant}-{seed}"


def bundle(variant: str, seed: int) -> Path:
    """The folder of a trained model, which translates without the rest of the repository."""
    return MODELS / variant / str(seed)


def training_report(variant: str, seed: int) -> Path:
    """`history.csv` and `summary.json` of one training."""
    return TRAINING / variant / str(seed)


def translations(variant: str, seed: int | str) -> Path:
    """Hypotheses, forced decodings and attention matrices of the test set, by one seed's model or the ENSEMBLE."""
    return TRANSLATIONS / variant / str(seed)


def scores(variant: str, seed: int | str) -> Path:
    """Every metric of one model, or of the ENSEMBLE, on the test set."""
    return SCORES / variant / f"{seed}.json"


def attention_report(variant: str, seed: int) -> Path:
    """Word links, figures and statistics of one model's attention."""
    return ATTENTION / variant / str(seed)


def unfinished(stage: str, work_id: str) -> Path:
    """What a stage has done so far of work that a kill would cost dearly."""
    return UNFINISHED / f"{stage}-{work_id}"


def study(name: str) -> Path:
    """The steps of a study."""
    return REPORTS / "experiments" / name / "study.yaml"


def study_table(name: str) -> Path:
    """What its steps came to, in git."""
    return REPORTS / "experiments" / name / "table.csv"


def stage_lock(stage: str) -> Path:
    """Held while a stage runs."""
    return STATE / "stages" / f"{stage}.lock"


def stage_locks() -> list[Path]:
    """The locks of all stages that ever ran here."""
    return sorted((STATE / "stages").glob("*.lock"))


def live_points(training_id: str) -> Path:
    """The spool of a training's live points."""
    return STATE / "live" / f"{training_id}.jsonl"
