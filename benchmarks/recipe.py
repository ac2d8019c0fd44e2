"""What a recipe comes to on dev: the way to choose one without a look at the test set.

    python benchmarks/recipe.py train.max_epochs=16 model.dropout.output=0.3      # after `dvc repro tokenize`

Trains one model on data/tokenized with params.yaml and the changes given (what `prepare` and `tokenize` do cannot be
changed here), prints each epoch's losses, then translates dev: BLEU of its sentences, and of four at a time joined into
one input, both against the pairs' own references alone. `--folder` keeps the bundle; `--variant` and `--seed` choose
the model. docs/experiments.md has the outcomes.
"""

import argparse
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from nmt import paths
from nmt.config import Params, load_yaml, parse_params, parse_yaml
from nmt.corpus import join_sentences
from nmt.decoding import Decoding
from nmt.distributed import Team
from nmt.errors import UserError
from nmt.files import read_json_lines, read_lines
from nmt.runtime import resolve
from nmt.scoring import bleu, chrf, statistics
from nmt.stages.train import make_trainer, write_bundle
from nmt.training import Trainer
from nmt.translator import Translator

JOINED = 4


def changed_params(changes: Iterable[str]) -> Params:
    """params.yaml with other values for some keys, such as `train.learning_rate=0.003`."""
    values = load_yaml(paths.PARAMS)
    for change in changes:
        key, _, text = change.partition("=")
        *parents, last = key.split(".")
        section = values
        for parent in parents:
            section = section.get(parent) if isinstance(section, dict) else None
        if not isinstance(section, dict) or last not in section:
            raise UserError(f"{key!r} is no key of {paths.PARAMS}")
        section[last] = parse_yaml(text, f"the value of {key}")
    return parse_params(values, " ".join(["recipe", *changes]))


def train(trainer: Trainer) -> None:
    """All epochs, a line for each."""
    begin = time.perf_counter()
    for epoch in trainer.epochs():
        seconds = time.perf_counter() - begin
        print(
            f"epoch {epoch.epoch}: train {epoch.train_loss:.3f}, dev {epoch.dev_loss:.4f}, "
            f"{epoch.updates:,} updates, {epoch.target_tokens / seconds:,.0f} tokens/s, {seconds:,.0f} s",
            flush=True,
        )


def groups(rows: list[Any], size: int) -> Iterator[list[Any]]:
    """Consecutive rows, so many together; what is left over stays out."""
    for begin in range(0, len(rows) - size + 1, size):
        yield rows[begin : begin + size]


def score(folder: Path, params: Params, threads: int | None) -> None:
    """Translate dev, and dev joined, and print what it comes to."""
    languages = params.corpus
    references = [record["references"][0] for record in read_json_lines(paths.prepared_records("dev"))]
    lines = read_lines(paths.prepared_text("dev", "source"))
    translator = Translator.load(folder, Decoding.of(params.translate), threads=threads)
    joined = [join_sentences(group, languages.source) for group in groups(lines, JOINED)]
    own = [join_sentences(group, languages.target) for group in groups(references, JOINED)]
    for name, texts, expected in (("dev", lines, references), (f"dev, {JOINED} sentences in one", joined, own)):
        hypotheses = [one.hypotheses[0].text for one in translator.translate(texts, whole_lines=True)]
        counts = (
            statistics(metric(languages.target), hypotheses, [[one] for one in expected]) for metric in (bleu, chrf)
        )
        found = (each.score() for each in counts)
        print("{}: BLEU {:.2f}, chrF {:.2f}".format(name, *found), flush=True)


def main() -> None:
    """Train and score."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("changes", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--variant", default="attention")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where the bundle is to stay")
    parser.add_argument("--threads", type=int, help="for translation (default: one for each core)")
    arguments = parser.parse_args()
    params = changed_params(arguments.changes)
    trainer = make_trainer(params, arguments.variant, arguments.seed, resolve(params.runtime), Team(1))
    train(trainer)
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.folder or Path(scratch) / "bundle"
        write_bundle(folder, trainer, params)
        score(folder, params, arguments.threads)


if __name__ == "__main__":
    main()
