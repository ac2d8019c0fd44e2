"""The split by connected components: no sentence of dev or test in train."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nmt.corpus import identity_keys
from nmt.errors import UserError
from nmt.fingerprints import fingerprints
from nmt.splits import in_drawn_order, leaks, link, random_split, references, related, split_by_components


def table(rows: list[tuple[str, str]]) -> pd.DataFrame:
    """Linked pairs, with ids in the order of rows."""
    pairs = pd.DataFrame(rows, columns=["source", "target"]).astype("str")
    pairs["id"] = [f"{number:05d}" for number in range(len(rows))]
    pairs["raw_target"] = pairs["target"]
    prints = [fingerprints(identity_keys(pairs[s].to_list(), lang)) for s, lang in (("source", "zh"), ("target", "en"))]
    return pairs.join(link(*prints, *((pairs[side] == "").to_numpy() for side in ("source", "target"))))


def divided(pairs: pd.DataFrame, **changes: float) -> pd.Series:
    """The parts of `pairs` under small sizes."""
    sizes = {"test_pairs": 3, "dev_pairs": 2, "seed": 1, "strata": 2, "max_component_share": 1.0} | changes
    lengths = pairs["source"].str.len().to_numpy()
    return split_by_components(pairs["id"], pairs["component"], lengths, **sizes)  # type: ignore[arg-type]


SINGLES = [(f"句子{number}", f"sentence {number}") for number in range(40)]

PLANTED = [
    ("我們走。", "We go."),
    ("我们走", "Let us leave."),
    ("走吧", "let us LEAVE"),
    ("走吧！", "Off we go."),
    ("快", "Quick"),
]


def test_components_follow_chains_of_shared_sentences() -> None:
    """Traditional, simplified, case and punctuation link pairs over source or target, through several steps."""
    linked = table(PLANTED)
    assert linked["component"].nunique() == 2
    assert linked["component"].iloc[:4].nunique() == 1
    assert linked["source_key"].nunique() == 3
    assert linked["target_key"].nunique() == 4


def test_empty_sides_link_nothing() -> None:
    """A side without text is no common sentence, nor is one of punctuation alone the same as another."""
    linked = table([("", "one"), ("", "two"), ("三", ""), ("四", ""), ("?", "five"), ("...", "six")])
    assert linked["component"].nunique() == 6


sentences = st.integers(0, 25).map(lambda number: f"甲{number}")
many_to_many = st.lists(st.tuples(sentences, sentences), min_size=1, max_size=60)


@given(many_to_many)
def test_components_are_what_following_every_link_gives(rows: list[tuple[str, str]]) -> None:
    """Pairs are in one component if a chain of shared sentences leads from one to the other, and else in two."""
    found = table(rows)["component"].to_list()
    groups = [{row} for row in range(len(rows))]
    for i, (source, target) in enumerate(rows):
        for j in range(i):
            if rows[j][0] == source or rows[j][1] == target:
                groups[i] |= groups[j]
        for row in groups[i]:
            groups[row] = groups[i]
    assert all((found[i] == found[j]) == (j in groups[i]) for i in range(len(rows)) for j in range(len(rows)))


@given(many_to_many, st.integers(0, 5))
def test_no_key_of_dev_or_test_in_train(rows: list[tuple[str, str]], seed: int) -> None:
    """Whatever shares what: sizes are as asked, one pair per component, no leak."""
    pairs = table(SINGLES + rows)
    part = divided(pairs, seed=seed)
    assert part.value_counts().reindex(["test", "dev"]).to_list() == [3, 2]
    found = leaks(pairs, part)
    assert all(count == 0 for counts in found.values() for count in counts.values())
    chosen = pairs[part.isin(["test", "dev"])]
    assert not chosen["component"].duplicated().any()
    lowest = pairs.groupby("component")["id"].min()
    assert (chosen["id"] == chosen["component"].map(lowest)).all()


def test_leaks_are_counted_by_side() -> None:
    """Planted duplicates across a wrong split are found, by source, by target, and once if by both."""
    pairs = table([("甲", "a"), ("甲", "b"), ("乙", "c"), ("丙", "C!"), ("丁", "d"), ("丁。", "D")])
    part = pd.Series(["train", "test", "train", "test", "train", "dev"])
    found = leaks(pairs, part)
    assert found["test"] == {"source": 1, "target": 1, "either": 2}
    assert found["dev"] == {"source": 1, "target": 1, "either": 1}
    assert found["train"] == {"source": 2, "target": 2, "either": 3}


def test_pairs_keep_their_part_when_others_come() -> None:
    """A pair's draw depends on its id and the seed: a renamed seed draws others, the same seed the same."""
    pairs = table(SINGLES)
    assert divided(pairs).equals(divided(pairs))
    assert not divided(pairs).equals(divided(pairs, seed=2))


@pytest.mark.parametrize(("test_pairs", "dev_pairs", "strata"), [(3, 2, 2), (7, 5, 3), (1, 1, 10), (20, 19, 7)])
def test_every_length_class_gives_its_share(test_pairs: int, dev_pairs: int, strata: int) -> None:
    """Sizes are exact; the classes of equal size differ by one pair at most in what they give."""
    pairs = table([("字" * (1 + number // 4), f"{number}") for number in range(0, 160, 4)])
    part = divided(pairs, test_pairs=test_pairs, dev_pairs=dev_pairs, strata=strata)
    assert (part == "test").sum() == test_pairs
    assert (part == "dev").sum() == dev_pairs
    classes = np.array_split(part.isin(["test", "dev"]).to_numpy(), strata)
    given_by_class = [int(rows.sum()) for rows in classes]
    assert max(given_by_class) - min(given_by_class) <= 1


def test_large_components_stay_in_train() -> None:
    """A component above the share is no candidate, however the draw falls."""
    rows = [("是", f"yes {number}") for number in range(30)]
    pairs = table(SINGLES + rows)
    for seed in range(20):
        part = divided(pairs, test_pairs=20, dev_pairs=19, seed=seed, max_component_share=0.1)
        assert (part.iloc[len(SINGLES) :] == "train").all()
    drawn = divided(pairs, test_pairs=20, dev_pairs=20, max_component_share=1.0)
    assert set(drawn.iloc[len(SINGLES) :]) in ({"train"}, {"test", "spare"}, {"dev", "spare"})


def test_too_small_a_corpus_says_what_to_set() -> None:
    """Dev and test must leave something to learn from."""
    with pytest.raises(UserError, match=r"5 pairs in 2 groups .* prepare\.test_pairs"):
        divided(table(PLANTED))


def test_references_are_the_other_translations_of_the_same_source() -> None:
    """Own first, the others by id; none twice, and none that is only linked over a target."""
    rows = [("甲", "B"), ("甲。", "A"), ("甲", "B"), ("甲", "C"), ("乙", "A"), ("丙", "Z")]
    pairs = table(rows)
    pairs["part"] = ["spare", "test", "spare", "spare", "spare", "dev"]
    chosen = pairs[pairs["part"] == "test"]
    found = references(related(pairs, chosen), chosen)
    assert found.to_dict() == {1: [1, 0, 3]}


def test_drawn_order_is_a_shuffle_by_id() -> None:
    """The order of a part does not follow ids, nor the order of rows."""
    pairs = table(SINGLES).assign(part="test")
    order = in_drawn_order(pairs, "test", 1)["id"].to_list()
    assert order != sorted(order)
    assert sorted(order) == pairs["id"].to_list()
    assert in_drawn_order(pairs.iloc[::-1], "test", 1)["id"].to_list() == order


def test_a_random_split_leaks() -> None:
    """The comparison's split has the sizes asked for, and leaks where sentences have several translations."""
    pairs = table([(f"甲{number // 2}", f"{number}") for number in range(200)])
    part = random_split(pairs["id"], 20, 10, 1)
    assert part.value_counts().to_dict() == {"train": 170, "test": 20, "dev": 10, "spare": 0}
    assert leaks(pairs, part)["test"]["source"] > 10
