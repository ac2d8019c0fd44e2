"""The one way in which anything translates: a bundle from disk, text in, text out.

Stages, commands and the served model all call `Translator.load(folder).translate(lines)`.
"""

import functools
import math
import multiprocessing
import os
import re
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from nmt.ablation import ablated
from nmt.batching import pad, similar_shapes
from nmt.bundle import Bundle, load_bundle
from nmt.config import Runtime
from nmt.corpus import normalise_lines
from nmt.decoding import Decoding
from nmt.ensemble import Ensemble, force_together
from nmt.errors import UserError
from nmt.influence import BLOCK, Given, Influence, influence
from nmt.model.seq2seq import Seq2Seq
from nmt.prediction import Predictor
from nmt.runtime import resolve
from nmt.search import Hypotheses, SearchableModel, beam_search, greedy_search
from nmt.subwords import BOS, EOS
from nmt.translation import Forced, Hypothesis, Translation

LONGEST_SOURCE = 200
"""Pieces. A longer source is translated sentence by sentence: hardly any training example is as long."""
_SEARCH_CELLS = 2**22
_FORCED_CELLS = 2**18
"""Source positions x target positions x hypotheses of a batch: what the memory for attention grows with."""
_FORCED_WIDTH = 64
"""Source positions that a sentence counts for at least: its logits over the vocabulary need memory, too."""
_SENTENCE = re.compile(r".+?(?:[。！？!?]+[”’」』）)\"']*|[.…]+[”’)\"']*(?=\s)|$)", re.DOTALL)
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")

Pieces = list[int]
Side = Literal["source", "target"]
Device = Literal["auto", "cpu", "cuda"]
_Result = TypeVar("_Result")


class Translator:
    """A trained model that reads and writes text.

    As many batches as it has `threads` are worked on side by side, each by one thread: small products gain little from
    a second one, and so no number of threads changes a bit of a result. Nor does a number of `processes` in their
    place, each with a copy of the model and on CUDA a GPU of its own.

    With `others` it is an ensemble: all models write each translation together, see `nmt.ensemble`.
    """

    def __init__(
        self,
        bundle: Bundle,
        decoding: Decoding,
        threads: int = 1,
        pool: Executor | None = None,
        others: Sequence[Bundle] = (),
    ) -> None:
        self.bundle = bundle
        self.decoding = decoding
        self.threads = threads
        self.models = tuple(each.model.eval() for each in (bundle, *others))
        self._pool = pool
        self._ablation: str | None = None

    @classmethod
    def load(
        cls,
        directory: Path | str,
        decoding: Decoding | None = None,
        *,
        others: Sequence[Path] = (),
        device: Device = "auto",
        threads: int | None = None,
        processes: int = 1,
    ) -> "Translator":
        """Read the bundle in `directory`; decoding settings not given are those of `Decoding.beside`.

        `others` are bundles of models that translate together with it; they must have its languages and subwords.
        The arithmetic is float32 on every device. `threads` of None: one for each core. Who asks for more than one of
        the `processes` closes the translator in the end.
        """
        chosen = resolve(Runtime(device=device, precision="float32", threads=1, kernels="auto")).device
        if threads is None:
            threads = (os.cpu_count() or 1) if chosen.type == "cpu" else 1
        folders = [Path(directory), *others]
        bundles = [load_bundle(folder, chosen) for folder in folders]
        for folder, bundle in zip(folders, bundles, strict=True):
            _check_alike(bundle, folder, bundles[0], folders[0])
        decoding = decoding or Decoding.beside(folders[0])
        pool = _copies(processes, folders, decoding, device) if processes > 1 else None
        return cls(bundles[0], decoding, threads, pool, bundles[1:])

    @functools.cached_property
    def _searched(self) -> SearchableModel[Any, Any]:
        """What search asks; made when first it does, since it holds the decoders' weights once more."""
        predictors = [Predictor(model) for model in self.models]
        return Ensemble(predictors) if len(predictors) > 1 else predictors[0]

    @property
    def has_attention(self) -> bool:
        """Whether translations come with weights."""
        return any(model.has_attention for model in self.models)

    @property
    def device(self) -> torch.device:
        """Where the parameters lie."""
        return self.models[0].device

    def close(self) -> None:
        """End the other processes."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def translate(
        self,
        lines: Sequence[str],
        *,
        beam_size: int | None = None,
        n_best: int | None = None,
        prefixes: Sequence[str] | None = None,
        whole_lines: bool = False,
        progress: Callable[[int], object] | None = None,
    ) -> list[Translation]:
        """Translate each line: one Translation per line, in order.

        `prefixes` are texts, empty where there is none, that the translations begin with. `progress` is told how many
        more lines are done. A line without text gives one hypothesis without text or pieces. A line of more than
        LONGEST_SOURCE pieces is cut at its sentences' ends, and a longer sentence at that length; each part is
        translated for itself, the prefix leading the first. The line's r-th hypothesis is made of the parts' r-th ones,
        one after the other, each with its eos, the attention block-diagonal. `whole_lines` translates the longest line
        as one, too: what long inputs do to a model cannot be seen otherwise.
        """
        decoding = self.decoding.changed(beam_size, n_best)
        if prefixes is not None and len(prefixes) != len(lines):
            raise UserError(f"{len(prefixes)} prefixes for {len(lines)} lines: each line needs one")
        starts = self._encode("target", prefixes or [""] * len(lines))
        texts = self._normalise("source", lines)
        encoded = self.bundle.source.encode(texts)
        longest = max(map(len, encoded), default=0) if whole_lines else LONGEST_SOURCE
        parts = [self._parts(text, ids, longest) for text, ids in zip(texts, encoded, strict=True)]
        jobs = [
            _Job(part, prefix=start if i == 0 else [], begins_line=i == 0)
            for own, start in zip(parts, starts, strict=True)
            for i, part in enumerate(own)
        ]
        if progress:
            progress(sum(not own for own in parts))
        found = iter(self._search(jobs, decoding, progress))
        return [self._translation(own, [next(found) for _ in own], decoding) for own in parts]

    def score(
        self, sources: Sequence[str], targets: Sequence[str], *, progress: Callable[[int], object] | None = None
    ) -> list[Forced]:
        """How probable each target is as the translation of its source, and what the model looks at while it writes it.

        Nothing is cut and nothing skipped: an empty line is a sentence of its eos alone.
        """
        if len(sources) != len(targets):
            raise UserError(f"{len(sources)} sources and {len(targets)} targets: they must match line by line")
        read = [[*ids, EOS] for ids in self._encode("source", sources)]
        written = [[*ids, EOS] for ids in self._encode("target", targets)]
        shapes = [(len(target), max(len(source), _FORCED_WIDTH)) for source, target in zip(read, written, strict=True)]
        batches = list(similar_shapes(shapes, self.decoding.batch_sentences, _FORCED_CELLS))
        forced: dict[int, Forced] = {}
        work = self._side_by_side(
            Translator._force, (([read[i] for i in batch], [written[i] for i in batch]) for batch in batches)
        )
        for batch, own in zip(batches, work, strict=True):
            forced.update(zip(batch, own, strict=True))
            if progress:
                progress(len(batch))
        return [forced[i] for i in range(len(sources))]

    def influence(
        self,
        sources: Sequence[Sequence[str]],
        targets: Sequence[Sequence[str]],
        shares: Sequence[npt.NDArray[np.float64]],
        *,
        progress: Callable[[int], object] | None = None,
    ) -> list[Influence]:
        """What each source word does to each target piece; `shares` [S, W] say which pieces make up which word.

        Sources and targets are pieces, as `translate` and `score` return them. A source that was translated in parts
        is read as one here. Asked of one model, not of an ensemble.
        """
        read, written = map(self.bundle.source.ids, sources), map(self.bundle.target.ids, targets)
        given = list(map(Given, read, written, shares))
        blocks = [given[begin : begin + BLOCK] for begin in range(0, len(given), BLOCK)]
        measured: list[Influence] = []
        for own in self._side_by_side(Translator._influence, ((block,) for block in blocks)):
            measured += own
            if progress:
                progress(len(own))
        return measured

    @contextmanager
    def ablated(self, name: str) -> Iterator[None]:
        """Translate with the attention of one model, not of an ensemble, disturbed, while the block lasts."""
        with ablated(self._one_model(), name):
            self._ablation = name
            try:
                yield
            finally:
                self._ablation = None

    def _side_by_side(self, work: Callable[..., _Result], batches: Iterable[tuple[Any, ...]]) -> Iterator[_Result]:
        """The results of a method of ours for batches, which are its arguments, in order."""
        if self._pool is not None:
            try:
                yield from self._pool.map(functools.partial(_work_on_copy, work.__name__, self._ablation), batches)
            except BrokenProcessPool:
                raise UserError("a process that translates was ended; run the command again") from None
        elif self.threads == 1:
            yield from (work(self, *batch) for batch in batches)
        else:
            with ThreadPoolExecutor(self.threads) as pool:
                yield from pool.map(lambda batch: work(self, *batch), batches)

    def _normalise(self, side: Side, lines: Sequence[str]) -> list[str]:
        config = self.bundle.config
        for number, line in enumerate(lines, start=1):
            if _HALF_CHARACTER.search(line):
                raise UserError(f"text {number} holds half a character (a lone surrogate): it is not Unicode text")
        return normalise_lines(lines, getattr(config.languages, side), getattr(config.unicode, side))

    def _encode(self, side: Side, lines: Sequence[str]) -> list[Pieces]:
        subwords = self.bundle.source if side == "source" else self.bundle.target
        return subwords.encode(self._normalise(side, lines))

    def _parts(self, text: str, ids: Pieces, longest: int) -> list[Pieces]:
        """A normalised line as what is translated at once: nothing, itself, or its sentences."""
        if len(ids) <= longest:
            return [ids] if ids else []
        sentences = self.bundle.source.encode([match.group().strip() for match in _SENTENCE.finditer(text)])
        return [part[begin : begin + longest] for part in sentences for begin in range(0, len(part), longest)]

    def _search(
        self, jobs: Sequence["_Job"], decoding: Decoding, progress: Callable[[int], object] | None
    ) -> list[list[Hypothesis]]:
        """The hypotheses of each job; batches are of similar lengths, the longest first."""
        limits = [job.limit(decoding) for job in jobs]
        shapes = [(len(job.source) + 1, limit) for job, limit in zip(jobs, limits, strict=True)]
        batches = list(similar_shapes(shapes, decoding.batch_sentences, _SEARCH_CELLS // decoding.beam_size))
        found: dict[int, list[Hypothesis]] = {}
        if self._pool is None:
            self._searchable()  # made once, before several threads ask for it
        work = self._side_by_side(
            Translator._search_batch,
            (([jobs[i] for i in batch], [limits[i] for i in batch], decoding) for batch in batches),
        )
        for batch, own in zip(batches, work, strict=True):
            found.update(zip(batch, own, strict=True))
            if progress:
                progress(sum(jobs[i].begins_line for i in batch))
        return [found[i] for i in range(len(jobs))]

    def _searchable(self) -> SearchableModel[Any, Any]:
        """A disturbed model is searched as it is: a predictor would not see what disturbs it."""
        return self._one_model() if self._ablation else self._searched

    def _search_batch(
        self, jobs: Sequence["_Job"], limits: Sequence[int], decoding: Decoding
    ) -> list[list[Hypothesis]]:
        device = self.device
        source_BS, lengths_B = pad([[*job.source, EOS] for job in jobs])
        prefixes_BP = pad([job.prefix for job in jobs])[0].to(device) if any(job.prefix for job in jobs) else None
        limits_B = torch.tensor(limits, device=device)
        search = (
            greedy_search if decoding.beam_size == 1
            else functools.partial(beam_search, beam_size=decoding.beam_size, n_best=decoding.n_best)
        )  # fmt: skip
        found = search(
            self._searchable(), source_BS.to(device), lengths_B.to(device),
            length_penalty=decoding.length_penalty, coverage_penalty=decoding.coverage_penalty,
            max_lengths_B=limits_B, prefixes_BP=prefixes_BP,
        )  # fmt: skip
        if not found.scores_BN[:, 0].isfinite().all():
            raise UserError("the model's probabilities are not finite: its training diverged, or its bundle is damaged")
        return self._read_out(found, lengths_B.tolist())

    def _read_out(self, found: Hypotheses, source_lengths: Sequence[int]) -> list[list[Hypothesis]]:
        """Tensors of a batch as hypotheses, sentence by sentence."""
        target = self.bundle.target
        ids, lengths = found.ids_BNT.tolist(), found.lengths_BN.tolist()
        scores, log_probabilities = found.scores_BN.tolist(), found.log_probabilities_BN.tolist()
        attention = None if found.attention_BNTS is None else found.attention_BNTS.cpu().numpy()
        places = [(b, n) for b, own in enumerate(lengths) for n, length in enumerate(own) if length]
        texts = target.decode([ids[b][n][: lengths[b][n]] for b, n in places])
        hypotheses: list[list[Hypothesis]] = [[] for _ in source_lengths]
        for (b, n), text in zip(places, texts, strict=True):
            length = lengths[b][n]
            matrix = None if attention is None else attention[b, n, :length, : source_lengths[b]].copy()
            pieces = target.pieces(ids[b][n][:length])
            hypotheses[b].append(Hypothesis(text, pieces, scores[b][n], log_probabilities[b][n], matrix))
        return hypotheses

    def _translation(self, parts: list[Pieces], found: list[list[Hypothesis]], decoding: Decoding) -> Translation:
        """The translation of a line from those of its parts."""
        if not parts:
            return Translation([], [Hypothesis.empty(self.has_attention)])
        source_pieces = [piece for part in parts for piece in self.bundle.source.pieces([*part, EOS])]
        if len(parts) == 1:
            return Translation(source_pieces, found[0])
        settings = self.bundle.config.languages.target, decoding.length_penalty, decoding.coverage_penalty
        joined = [Hypothesis.joined(ranked, *settings) for ranked in zip(*found, strict=False)]
        return Translation(source_pieces, sorted(joined, key=lambda hypothesis: -hypothesis.score))

    def _influence(self, texts: Sequence[Given]) -> list[Influence]:
        return influence(self._one_model(), texts)

    def _one_model(self) -> Seq2Seq:
        assert len(self.models) == 1, "not of an ensemble"
        return self.models[0]

    @torch.inference_mode()
    def _force(self, read: list[Pieces], written: list[Pieces]) -> list[Forced]:
        """Forced decoding of one batch; both sides with their eos."""
        device = self.device
        source_BS, lengths_B = pad(read)
        outputs_BT = pad(written)[0].to(device)
        inputs_BT = torch.cat([torch.full_like(outputs_BT[:, :1], BOS), outputs_BT[:, :-1]], dim=1)
        log_p_BTV, weights_BTS = force_together(self.models, source_BS.to(device), lengths_B.to(device), inputs_BT)
        log_p_BT = log_p_BTV.gather(2, outputs_BT[..., None]).squeeze(2)
        attention = None if weights_BTS is None else weights_BTS.cpu().numpy()
        forced = []
        for b, (source, target, log_p) in enumerate(zip(read, written, log_p_BT.tolist(), strict=True)):
            tokens = log_p[: len(target)]
            matrix = None if attention is None else attention[b, : len(target), : len(source)].copy()
            names = self.bundle.source.pieces(source), self.bundle.target.pieces(target)
            forced.append(Forced(*names, math.fsum(tokens), tokens, matrix))
        return forced


@dataclass(frozen=True)
class _Job:
    """One source to search a translation for."""

    source: Pieces
    prefix: Pieces
    begins_line: bool

    def limit(self, decoding: Decoding) -> int:
        """The most pieces that a translation may have: by the source's length, and room to go on after the prefix."""
        by_source = int(decoding.max_length_ratio * len(self.source)) + decoding.max_length_extra
        return max(by_source, len(self.prefix) + decoding.max_length_extra)


_copy: Translator
"""In a process that works for another's translator."""


def _check_alike(bundle: Bundle, folder: Path, first: Bundle, first_folder: Path) -> None:
    """Refuse models that do not read and write the same pieces."""
    for name in ("languages", "unicode", "tokenizer_sha256"):
        if getattr(bundle.config, name) != getattr(first.config, name):
            what = "subword models" if name == "tokenizer_sha256" else name
            raise UserError(
                f"{first_folder} and {folder} cannot translate together: their {what} differ; "
                "an ensemble needs models that were trained on the same tokenized data"
            )


def _copies(count: int, folders: Sequence[Path], decoding: Decoding, device: Device) -> ProcessPoolExecutor:
    """Processes that each load the bundles for themselves; the k-th takes the k-th GPU."""
    context = multiprocessing.get_context("spawn")
    numbers: SimpleQueue[int] = context.SimpleQueue()
    for number in range(count):
        numbers.put(number)
    return ProcessPoolExecutor(count, context, _load_copy, (numbers, folders, decoding, device))


def _load_copy(numbers: "SimpleQueue[int]", folders: Sequence[Path], decoding: Decoding, device: Device) -> None:
    global _copy
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; the one that it is meant for ends the others
    threading.Thread(target=_end_with_parent, daemon=True).start()
    number = numbers.get()
    if torch.cuda.is_available() and device != "cpu":
        torch.cuda.set_device(number)
    _copy = Translator.load(folders[0], decoding, others=folders[1:], device=device, threads=1)


def _end_with_parent() -> None:
    """A pool's process would wait for work for ever when the pool's owner is killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _work_on_copy(work: str, ablation: str | None, batch: tuple[Any, ...]) -> Any:
    if ablation is None:
        return getattr(_copy, work)(*batch)
    with _copy.ablated(ablation):
        return getattr(_copy, work)(*batch)
