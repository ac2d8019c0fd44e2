"""Sentences per second of translation: a textbook's batched loop against the project's search, in alternating rounds.

    python benchmarks/decode_throughput.py                 # after `dvc repro train`; --model for another bundle

Both get the same test sentences sorted by length, and the same longest outputs. The textbook loop works on batches of
64, projects the keys anew at each step, copies the memory for each hypothesis and goes on until a batch's last sentence
has ended; ours is `Translator.translate`, from text to text. Greedy outputs of the two must be equal. Prints
sentences per second (median of the rounds), the ratio to the textbook's, and how long one sentence takes alone.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from textbook import Textbook
from torch import Tensor

from nmt import paths
from nmt.batching import pad
from nmt.config import load_params
from nmt.decoding import Decoding
from nmt.files import read_lines
from nmt.subwords import BOS, EOS
from nmt.translator import Translator

BATCH = 64
BEAM = 5


class Sentences:
    """The test set as pieces, the longest first."""

    def __init__(self, translator: Translator, decoding: Decoding, count: int) -> None:
        self.translator, self.decoding = translator, decoding
        self.lines = read_lines(paths.prepared_text("test", "source"))[:count]
        encoded = [[*ids, EOS] for ids in translator.bundle.source.encode(self.lines)]
        self.order = sorted(range(len(encoded)), key=lambda i: -len(encoded[i]))
        self.sources = [encoded[i] for i in self.order]

    def limit(self, source: list[int]) -> int:
        """The longest output in pieces."""
        return int(self.decoding.max_length_ratio * (len(source) - 1)) + self.decoding.max_length_extra

    def by_textbook(self, search: Callable[[Tensor, Tensor, int], list[list[int]]]) -> list[str]:
        """All sentences in batches."""
        texts = [""] * len(self.lines)
        for begin in range(0, len(self.sources), BATCH):
            batch = self.sources[begin : begin + BATCH]
            found = search(*pad(batch), max(map(self.limit, batch)))
            cut = [ids[: ids.index(EOS)] if EOS in ids else ids for ids in found]
            for i, text in zip(self.order[begin:], self.translator.bundle.target.decode(cut), strict=False):
                texts[i] = text
        return texts

    def by_project(self, beam_size: int) -> list[str]:
        """All sentences, as a user would."""
        translations = self.translator.translate(self.lines, beam_size=beam_size, n_best=1)
        return [translation.hypotheses[0].text for translation in translations]


@torch.inference_mode()
def textbook_greedy(model: Textbook, source_BS: Tensor, lengths_B: Tensor, limit: int) -> list[list[int]]:
    """The most probable word at each step, until the last sentence has ended."""
    outputs, padding, state = model.read(source_BS, lengths_B)
    previous = torch.full((len(source_BS),), BOS)
    written, running = [], torch.ones(len(source_BS), dtype=torch.bool)
    for _ in range(limit):
        logits, state = model.write(model.target_embedding(previous), state, outputs, padding)
        logits[:, :EOS] = -torch.inf
        previous = logits.argmax(-1)
        written.append(previous)
        running &= previous != EOS
        if not running.any():
            break
    return torch.stack(written, 1).tolist()


@torch.inference_mode()
def textbook_beam(model: Textbook, source_BS: Tensor, lengths_B: Tensor, limit: int) -> list[list[int]]:
    """A beam for each sentence of the batch; an ended hypothesis is carried along until the last one has ended."""
    batch = len(source_BS)
    outputs, padding, state = model.read(source_BS, lengths_B)
    outputs, padding = outputs.repeat_interleave(BEAM, 0), padding.repeat_interleave(BEAM, 0)
    state = state.repeat_interleave(BEAM, 1)
    scores = torch.full((batch, BEAM), -torch.inf)
    scores[:, 0] = 0.0
    words = torch.full((batch * BEAM, 1), BOS)
    ended = torch.zeros(batch * BEAM, dtype=torch.bool)
    for _ in range(limit):
        logits, state = model.write(model.target_embedding(words[:, -1]), state, outputs, padding)
        logits[:, :EOS] = -torch.inf
        gains = logits.log_softmax(-1)
        gains[ended] = -torch.inf
        gains[ended, EOS] = 0.0
        scores, places = (scores.view(-1, 1) + gains).view(batch, -1).topk(BEAM)
        rows = (places // gains.shape[1] + torch.arange(batch)[:, None] * BEAM).flatten()
        words = torch.cat([words[rows], (places % gains.shape[1]).view(-1, 1)], 1)
        state, ended = state[:, rows], ended[rows] | (words[:, -1] == EOS)
        if ended.all():
            break
    lengths = (words != EOS).sum(1).view(batch, BEAM)
    best = (scores / lengths).argmax(1)
    return words.view(batch, BEAM, -1)[torch.arange(batch), best, 1:].tolist()


def alone(sentences: Sentences, beam_size: int, count: int = 100) -> list[float]:
    """Milliseconds of single sentences."""
    times = []
    for line in sentences.lines[:count]:
        begin = time.perf_counter()
        sentences.translator.translate([line], beam_size=beam_size, n_best=1)
        times.append((time.perf_counter() - begin) * 1e3)
    return times


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, default=paths.bundle("attention", load_params().seeds[0]))
    parser.add_argument("--sentences", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    decoding = Decoding.of(load_params().translate)
    translator = Translator.load(arguments.model, decoding, device="cpu", threads=arguments.threads)
    sentences = Sentences(translator, decoding, arguments.sentences)
    textbook = Textbook(translator.models[0], 0.0).eval()
    systems = {
        "textbook, greedy": lambda: sentences.by_textbook(lambda *batch: textbook_greedy(textbook, *batch)),
        "project, greedy": lambda: sentences.by_project(1),
        f"textbook, beam {BEAM}": lambda: sentences.by_textbook(lambda *batch: textbook_beam(textbook, *batch)),
        f"project, beam {BEAM}": lambda: sentences.by_project(BEAM),
    }
    speeds: dict[str, list[float]] = {name: [] for name in systems}
    for number in range(arguments.rounds):
        outputs = {}
        for name, translate in systems.items():
            begin = time.perf_counter()
            outputs[name] = translate()
            speeds[name].append(len(sentences.lines) / (time.perf_counter() - begin))
            print(f"round {number + 1}: {name} {speeds[name][-1]:,.0f} sentences/s", file=sys.stderr, flush=True)
        same = sum(map(str.__eq__, outputs["textbook, greedy"], outputs["project, greedy"]))
        print(f"equal greedy outputs: {same:,} of {len(sentences.lines):,}", file=sys.stderr)
    print("| system | sentences/s | ratio |\n|---|--:|--:|")
    for kind in ("greedy", f"beam {BEAM}"):
        baseline, ours = speeds[f"textbook, {kind}"], speeds[f"project, {kind}"]
        ratio = statistics.median(one / other for one, other in zip(ours, baseline, strict=True))
        print(f"| textbook, {kind} | {statistics.median(baseline):,.0f} | 1.00 |")
        print(f"| project, {kind} | {statistics.median(ours):,.0f} | {ratio:.2f} |")
    for beam_size in (1, BEAM):
        times = alone(sentences, beam_size)
        print(f"\none sentence, beam {beam_size}: median {statistics.median(times):.0f} ms, most {max(times):.0f} ms")


if __name__ == "__main__":
    main()
