"""Train one variant with one seed.

Reads   data/tokenized
Writes  models/<variant>/<seed>, reports/training/<variant>/<seed>/{history.csv,summary.json}
Params  corpus, prepare.unicode, tokenize.sampling.{segmentations,side}, runtime, model, train, variants.<variant>

A training that was killed goes on from its last state in .nmt/unfinished/train-<training id>, which is written every
half minute, or every NMT_CHECKPOINT_SECONDS: no result depends on them, so they are no parameter.
With train.devices > 1 the stage starts a process for each, of which the first writes (docs/parallel.md).
"""

import math
import os
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from tqdm import tqdm

from nmt import distributed, identity, launcher, paths, tracking, unfinished
from nmt.batching import ParallelText, Segmentations
from nmt.bundle import BundleConfig, save_bundle
from nmt.checkpoint import Origin, load_checkpoint, save_checkpoint
from nmt.config import Params, load_params
from nmt.distributed import Lost, Team
from nmt.errors import UserError
from nmt.files import sha256, write_csv, write_json
from nmt.model import compiled
from nmt.model.seq2seq import Seq2Seq
from nmt.runtime import Resolved, alone_on_gpu, processes, processor, resolve
from nmt.stages.runner import run_for_model
from nmt.subwords import Subwords
from nmt.tracking.place import workspace
from nmt.training import Every, Trainer, UpdateResult


def main(variant: str, seed: int) -> None:
    """Train, or go on with a training that was killed, and write the model and how it came about."""
    params = load_params()
    runtime = resolve(params.runtime)
    count = processes(runtime.device, params.train.devices)
    if count > 1 and not distributed.launched():
        start_processes(count, runtime, variant, seed)
        return
    try:
        with distributed.team(params.train.devices, runtime.device) as team:
            training_id = identity.training_id(variant, seed)
            if not team.agrees(int(training_id, 16) >> 1):
                raise UserError("the machines have different code, data or params.yaml: bring all to the same commit")
            trainer = make_trainer(params, variant, seed, runtime, team)
            if team.leads:
                lead(trainer, params, variant, seed, runtime, training_id)
            else:
                follow(trainer)
    except Lost as error:
        print(f"another process of this training cannot be reached ({error})", file=sys.stderr, flush=True)
        sys.exit(launcher.LOST)


def start_processes(count: int, runtime: Resolved, variant: str, seed: int) -> None:
    """Run this stage in so many processes, each of which finds itself part of a team.

    They start when nobody else is at this training: those that follow cannot wait for long.
    """
    with unfinished.work("train", identity.training_id(variant, seed)):
        pass
    with alone_on_gpu(runtime.device, workspace() / paths.STATE, count):
        if status := launcher.launch(count, "nmt.stages.train", variant, str(seed)):
            sys.exit(status)


def lead(trainer: Trainer, params: Params, variant: str, seed: int, runtime: Resolved, training_id: str) -> None:
    """Train, alone or before others, and write all that there is to write."""
    with (
        unfinished.work("train", training_id) as state,
        alone_on_gpu(runtime.device, workspace() / paths.STATE, int(trainer.team.size == 1)),
        tracking.live_training(variant, seed, training_id) as live,
    ):
        train(trainer, state, origin(training_id, runtime), live, f"{variant}-{seed}")
        write_outputs(trainer, params, variant, seed, runtime, training_id)
        unfinished.done(state, paths.bundle(variant, seed))


def follow(trainer: Trainer) -> None:
    """Take part in a training that another process leads: nothing is written here."""
    team = trainer.team
    checkpoint = team.share(None)
    if checkpoint is not None:
        trainer.restore(checkpoint)
    with Stop() as stop:

        def leave_if_wanted() -> None:
            if wanted := team.largest(stop.wanted):
                team.outlive_leader()
                sys.exit(128 + wanted)

        trainer.on_update = lambda _: leave_if_wanted()
        try:
            for _ in trainer.epochs():
                pass
        except UserError:  # the leader has met it, too, and tells it
            team.outlive_leader()
            raise Lost("the leader has ended") from None
        leave_if_wanted()


def make_trainer(params: Params, variant: str, seed: int, runtime: Resolved, team: Team) -> Trainer:
    """The model with its initial weights, and the data."""
    sizes = [Subwords.load(paths.subword_model(side)).size for side in paths.SIDES]
    model = Seq2Seq(params.model, params.variant(variant).attention, *sizes)
    model.initialize(seed)
    model.to(runtime.device)
    model.product_dtype = runtime.product_dtype
    sampling = params.tokenize.sampling
    train_text = Segmentations(
        [
            ParallelText.open(*(paths.training_store(side, min(number, sampling.of(side))) for side in paths.SIDES))
            for number in range(sampling.segmentations + 1)
        ]
    )
    dev_text = ParallelText.open(*(paths.token_store("dev", side) for side in paths.SIDES))
    by_graphs = params.train.cuda_graphs and runtime.device.type == "cuda"
    return Trainer(model, train_text, dev_text, params.train, seed, lambda _: None, team, by_graphs)


def origin(training_id: str, runtime: Resolved) -> Origin:
    """Whose states this training may go on from: its own, from arithmetic that gives the same bits."""
    return {
        "training": training_id,
        "processor": processor(runtime.device),
        "precision": runtime.precision,
        "threads": str(runtime.threads),
        "torch": torch.__version__,
        "kernels": compiled.version(runtime.device),
    }


def train(trainer: Trainer, state: Path, origin: Origin, live: tracking.LiveCurves, name: str) -> None:
    """Run the epochs that are left, with a bar, live curves, and a checkpoint now and then and at the end."""
    team = trainer.team
    checkpoint = team.share(load_checkpoint(state, origin))
    if checkpoint is not None:
        trainer.restore(checkpoint)
        print(f"going on after update {trainer.progress.updates}", flush=True)
    due = Every(checkpoint_seconds())
    with Display(name, trainer.settings.max_epochs) as display, Stop() as stop:

        def on_update(result: UpdateResult) -> None:
            display.show(result)
            if result.update % 10 == 0:
                live.log(result.update, {"train_loss": result.loss, "tokens_per_second": display.tokens_per_second})
            wanted = team.largest(stop.wanted)
            if wanted or due():
                save_checkpoint(state, trainer.checkpoint(), origin)
            if wanted:
                sys.exit(128 + wanted)

        trainer.on_update = on_update
        for epoch in trainer.epochs():
            live.log(epoch.updates, {"dev_loss": epoch.dev_loss})
            display.say(f"epoch {epoch.epoch}: train loss {epoch.train_loss:.3f}, dev loss {epoch.dev_loss:.3f}")
        save_checkpoint(state, trainer.checkpoint(), origin)  # the outputs are written, and DVC has them, only later
        if wanted := team.largest(stop.wanted):
            sys.exit(128 + wanted)


def checkpoint_seconds() -> float:
    """How often the state is saved, on this machine."""
    text = os.environ.get("NMT_CHECKPOINT_SECONDS", "30")
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not seconds >= 0:
        raise UserError(f"NMT_CHECKPOINT_SECONDS is {text!r}; write a number of seconds, such as 30")
    return seconds


def write_outputs(
    trainer: Trainer, params: Params, variant: str, seed: int, runtime: Resolved, training_id: str
) -> None:
    """The bundle, the curve and the summary."""
    write_bundle(paths.bundle(variant, seed), trainer, params)
    model = trainer.model
    report = paths.training_report(variant, seed)
    write_csv(report / "history.csv", [asdict(row) for row in trainer.history])
    progress = trainer.progress
    best = trainer.history[progress.best_epoch - 1]
    write_json(
        report / "summary.json",
        {
            "training_id": training_id,
            "variant": variant,
            "seed": seed,
            "attention": model.attention_kind,
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "parameters_by_part": model.parameters_by_part(),
            "updates": progress.updates,
            "epochs": progress.epoch,
            "best_epoch": progress.best_epoch,
            "source_tokens": progress.source_tokens,
            "target_tokens": progress.target_tokens,
            "flops": model.training_flops(progress.source_tokens, progress.target_tokens, progress.pairs),
            "train_loss": best.train_loss,
            "dev_loss": best.dev_loss,
            "dev_perplexity": best.dev_perplexity,
            "device": runtime.device.type,
            "precision": runtime.precision,
            "threads": runtime.threads,
            "kernels": compiled.version(runtime.device).partition(" ")[0],
        },
    )


def write_bundle(folder: Path, trainer: Trainer, params: Params) -> None:
    """The weights that are kept so far, with all that translating with them needs."""
    models = {side: paths.subword_model(side) for side in paths.SIDES}
    model = trainer.model
    config = BundleConfig.model_validate(
        {
            "format": 2,
            "attention": model.attention_kind,
            "model": params.model.model_dump(),
            "vocabulary": {
                "source": model.source_embedding.num_embeddings,
                "target": model.target_embedding.num_embeddings,
            },
            "languages": {"source": params.corpus.source, "target": params.corpus.target},
            "unicode": params.prepare.unicode.model_dump(),
            "tokenizer_sha256": {side: sha256(path) for side, path in models.items()},
        }
    )
    save_bundle(folder, config, trainer.best, models)


class Display:
    """A bar over all epochs, with target tokens per second and the time left (less, if training stops early).

    Without a terminal there is no bar, only a line for each epoch; nor is there when several models train side by
    side, whose bars would overwrite each other: `make repro` starts those by xargs, so their input is no terminal.
    """

    def __init__(self, name: str, epochs: int) -> None:
        self.name, self.epochs = name, epochs
        self.tokens_per_second = 0.0
        """Of the last whole second of updates; before that, since the first update began."""
        self._since, self._tokens, self._measured = time.monotonic(), 0, False
        self._bar: tqdm[Any] | None = None

    def __enter__(self) -> "Display":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def show(self, result: UpdateResult) -> None:
        """Count one update; numbers are renewed once a second."""
        before = result.update - 1
        bar = self._bar = self._bar or self._new_bar(before)
        bar.total = before + result.batches * (self.epochs - result.epoch + 1) - result.batch + 1
        self._tokens += result.target_tokens
        elapsed = time.monotonic() - self._since
        if elapsed >= 1.0 or not self._measured:
            self.tokens_per_second = self._tokens / elapsed
        if elapsed >= 1.0:
            self._measured = True
            self._since, self._tokens = time.monotonic(), 0
            bar.set_postfix_str(f"{self.tokens_per_second:,.0f} tokens/s, loss {result.loss:.2f}", refresh=False)
        bar.update()

    def _new_bar(self, done: int) -> "tqdm[Any]":
        hidden = None if sys.stdin.isatty() else True  # None: where there is no terminal to write to
        return tqdm(desc=self.name, initial=done, unit="batch", mininterval=1.0, disable=hidden)

    def say(self, text: str) -> None:
        """Write a line above the bar, between two epochs; the time that has passed there is no update's."""
        tqdm.write(f"{self.name} {text}", file=sys.stderr)
        self._since, self._tokens = time.monotonic(), 0


class Stop:
    """Turns SIGTERM and SIGINT into a wish to save and leave after the present update."""

    def __init__(self) -> None:
        self.wanted = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Stop":
        self._before = {number: signal.signal(number, self._want) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _want(self, number: int, frame: FrameType | None) -> None:
        self.wanted = number


if __name__ == "__main__":
    run_for_model(main)
