"""Train, dev and test without leaks: sentence pairs that share a sentence stay together.

A corpus is a bipartite graph: its nodes are the identity keys of source and target sentences, its edges the pairs.
Whole connected components go to dev and test, so no sentence of theirs is left in train. All work but sorting is linear
in the number of pairs; a pair's place follows from its id and the seed, never from the order of rows.
"""

import numpy as np
import pandas as pd
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from nmt.errors import UserError
from nmt.fingerprints import codes, fingerprints

HELD_OUT = ("dev", "test")
PARTS = ("train", *HELD_OUT, "spare")
Part = pd.CategoricalDtype(list(PARTS))

_AT_ONCE = 1 << 16


def link(
    source_prints: np.ndarray, target_prints: np.ndarray, source_empty: np.ndarray, target_empty: np.ndarray
) -> pd.DataFrame:
    """Three columns of numbers: source_key, target_key and component.

    The pairs are given by the fingerprints of their identity keys, uint64 [N, 2], and by which sides are empty [N].
    """
    keys = {"source_key": _numbered(source_prints, source_empty), "target_key": _numbered(target_prints, target_empty)}
    sources = int(keys["source_key"].max(initial=-1)) + 1
    nodes = sources + int(keys["target_key"].max(initial=-1)) + 1
    edges = (np.ones(len(source_prints), np.int8), (keys["source_key"], keys["target_key"] + sources))
    _, component_of_node = connected_components(coo_matrix(edges, shape=(nodes, nodes)), directed=False)
    return pd.DataFrame({**keys, "component": component_of_node[keys["source_key"]]})


def _numbered(prints: np.ndarray, empty: np.ndarray) -> np.ndarray:
    """Numbers of keys; an empty side says nothing, so it links nothing: each is a key of its own."""
    numbers = codes(prints)
    numbers[empty] = len(numbers) + np.arange(empty.sum())
    return numbers


def split_by_components(
    ids: pd.Series,
    component: pd.Series,
    source_lengths: np.ndarray,
    *,
    test_pairs: int,
    dev_pairs: int,
    seed: int,
    strata: int,
    max_component_share: float,
) -> pd.Series:
    """The part of each pair: train, dev, test, or spare.

    Rows are in the order of ids. Of each component the first pair is the candidate; candidates are cut into `strata`
    classes of equal size by source length, and every class gives its share to test and dev. The other pairs of a chosen
    component are spare: in no part. Components above `max_component_share` of all pairs stay in train, since choosing
    one would cost train all of its pairs. Too few candidates are a UserError.
    """
    sizes = np.bincount(component)[component]
    candidates = np.flatnonzero(~component.duplicated() & (sizes <= max(1, max_component_share * len(ids))))
    wanted = test_pairs + dev_pairs
    if len(candidates) <= wanted:
        raise UserError(
            f"the corpus has {len(ids):,} pairs in {len(candidates):,} groups without a common sentence, too few for "
            f"{test_pairs:,} test and {dev_pairs:,} dev pairs and a train part: set prepare.test_pairs and "
            f"prepare.dev_pairs in params.yaml to, say, {max(1, len(candidates) // 10)} each"
        )
    draws = keyed_draws(ids.iloc[candidates], f"split:{seed}")
    by_length = np.lexsort((draws[:, 1], source_lengths[candidates]))
    chosen = np.concatenate(
        [
            stratum[np.argsort(draws[stratum, 0], kind="stable")][:count]
            for stratum, count in zip(np.array_split(by_length, strata), _shares(wanted, strata), strict=True)
        ]
    )
    # Test's share of the chosen, spread evenly over them in their order of strata.
    places = np.arange(1, wanted + 1) * test_pairs // wanted
    is_test = np.diff(places, prepend=0) == 1
    rows = candidates[chosen]
    part = np.where(component.isin(component.iloc[rows]), PARTS.index("spare"), PARTS.index("train"))
    part[rows] = np.where(is_test, PARTS.index("test"), PARTS.index("dev"))
    return pd.Series(pd.Categorical.from_codes(part, dtype=Part), index=ids.index)


def keyed_draws(ids: pd.Series, key: str) -> np.ndarray:
    """Two independent uniform uint64 per id, [N, 2], that depend on the id and `key` alone."""
    draws = np.empty((len(ids), 2), "<u8")
    for begin in range(0, len(ids), _AT_ONCE):
        some = ids.iloc[begin : begin + _AT_ONCE].to_list()
        draws[begin : begin + _AT_ONCE] = fingerprints(f"{key}:{pair}" for pair in some)
    return draws


def in_drawn_order(pairs: pd.DataFrame, part: str, seed: int) -> pd.DataFrame:
    """The pairs of one part in an order drawn by `seed`, so that any first n of them are a fair sample."""
    chosen = pairs[pairs["part"] == part]
    return chosen.iloc[np.argsort(keyed_draws(chosen["id"], f"order:{seed}")[:, 0], kind="stable")]


def related(pairs: pd.DataFrame, chosen: pd.DataFrame) -> pd.DataFrame:
    """The rows of `pairs` outside train that have the source, by its key, of a chosen one."""
    return pairs[pairs["source_key"].isin(chosen["source_key"]) & (pairs["part"] != "train")]


def references(candidates: pd.DataFrame, chosen: pd.DataFrame) -> pd.Series:
    """Per chosen pair the rows that translate its source: its own first, the others in the order of ids.

    `candidates` are `related` rows with their normalised `target`: no two of a source's references have the same. A
    source, by its key, is chosen at most once.
    """
    candidates = candidates.assign(other=~candidates.index.isin(chosen.index))
    candidates = candidates.sort_values(["source_key", "other"], kind="stable")
    candidates = candidates[~candidates.duplicated(["source_key", "target"])]
    rows = candidates.index.to_series().groupby(candidates["source_key"]).agg(list)
    return chosen["source_key"].map(rows)


def leaks(pairs: pd.DataFrame, part: pd.Series) -> dict[str, dict[str, int]]:
    """How many dev and test pairs have a sentence, by identity key, that stands in train on the same side.

    Likewise, the other way round, how many train pairs share a sentence with dev or test. A pair whose part is null is
    in none.
    """
    in_part = {name: (part == name).to_numpy() for name in ("train", *HELD_OUT)}
    found = {"train": _shared(pairs, in_part["train"], in_part["dev"] | in_part["test"])}
    for name in HELD_OUT:
        found[name] = _shared(pairs, in_part[name], in_part["train"])
    return found


def _shared(pairs: pd.DataFrame, mine: np.ndarray, others: np.ndarray) -> dict[str, int]:
    """How many pairs of mine have their source, their target, or either of them in others."""
    found = {}
    for side in ("source", "target"):
        keys = pairs[f"{side}_key"].to_numpy()
        stands_there = np.zeros(keys.max(initial=-1) + 1, bool)
        stands_there[keys[others]] = True
        found[side] = stands_there[keys] & mine
    found["either"] = found["source"] | found["target"]
    return {side: int(shared.sum()) for side, shared in found.items()}


def random_split(ids: pd.Series, test_pairs: int, dev_pairs: int, seed: int) -> pd.Series:
    """The usual split, pair by pair, as `split_by_components` would have it without components: for comparison only."""
    order = np.argsort(keyed_draws(ids, f"random:{seed}")[:, 0], kind="stable")
    part = np.zeros(len(ids), np.int8)
    part[order[:test_pairs]] = PARTS.index("test")
    part[order[test_pairs : test_pairs + dev_pairs]] = PARTS.index("dev")
    return pd.Series(pd.Categorical.from_codes(part, dtype=Part), index=ids.index)


def _shares(total: int, classes: int) -> list[int]:
    """`total` cut as `np.array_split` cuts: no class is asked for more than it has while there is enough in all."""
    return [total // classes + (place < total % classes) for place in range(classes)]
