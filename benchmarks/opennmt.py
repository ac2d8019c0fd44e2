"""OpenNMT-py's recurrent model, trained to its end on the project's split and pieces, and scored as ours are.

    python benchmarks/opennmt.py --bin VENV/bin --folder FOLDER      # after `dvc repro tokenize`; hours on one core

OpenNMT-py 3.5.1 has an environment of its own (`pip install OpenNMT-py==3.5.1`). It reads the pieces of data/tokenized
as words, in batches of 64 sentences sorted by length within the whole corpus: GRU of 256 a direction, decoder of 512
with input feeding, general attention (Luong et al. 2015), embeddings of 256, dropout 0.3, label smoothing 0.1, Adam,
whose rate falls after each epoch of the second half. Each epoch's model translates dev (beam 5), the best there
translates test. A second call translates what FOLDER lacks.
"""

import argparse
import os
import re
import subprocess
from pathlib import Path

import yaml

from nmt import paths, testset
from nmt.config import load_params
from nmt.files import each_line, read_json_lines, read_lines, write_lines
from nmt.scoring import Bootstrap, bleu, chrf, statistics
from nmt.subwords import SPECIAL, Subwords

SENTENCES = 64
RATE, FALL = 0.001, 0.6
"""Adam's rate, and by what it is multiplied after each epoch of the second half."""


def write_text(folder: Path) -> int:
    """Write pieces of all splits and the vocabularies; returns the number of training pairs."""
    pairs = 0
    for side in paths.SIDES:
        subwords = Subwords.load(paths.subword_model(side))
        for split in paths.SPLITS:
            lines = list(each_line(paths.prepared_text(split, side)))
            pairs = len(lines) if split == "train" else pairs
            write_lines(folder / f"{split}.{side}", [" ".join(subwords.pieces(ids)) for ids in subwords.encode(lines)])
        names = subwords.pieces(range(len(SPECIAL), subwords.size))
        write_lines(folder / f"vocabulary.{side}", [f"{name}\t1" for name in names])
    return pairs


def write_settings(folder: Path, pairs: int, epochs: int, threads: int, seed: int) -> Path:
    """Write what `onmt_train` reads."""
    epoch = pairs // SENTENCES
    text = {
        split: {"path_src": str(folder / f"{split}.source"), "path_tgt": str(folder / f"{split}.target")}
        for split in ("train", "dev")
    }
    settings = {
        "data": {"train": text["train"], "valid": text["dev"]},
        "save_data": str(folder / "run"),
        "src_vocab": str(folder / "vocabulary.source"),
        "tgt_vocab": str(folder / "vocabulary.target"),
        "save_model": str(folder / "model"),
        "save_checkpoint_steps": epoch,
        "valid_steps": epoch,
        "train_steps": epoch * epochs,
        "report_every": 100,
        "encoder_type": "brnn",
        "decoder_type": "rnn",
        "rnn_type": "GRU",
        "layers": 1,
        "hidden_size": 512,
        "word_vec_size": 256,
        "global_attention": "general",
        "input_feed": 1,
        "bridge": True,
        "dropout": [0.3],
        "label_smoothing": 0.1,
        "optim": "adam",
        "learning_rate": RATE,
        "start_decay_steps": epoch * (epochs // 2),
        "decay_steps": epoch,
        "learning_rate_decay": FALL,
        "max_grad_norm": 5.0,
        "batch_type": "sents",
        "batch_size": SENTENCES,
        "bucket_size": pairs,
        "num_workers": 0,
        "world_size": 1,
        "gpu_ranks": [],
        "seed": seed,
    }
    path = folder / "train.yaml"
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    return path


def translate(command: Path, model: Path, split: str, environment: dict[str, str]) -> list[str]:
    """Translate a split with beam 5; returns detokenised lines. What is there already is not made again."""
    output = model.with_suffix(f".{split}")
    if not output.exists():
        unfinished = output.with_suffix(f".{split}.unfinished")
        arguments = ["-model", model, "-src", model.parent / f"{split}.source", "-output", unfinished]
        options = ["-beam_size", 5, "-batch_size", SENTENCES, "-length_penalty", "avg", "-max_length", 120]
        subprocess.run([command, *map(str, [*arguments, *options])], check=True, env=environment, capture_output=True)
        unfinished.rename(output)
    subwords = Subwords.load(paths.subword_model("target"))
    return subwords.decode([subwords.ids(line.split()) for line in read_lines(output)])


def main() -> None:
    """Train, choose on dev, score test."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--bin", type=Path, required=True, help="the folder of onmt_train and onmt_translate")
    parser.add_argument("--folder", type=Path, required=True, help="where all that it makes is kept")
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    pairs = write_text(folder)
    settings = write_settings(folder, pairs, arguments.epochs, arguments.threads, arguments.seed)
    # OpenNMT-py's checkpoints hold an argparse.Namespace, which torch unpickles only when told to; these are our own.
    environment = os.environ | {"OMP_NUM_THREADS": str(arguments.threads), "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}
    if not (folder / f"model_step_{pairs // SENTENCES * arguments.epochs}.pt").exists():
        subprocess.run([arguments.bin / "onmt_train", "-config", settings], check=True, env=environment)
    language = load_params().corpus.target
    evaluate = load_params().evaluate
    references = [record["references"] for record in read_json_lines(paths.prepared_records("dev"))]
    found = {}
    for model in sorted(folder.glob("model_step_*.pt"), key=lambda one: int(re.findall(r"\d+", one.stem)[-1])):
        lines = translate(arguments.bin / "onmt_translate", model, "dev", environment)
        found[model] = statistics(bleu(language), lines, references).score()
        print(f"{model.stem}: dev BLEU {found[model]:.2f}", flush=True)
    best = max(found, key=lambda one: found[one])
    lines = translate(arguments.bin / "onmt_translate", best, "test", environment)
    bootstrap = Bootstrap(evaluate.bootstrap_samples, evaluate.confidence, evaluate.bootstrap_seed)
    for metric in (bleu, chrf):
        counts = statistics(metric(language), lines, testset.read_sentences().references)
        score = bootstrap.score(counts)
        print(f"{best.stem}: test {score.score:.2f} [{score.low:.2f}, {score.high:.2f}] {counts.signature}")


if __name__ == "__main__":
    main()
