"""Which model a command works with: options, and the translator they choose."""

import argparse
from pathlib import Path

from nmt import paths
from nmt.config import Params, load_params
from nmt.decoding import Decoding
from nmt.errors import UserError
from nmt.translator import Translator


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add --variant, --seed, --model and --device."""
    options = parser.add_argument_group("model")
    options.add_argument("--variant", help="a variant of params.yaml (default: its first with attention)")
    options.add_argument("--seed", type=int, help="a seed of that variant (default: the first in params.yaml)")
    options.add_argument(
        "--model",
        metavar="FOLDER|URI",
        help="instead: a bundle's folder, or a registered model such as models:/nmt-zh-en@attention; decoded with the "
        "settings in its decoding.json, or greedily",
    )
    options.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")


def load_chosen(arguments: argparse.Namespace) -> Translator:
    """The translator that these options ask for; a local model decodes as params.yaml says."""
    if arguments.model is not None:
        if arguments.variant is not None or arguments.seed is not None:
            raise UserError("--model names a model by itself; leave --variant and --seed out")
        return Translator.load(_folder(arguments.model), device=arguments.device)
    params = load_params()
    variant = arguments.variant or _first_with_attention(params)
    params.variant(variant)
    seed = params.seeds[0] if arguments.seed is None else arguments.seed
    return Translator.load(
        paths.bundle(variant, seed),
        Decoding.of(params.translate),
        device=arguments.device,
        threads=params.runtime.threads,
    )


def _folder(model: str) -> Path:
    """A bundle's folder, fetched first if `model` is an address of MLflow's."""
    if ":/" not in model:
        return Path(model)
    from nmt import tracking  # imports mlflow, which takes seconds

    return tracking.download_bundle(model)


def _first_with_attention(params: Params) -> str:
    """The first variant of params.yaml that has attention; the first of all if none has."""
    attentive = [name for name, variant in params.variants.items() if variant.attention != "none"]
    return (attentive or list(params.variants))[0]
