"""Reasons to leave a pair out of train."""

import pandas as pd
import pytest

from nmt.config import TrainFilters, UnicodeForms
from nmt.corpora import PAIR_COLUMNS
from nmt.filters import reasons_to_drop, script_shares
from nmt.fingerprints import fingerprints
from nmt.pairs import described

FILTERS = TrainFilters(
    max_length=20, max_length_ratio=3.0, min_script_share=0.5, drop_identical=True, drop_duplicates=True
)
PLAIN = [("我们走吧", "let us go"), ("他来了", "he came here"), ("她很好", "she is fine"), ("你是谁", "who are you")]


def reasons(rows: list[tuple[str, str]], filters: TrainFilters = FILTERS) -> list[str]:
    """The reasons of `rows` beside four unremarkable pairs, which set the median ratio of lengths to 1."""
    pairs = pd.DataFrame(PLAIN + rows, columns=["source", "target"]).astype("str")
    facts = described(pairs.reindex(columns=PAIR_COLUMNS), ("zh", "en"), UnicodeForms(source="NFC", target="NFC"))
    names = ["source_length", "target_length", "script_share", "identical"]
    prints = fingerprints("\n".join(pair) for pair in PLAIN + rows)
    found = reasons_to_drop(facts.select(names).to_pandas(), lambda some: prints[some], filters).to_list()
    assert found[: len(PLAIN)] == [""] * len(PLAIN)
    return found[len(PLAIN) :]


@pytest.mark.parametrize(
    ("pair", "reason"),
    [
        (("", "nothing there"), "empty"),
        (("什么都没有", ""), "empty"),
        (("字" * 21, "eight words stand here and there in all"), "too_long"),
        (("字" * 20, "ten words stand here and there in it on purpose"), ""),
        (("四个字好", "w " * 21), "too_long"),
        (("字", "four words are here"), "length_ratio"),
        (("七个字都在这里", "two words"), "length_ratio"),
        (("only Latin here", "only Latin here, too, as it is"), "wrong_script"),
        (("他来了", "он пришел сюда"), "wrong_script"),
        (("我爱Tom。", "I love Tom."), ""),
        (("11!", "11!"), "identical"),
        (("他来了", "he came here"), "duplicate"),
        (("他来了", "there he came"), ""),
    ],
)
def test_each_reason(pair: tuple[str, str], reason: str) -> None:
    """One pair for each reason, and its neighbour that stays."""
    assert reasons([pair]) == [reason]


def test_the_first_of_equal_pairs_stays() -> None:
    """Of three equal pairs two are duplicates; dropped pairs do not count as the first."""
    assert reasons([("三个字", "in three words")] * 3) == ["", "duplicate", "duplicate"]
    assert reasons([("", "")] * 2) == ["empty", "empty"]


def test_switches() -> None:
    """Identical and duplicate pairs stay if the parameters say so."""
    kept = FILTERS.model_copy(update={"drop_identical": False, "drop_duplicates": False})
    assert reasons([("11!", "11!"), ("11!", "11!")], kept) == ["", ""]


@pytest.mark.parametrize(
    ("line", "language", "share"),
    [
        ("Tom游泳。", "zh", 2 / 3),
        ("Tom swam.", "zh", 0),
        ("々と平仮名カタカナー", "ja", 1),
        ("привет, Tom", "ru", 6 / 9),
        ("ＡＢ", "en", 1),
        ("χαίρετε", "el", 1),
        ("123 😀!", "en", 1),
        ("", "en", 1),
    ],
)
def test_script_shares(line: str, language: str, share: float) -> None:
    """Letters in the language's script by letters in all; a foreign word among Chinese characters counts as one."""
    found = script_shares(["字", line, "字"], language)
    assert len(found) == 3
    assert found[1] == pytest.approx(share)
