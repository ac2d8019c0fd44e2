"""Train, dev and test without leaks: sentence pairs that share a sentence stay together.

A corpus is a bipartite graph: its nodes are the identity keys of source and target sentences, its edges the pairs.
Whole connected components go to dev and test, so no sentence of theirs is left in train. All work but sorting is linear
in the number of pairs; a pair's place follows from its id and the seed, never from the order of rows.
"""

import hashlib

import numpy as np
import pandas as pd
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from nmt.corpus import identity_keys
from nmt.errors import UserError

HELD_OUT = ("dev", "test")


def link(pairs: pd.DataFrame, source_language: str, target_language: str) -> pd.DataFrame:
    """Three int64 columns for pairs with normalised `source` and `target`: source_key, target_key and component."""
    keys = {}
    for side, language in (("source", source_language), ("target", target_language)):
        codes, _ = pd.factorize(np.array(identity_keys(pairs[side].to_list(), language), dtype=object))
        empty = (pairs[side] == "").to_numpy()  # says nothing, so it links nothing: each is a key of its own
        codes[empty] = len(codes) + np.arange(empty.sum())
        keys[f"{side}_key"] = codes
    sources = int(keys["source_key"].max(initial=-1)) + 1
    nodes = sources + int(keys["target_key"].max(initial=-1)) + 1
    edges = (np.ones(len(pairs), np.int8), (keys["source_key"], keys["target_key"] + sources))
    _, component_of_node = connected_components(coo_matrix(edges, shape=(nodes, nodes)), directed=False)
    component = component_of_node[keys["source_key"]].astype(np.int64)
    return pd.DataFrame({**keys, "component": component}, index=pairs.index)


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
    sizes = component.map(component.value_counts())
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
    part = np.where(component.isin(component.iloc[rows]), "spare", "train").astype(object)
    part[rows] = np.where(is_test, "test", "dev")
    return pd.Series(part, index=ids.index, dtype="str")


def keyed_draws(ids: pd.Series, key: str) -> np.ndarray:
    """Two independent uniform uint64 per id, [N, 2], that depend on the id and `key` alone."""
    digests = (hashlib.blake2b(f"{key}:{pair}".encode(), digest_size=16).digest() for pair in ids)
    return np.frombuffer(b"".join(digests), dtype="<u8").reshape(-1, 2)


def in_drawn_order(pairs: pd.DataFrame, part: str, seed: int) -> pd.DataFrame:
    """The pairs of one part in an order drawn by `seed`, so that any first n of them are a fair sample."""
    chosen = pairs[pairs["part"] == part]
    return chosen.iloc[np.argsort(keyed_draws(chosen["id"], f"order:{seed}")[:, 0], kind="stable")]


def references(pairs: pd.DataFrame, chosen: pd.DataFrame) -> pd.Series:
    """Per chosen pair the rows of `pairs` that translate its source: its own first, the others in the order of ids.

    No two of them have the same normalised target. A source, by its key, is chosen at most once.
    """
    related = pairs[pairs["source_key"].isin(chosen["source_key"]) & (pairs["part"] != "train")]
    related = related.assign(other=~related.index.isin(chosen.index))
    related = related.sort_values(["source_key", "other"], kind="stable")
    related = related[~related.duplicated(["source_key", "target"])]
    rows = related.index.to_series().groupby(related["source_key"]).agg(list)
    return chosen["source_key"].map(rows)


def leaks(pairs: pd.DataFrame, part: pd.Series) -> dict[str, dict[str, int]]:
    """How many dev and test pairs have a sentence, by identity key, that stands in train on the same side.

    Likewise, the other way round, how many train pairs share a sentence with dev or test.
    """
    in_train = part == "train"
    found = {"train": _shared(pairs[in_train], pairs[part.isin(HELD_OUT)])}
    for name in HELD_OUT:
        found[name] = _shared(pairs[part == name], pairs[in_train])
    return found


def _shared(pairs: pd.DataFrame, others: pd.DataFrame) -> dict[str, int]:
    """How many of `pairs` have their source, their target, or either of them in `others`."""
    source, target = (pairs[key].isin(others[key]) for key in ("source_key", "target_key"))
    return {"source": int(source.sum()), "target": int(target.sum()), "either": int((source | target).sum())}


def random_split(ids: pd.Series, test_pairs: int, dev_pairs: int, seed: int) -> pd.Series:
    """The usual split, pair by pair, as `split_by_components` would have it without components: for comparison only."""
    order = np.argsort(keyed_draws(ids, f"random:{seed}")[:, 0], kind="stable")
    part = pd.Series("train", index=ids.index)
    part.iloc[order[:test_pairs]] = "test"
    part.iloc[order[test_pairs : test_pairs + dev_pairs]] = "dev"
    return part


def _shares(total: int, classes: int) -> list[int]:
    """`total` cut as `np.array_split` cuts: no class is asked for more than it has while there is enough in all."""
    return [total // classes + (place < total % classes) for place in range(classes)]
