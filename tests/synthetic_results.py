"""A project with results that no training made: the real params.yaml and dvc.yaml, small files for the rest."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from nmt import files, identity, paths
from nmt.config import load_params, load_yaml

ROOT = Path(__file__).resolve().parents[1]
EPOCHS = 3


PARAMS = """
seeds: [1]
test_pairs: 2000
max_epochs: 12
learning_rate: 0.002
weight_decay: 0.0
beam_size: 5
length_penalty: 1.0
joined: [2, 3, 4]
length_bins: 5
heatmaps: 12
"""
"""Values that the tests know and change."""


def make_project(folder: Path) -> None:
    """The files that an id depends on, below `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / paths.PIPELINE, folder)
    text = files.read_text(ROOT / paths.PARAMS)
    for entry in PARAMS.split("\n")[1:-1]:
        key, value = entry.split(": ")
        text, changed = re.subn(rf"(?m)^( *{key}: )(\[.*?\]|[^ \n]+)", rf"\g<1>{value}", text, count=1)
        assert changed, f"params.yaml has no {key}"
    files.write_text(folder / paths.PARAMS, text)
    for dep in load_yaml(ROOT / paths.PIPELINE)["stages"]["train"]["deps"]:
        path = folder / dep
        path = path if path.suffix else path / "content.py"
        files.write_text(path, f"# {dep}\n")
    for split in paths.SPLITS:
        for side in paths.SIDES:
            files.write_lines(folder / paths.prepared_text(split, side), [f"{split} {side} {i}" for i in range(3)])


def set_param(old: str, new: str) -> None:
    """Change params.yaml of the current folder."""
    text = files.read_text(paths.PARAMS)
    assert old in text
    files.write_text(paths.PARAMS, text.replace(old, new, 1))


def make_training(variant: str, seed: int = 1, salt: str = "") -> None:
    """What stage `train` writes."""
    bundle, report = paths.bundle(variant, seed), paths.training_report(variant, seed)
    for name in ("model.safetensors", "config.json", "source.model", "target.model"):
        files.write_text(bundle / name, f"{variant} {seed} {name}{salt}")
    rows = [
        {
            "epoch": epoch,
            "updates": 100 * epoch,
            "target_tokens": 5000 * epoch,
            "train_loss": 5.0 - epoch,
            "dev_loss": 5.5 - epoch,
            "dev_perplexity": 60.0 / epoch,
            "learning_rate": 0.001 / epoch,
        }
        for epoch in range(1, EPOCHS + 1)
    ]
    files.write_csv(report / "history.csv", rows)
    summary = {
        "training_id": identity.training_id(variant, seed),
        "variant": variant,
        "seed": seed,
        "attention": "none",
        "parameters": 12345,
        "parameters_by_part": {"encoder": 10000, "decoder": 2345},
        "updates": 300,
        "dev_loss": 2.5,
        "device": "cpu",
        "precision": "float32",
    }
    files.write_json(report / "summary.json", summary)


def make_scores(variant: str, seed: int = 1, bleu: float = 20.0) -> None:
    """What stages `translate` and `evaluate` write."""
    hypotheses = paths.translations(variant, seed) / "hypotheses.jsonl"
    files.write_text(hypotheses, f'{{"of": "{variant} {seed} {bleu}"}}\n')
    metric = {"score": bleu, "low": bleu - 1, "high": bleu + 1, "signature": "nrefs:var|case:mixed"}
    bins = [{"low": low, "high": low + 9, "sentences": 5, "bleu": bleu - low / 10} for low in (1, 11, 21)]
    scores = {
        "result_id": result_id(variant, seed),
        "variant": variant,
        "seed": seed,
        "attention": "none",
        "bleu": metric,
        "chrf": metric,
        "ter": metric,
        "exact_match": 0.1,
        "by_length": bins,
        "joined": [{"joined": k, "sentences": 10 // k, "bleu": bleu - k} for k in (1, 2, 3, 4)],
    }
    files.write_json(paths.scores(variant, seed), scores)


def make_attention(variant: str, seed: int = 1) -> None:
    """What stage `analyze_attention` writes."""
    report = paths.attention_report(variant, seed)
    hypotheses = paths.translations(variant, seed) / "hypotheses.jsonl"
    summary = {"hypotheses_sha256": files.sha256(hypotheses), "entropy": {"mean": 1.5, "uniform": 2.5}, "aer": None}
    files.write_json(report / "summary.json", summary)
    files.write_bytes(report / "figures" / "sentence-1.png", b"\x89PNG")


def make_comparison(text: str = "# Comparison\n") -> None:
    """What stage `compare` writes."""
    files.write_text(paths.COMPARISON / "comparison.md", text)
    files.write_bytes(paths.COMPARISON / "curves.png", b"\x89PNG")


def make_page(text: str) -> None:
    """What stage `report` writes, as far as its tracking looks at it."""
    comparison = identity.content_hash(paths.COMPARISON)
    files.write_text(paths.PAGE, f'<head><meta content="{comparison}"></head>{text}')


def make_result(variant: str, seed: int = 1, bleu: float = 20.0) -> None:
    """Everything of one model."""
    make_training(variant, seed)
    make_scores(variant, seed, bleu)
    make_attention(variant, seed)


def result_id(variant: str, seed: int = 1) -> str:
    """The id under which the present result is published."""
    return identity.result_id(identity.training_id(variant, seed), load_params())


def git(*arguments: str) -> str:
    """Call git in the current folder with a fixed author."""
    author = ["-c", "user.name=Test", "-c", "user.email=test@example.org"]
    done = subprocess.run(["git", *author, *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def counts(client: Any, experiment: str) -> dict[str, Any]:
    """Everything in an experiment that a second call must leave as it is."""
    found = client.get_experiment_by_name(experiment)
    state: dict[str, Any] = {"versions": len(client.search_model_versions()), "runs": {}}
    for run in client.search_runs([found.experiment_id]):
        histories = (client.get_metric_history(run.info.run_id, key) for key in run.data.metrics)
        points = [(metric.key, metric.step, metric.value) for history in histories for metric in history]
        state["runs"][run.info.run_name] = {
            "points": sorted(points),
            "artifacts": sorted(artifacts(client, run.info.run_id)),
            "tags": dict(run.data.tags),
            "params": dict(run.data.params),
            "datasets": len(run.inputs.dataset_inputs),
            "models": len(run.outputs.model_outputs),
            "status": run.info.status,
            "end": run.info.end_time,
        }
    return state


def artifacts(client: Any, run_id: str, path: str | None = None) -> list[str]:
    """All files of a run."""
    names = []
    for entry in client.list_artifacts(run_id, path):
        names += artifacts(client, run_id, entry.path) if entry.is_dir else [entry.path]
    return names
