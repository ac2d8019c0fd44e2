"""Which model a command works with: options, and the translator they choose."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from nmt import paths
from nmt.config import Params, load_params
from nmt.decoding import Decoding
from nmt.errors import UserError

if TYPE_CHECKING:
    from nmt.translator import Translator


@dataclass(frozen=True)
class Choice:
    """A model that is not loaded yet: small enough to be sent to the process that loads it."""

    folder: Path
    decoding: Decoding | None
    """None: what lies beside the weights, see `Decoding.beside`."""
    device: Literal["auto", "cpu", "cuda"]
    threads: int | None
    """None: one for each core, see `Translator.load`."""
    others: tuple[Path, ...] = ()
    """Models that translate together with it."""

    def load(self) -> "Translator":
        """Read the bundle."""
        from nmt.translator import Translator  # imports torch, which takes seconds

        return Translator.load(self.folder, self.decoding, others=self.others, device=self.device, threads=self.threads)


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
    parser.set_defaults(ensemble=False)


def add_ensemble_option(parser: argparse.ArgumentParser) -> None:
    """Add --ensemble, for commands that ask no more than what a model writes and how probable that is."""
    parser.add_argument("--ensemble", action="store_true", help="the models of all seeds of the variant together")


def load_chosen(arguments: argparse.Namespace) -> "Translator":
    """The translator that these options ask for."""
    return chosen(arguments).load()


def chosen(arguments: argparse.Namespace, threads: int | None = None) -> Choice:
    """The model that these options ask for; a local one decodes as params.yaml says.

    Without `threads`, a local model uses as many as `runtime` says, another one as many as there are cores.
    """
    if arguments.model is not None:
        if arguments.variant is not None or arguments.seed is not None or arguments.ensemble:
            raise UserError("--model names a model by itself; leave --variant, --seed and --ensemble out")
        return Choice(_folder(arguments.model), None, arguments.device, threads)
    params = load_params()
    variant = arguments.variant or _first_with_attention(params)
    params.variant(variant)
    seed = params.seeds[0] if arguments.seed is None else arguments.seed
    decoding, threads = Decoding.of(params.translate), threads or params.runtime.threads
    others = _other_seeds(arguments, params, variant) if arguments.ensemble else ()
    return Choice(paths.bundle(variant, seed), decoding, arguments.device, threads, others)


def _other_seeds(arguments: argparse.Namespace, params: Params, variant: str) -> tuple[Path, ...]:
    """The models of a variant's seeds but the first."""
    if arguments.seed is not None:
        raise UserError("--ensemble takes all seeds of params.yaml; leave --seed out")
    if len(params.seeds) == 1:
        raise UserError(f"an ensemble needs several models, but seeds is {params.seeds} in {paths.PARAMS}")
    return tuple(paths.bundle(variant, seed) for seed in params.seeds[1:])


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
