"""Teacher-forced training as a generator of epochs: no files, no tracker, no global randomness.

    trainer = Trainer(model, train_text, dev_text, settings, seed, device)
    for epoch in trainer.epochs(): ...

All that is random is keyed (randomness.py) and all that changes is in `Trainer.checkpoint()`, so a training that is
resumed between any two updates goes on to the same bits. Several processes may train one model (distributed.py): each
has a Trainer, which computes its shares of every batch and then holds what all the others hold.
"""

import copy
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor, nn

from nmt.batching import Batch, ParallelText, Segmentations
from nmt.checkpoint import Checkpoint
from nmt.config import Schedule, Train
from nmt.distributed import Gradients, Team
from nmt.errors import UserError
from nmt.graphs import RecordedStep, Recorder, in_fixed_shape
from nmt.model.seq2seq import Seq2Seq


@dataclass(frozen=True)
class EpochResult:
    """One row of `history.csv`; `updates` and `target_tokens` are counted from the beginning of the training.

    Losses are in nats per real target token (eos included), without label smoothing: of training with dropout and the
    weights of the moment, of dev without dropout and with the averaged weights.
    """

    epoch: int
    updates: int
    target_tokens: int
    train_loss: float
    dev_loss: float
    dev_perplexity: float
    learning_rate: float


@dataclass(frozen=True)
class UpdateResult:
    """What one update did, for progress bars and live curves."""

    epoch: int
    update: int
    batch: int
    batches: int
    target_tokens: int
    loss: float
    learning_rate: float


@dataclass
class Progress:
    """Where a training stands."""

    epoch: int = 0
    """Epochs that are complete."""
    batch: int = 0
    """Batches of the present epoch that are done."""
    updates: int = 0
    source_tokens: int = 0
    target_tokens: int = 0
    pairs: int = 0
    """Pairs of a source and a target position of one example, for the count of operations."""
    loss_sum: float = 0.0
    loss_tokens: int = 0
    learning_rate: float = 0.0
    """Of the last update."""
    best_epoch: int = 0
    """The one whose weights are kept: of the lowest dev loss, or the last without `patience`."""
    best_loss: float = math.inf


@dataclass(frozen=True)
class Work:
    """One update: the token counts of the whole batch, and this process's shares of it, each as its micro-batches."""

    examples: np.ndarray
    source_tokens: int
    target_tokens: int
    pairs: int
    shares: list[list[Batch]]


class Trainer:
    """Everything that changes while a model is trained."""

    def __init__(
        self,
        model: Seq2Seq,
        train: ParallelText | Segmentations,
        dev: ParallelText,
        settings: Train,
        seed: int,
        on_update: Callable[[UpdateResult], None],
        team: Team | None = None,
        by_graphs: bool = False,
    ) -> None:
        self.team = team or Team(shares=1)
        self.model = model
        self.averaged = copy.deepcopy(model)
        self.train, self.dev = train, dev
        self.settings, self.seed, self.on_update = settings, seed, on_update
        self.progress = Progress()
        self.history: list[EpochResult] = []
        self.best = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[settings.optimizer]
        rate = torch.tensor(settings.learning_rate, device=model.device)
        self.optimizer = kind(
            model.parameters(),
            lr=rate if by_graphs else settings.learning_rate,
            betas=(settings.betas[0], settings.betas[1]),
            weight_decay=settings.weight_decay,
            fused=True,
            capturable=by_graphs and model.device.type == "cuda",
        )
        self.recorder = Recorder(model, settings.label_smoothing, seed) if by_graphs else None
        self.recorded_step: RecordedStep | None = None
        if self.recorder is not None:
            pool = self.recorder.pool
            self.recorded_step = RecordedStep(model, self.averaged, self.optimizer, settings.clip_norm, rate, pool)
        self.gradients = Gradients(list(model.parameters()), self.team, stays=by_graphs)

    @property
    def finished(self) -> bool:
        """Whether the last epoch is reached, or the dev loss has not improved for `patience` epochs."""
        progress, patience = self.progress, self.settings.patience
        return progress.epoch >= self.settings.max_epochs or 0 < patience <= progress.epoch - progress.best_epoch

    def epochs(self) -> Iterator[EpochResult]:
        """Train until finished; yields after each epoch, when `history` and `best` are up to date."""
        while not self.finished:
            self._train_epoch()
            yield self._finish_epoch()

    def _train_epoch(self) -> None:
        """The batches of this epoch that are still to do."""
        progress = self.progress
        settings = self.settings
        text = self.train.in_epoch(progress.epoch)
        plan = text.shuffled_plan(settings.batch_tokens, settings.joining, keys=(self.seed, progress.epoch))
        for place, work in enumerate(self._prefetched(text, plan[progress.batch :]), start=progress.batch):
            self._update(work, place, len(plan))

    def _prefetched(self, text: ParallelText, plan: list[np.ndarray]) -> Iterator[Work]:
        """The batches of a plan; while one is used, a thread pads the next."""
        with ThreadPoolExecutor(max_workers=1) as loader:
            waiting = loader.submit(self._load, text, plan[0]) if plan else None
            for examples in [*plan[1:], None]:
                if waiting is not None:
                    work = waiting.result()
                    waiting = None if examples is None else loader.submit(self._load, text, examples)
                    yield work

    def _load(self, text: ParallelText, examples: np.ndarray) -> Work:
        sources, targets = (store.lengths_of(examples).sum(1) + 1 for store in (text.source, text.target))
        shares = self.team.cut(examples, self.settings.accumulate)
        return Work(
            examples=examples,
            source_tokens=int(sources.sum()),
            target_tokens=int(targets.sum()),
            pairs=int((sources * targets).sum()),
            shares=[[self._in_shape(text.batch(part)) for part in share] for share in shares],
        )

    def _in_shape(self, batch: Batch) -> Batch:
        return batch if self.recorder is None else in_fixed_shape(batch)

    def _update(self, work: Work, place: int, batches: int) -> None:
        settings, progress = self.settings, self.progress
        rate = learning_rate(settings, progress.updates, (progress.epoch + place / batches) / settings.max_epochs)
        plain, norm = self._gradients(work)
        if not (math.isfinite(plain) and math.isfinite(norm)):
            raise UserError(
                f"loss or gradient is not finite at update {progress.updates + 1} "
                f"(epoch {progress.epoch + 1}, batch {place + 1} of {batches}, "
                f"examples that begin with train lines {_some(work.examples[:, 0])}): "
                "lower train.learning_rate, lengthen the warm-up, or look at those lines"
            )
        self._step(rate)
        progress.updates += 1
        progress.learning_rate = rate
        progress.batch = place + 1
        progress.source_tokens += work.source_tokens
        progress.target_tokens += work.target_tokens
        progress.pairs += work.pairs
        progress.loss_sum += plain
        progress.loss_tokens += work.target_tokens
        mean = plain / work.target_tokens
        self.on_update(
            UpdateResult(progress.epoch + 1, progress.updates, place + 1, batches, work.target_tokens, mean, rate)
        )

    def _gradients(self, work: Work) -> tuple[float, float]:
        """Set the gradients of the loss per token of the whole batch, clipped but where graphs will do it (`_step`).

        Returns the plain loss, summed, in nats, and the norm of the gradients before they are clipped.
        """
        losses = []
        for share, parts in enumerate(work.shares):
            self.gradients.begin(share)
            losses.append(sum(self._backward(part, work.target_tokens, share) for part in parts))
        plain = self.gradients.add(losses)
        if self.recorded_step is None:
            return float(plain), self._clip()
        both: list[float] = torch.stack([torch.as_tensor(plain), self.recorded_step.norm()]).tolist()
        return both[0], both[1]

    def _clip(self) -> float:
        """Clip the gradients if they are too long, as few are; torch multiplies the others by 1. Returns their norm."""
        weights = list(self.model.parameters())
        norm = nn.utils.get_total_norm([weight.grad for weight in weights if weight.grad is not None])
        length = norm.item()
        if length > self.settings.clip_norm:
            nn.utils.clip_grads_with_norm_(weights, self.settings.clip_norm, norm)
        return length

    @torch.no_grad()
    def _step(self, rate: float) -> None:
        """Update the weights, then their exponential moving average.

        Its decay grows during training up to `average_decay`: the weights of the first updates are soon forgotten.
        """
        updates = self.progress.updates
        decay = min(self.settings.average_decay, (1.0 + updates) / (10.0 + updates))
        if self.recorded_step is not None:
            self.recorded_step.run(rate, 1.0 - decay)
            return
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        torch._foreach_lerp_(list(self.averaged.parameters()), list(self.model.parameters()), 1.0 - decay)

    def _backward(self, part: Batch, tokens: int, share: int) -> float | Tensor:
        """Add the gradients of a part of a batch of so many tokens; a row's masks are the same in whatever part."""
        if self.recorder is not None:
            plain = self.recorder.add_gradients(part, tokens, self.progress.updates, place=share)
            return plain.clone()
        part = part.to(self.model.device)
        masks = self.model.masks(part.rows, self.seed, self.progress.updates)
        loss = self.model.loss(part, self.settings.label_smoothing, masks)
        (loss.smoothed / tokens).backward()  # type: ignore[no-untyped-call]
        return loss.plain.item()

    def _finish_epoch(self) -> EpochResult:
        progress = self.progress
        dev_loss = evaluate_loss(self.averaged, self.dev, self.settings.batch_tokens, self.team)
        if not math.isfinite(dev_loss):
            raise UserError(
                f"dev loss is not finite after update {progress.updates} (epoch {progress.epoch + 1}): "
                "lower train.learning_rate, or look at the dev set"
            )
        progress.epoch += 1
        if dev_loss < progress.best_loss or not self.settings.patience:
            progress.best_epoch, progress.best_loss = progress.epoch, dev_loss
            self.best = {name: parameter.detach().clone() for name, parameter in self.averaged.named_parameters()}
        result = EpochResult(
            epoch=progress.epoch,
            updates=progress.updates,
            target_tokens=progress.target_tokens,
            train_loss=progress.loss_sum / progress.loss_tokens,
            dev_loss=dev_loss,
            dev_perplexity=math.exp(min(dev_loss, 700.0)),
            learning_rate=progress.learning_rate,
        )
        self.history.append(result)
        progress.batch, progress.loss_sum, progress.loss_tokens = 0, 0.0, 0
        self.team.check(self.checkpoint().tensors)
        return result

    def checkpoint(self) -> Checkpoint:
        """The whole state between two updates."""
        tensors: dict[str, Tensor] = {}
        for (name, weight), average in zip(self.model.named_parameters(), self.averaged.parameters(), strict=True):
            tensors[f"weights.{name}"] = weight
            tensors[f"averaged.{name}"] = average
            tensors[f"best.{name}"] = self.best[name]
            for key, value in self.optimizer.state.get(weight, {}).items():
                tensors[f"optimizer.{key}.{name}"] = value
        return Checkpoint(
            tensors, {"progress": asdict(self.progress), "history": [asdict(row) for row in self.history]}
        )

    @torch.no_grad()
    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a state that `checkpoint` gave."""
        for (name, weight), average in zip(self.model.named_parameters(), self.averaged.parameters(), strict=True):
            weight.copy_(checkpoint.tensors[f"weights.{name}"])
            average.copy_(checkpoint.tensors[f"averaged.{name}"])
            self.best[name] = checkpoint.tensors[f"best.{name}"].to(weight.device)
            state = {
                key: checkpoint.tensors.get(f"optimizer.{key}.{name}") for key in ("step", "exp_avg", "exp_avg_sq")
            }
            if state["step"] is not None:
                self.optimizer.state[weight] = {
                    key: value.to(weight.device) for key, value in state.items() if value is not None
                }
        if self.recorded_step is not None:
            self.recorded_step.forget()
        self.progress = Progress(**checkpoint.progress["progress"])
        self.history = [EpochResult(**row) for row in checkpoint.progress["history"]]


def learning_rate(settings: Train, update: int, done: float) -> float:
    """The rate of an update (from 0) when the share `done` of the longest training lies behind it."""
    schedule = settings.schedule
    warmup = min(1.0, (update + 1) / schedule.warmup_updates) if schedule.warmup_updates else 1.0
    return settings.learning_rate * warmup * _decay(schedule, update, done)


def _decay(schedule: Schedule, update: int, done: float) -> float:
    final = schedule.final_share
    if schedule.decay == "linear":
        return final + (1.0 - final) * (1.0 - done)
    if schedule.decay == "cosine":
        return final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * done))
    if schedule.decay == "inverse_sqrt":
        return math.sqrt(max(schedule.warmup_updates, 1) / max(update + 1, schedule.warmup_updates, 1))
    return 1.0


@torch.no_grad()
def evaluate_loss(model: Seq2Seq, text: ParallelText, batch_tokens: int, team: Team | None = None) -> float:
    """Nats per real target token over all of `text`, without dropout and label smoothing; each of a team does a part.

    Batches of neighbouring lengths go to different processes, and what they find is added in the plan's order.
    """
    team = team or Team(shares=1)
    plan = text.plan(4 * batch_tokens)
    losses = {
        place: model.loss(text.batch(plan[place]).to(model.device), 0.0).plain.item()
        for place in range(team.rank, len(plan), team.size)
    }
    total = 0.0
    for loss in team.collect(losses, len(plan)):  # not sum(), which rounds otherwise from one Python to the next
        total += loss
    return total / (int(text.target.lengths.sum()) + len(text))


class Every:
    """True once in so many seconds; what it is used for must not change a result."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.last = time.monotonic()

    def __call__(self) -> bool:
        now = time.monotonic()
        if now - self.last < self.seconds:
            return False
        self.last = now
        return True


def _some(rows: np.ndarray) -> str:
    lines = np.sort(rows) + 1
    return ", ".join(map(str, lines[:5])) + (f" and {len(lines) - 5} more" if len(lines) > 5 else "")
