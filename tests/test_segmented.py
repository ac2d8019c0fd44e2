"""Words that somebody else cut, as a model reads them."""

import pytest

from nmt.errors import UserError
from nmt.segmented import known, write

NEWS = "Xinhua , March 22 -LRB- Reporter Mai -RRB- `` It 's n't 3.5 % '' .".split()


@pytest.mark.parametrize(
    ("words", "language", "text"),
    [
        (NEWS, "en", "Xinhua, March 22 (Reporter Mai) \" It'sn't 3.5% \"."),
        (["新华社", "雅加达", "3月", "22日", "電"], "zh", "新华社雅加达3月22日电"),
        (["“", "好", "”", "！"], "zh", "“好”!"),
        (["«", "Ja", "»"], "de", "«Ja»"),
        ([], "en", ""),
    ],
)
def test_written_as_the_language_writes(words: list[str], language: str, text: str) -> None:
    """Spaces where they belong, the Treebank's signs as themselves, normalised."""
    assert write(words, language, "NFKC" if language == "zh" else "NFC").text == text


def test_every_word_keeps_its_place() -> None:
    """Through brackets, missing spaces and normalisation."""
    line = write(NEWS, "en", "NFC")
    found = [line.text[begin:end] for begin, end in line.spans]
    assert found == [{"-LRB-": "(", "-RRB-": ")", "``": '"', "''": '"'}.get(word, word) for word in NEWS]
    chinese = write(["㍿", "電視", "…"], "zh", "NFKC")
    assert [chinese.text[begin:end] for begin, end in chinese.spans] == ["株式会社", "电视", "..."]


def test_pieces_go_to_the_words_given() -> None:
    """Not to those that we would cut; a word that is one piece, and the whole of it, is known."""
    line = write(["北京", "大学", "好"], "zh", "NFKC")
    sentence = line.sentence(["北京", "大", "学好", "</s>"])
    assert sentence.words == ["北京", "大学", "好"]
    assert sentence.shares.tolist() == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0.5, 0.5, 0], [0, 0, 0, 1]]
    assert known(sentence) == [True, False, False]
    with pytest.raises(UserError, match="another normalisation"):
        line.sentence(["北京", "</s>"])
