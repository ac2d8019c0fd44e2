"""`nmt publish`: bring results into MLflow that are not there yet, such as those that DVC took from its run cache."""

import argparse
from typing import TYPE_CHECKING

from nmt import tracking
from nmt.config import load_params
from nmt.errors import UserError

if TYPE_CHECKING:
    _Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def register(subparsers: "_Subparsers") -> None:
    """Add the command's options."""
    parser = subparsers.add_parser("publish", description=__doc__)
    parser.add_argument("--variant", help="only this variant (default: all of params.yaml)")
    parser.add_argument("--seed", type=int, help="only this seed (default: all of params.yaml)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Publish and tell, a line per run, what was added; 1 if a run holds other bytes than the files."""
    warned = False
    for published in tracking.publish_all(_chosen(arguments.variant, arguments.seed)):
        print(published)
        warned |= published.warning is not None
    return int(warned)


def _chosen(variant: str | None, seed: int | None) -> list[tuple[str, int]]:
    """The models of params.yaml that the options leave."""
    params = load_params()
    if variant is not None:
        params.variant(variant)
    if seed is not None and seed not in params.seeds:
        raise UserError(f"params.yaml: no seed {seed}; there are {', '.join(map(str, params.seeds))}")
    variants = params.variants if variant is None else [variant]
    return [(name, number) for name in variants for number in (params.seeds if seed is None else [seed])]
