"""SentencePiece models: reproducible bytes, a round trip for any text, clear errors."""

import functools
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nmt.corpus import normalise
from nmt.errors import UserError
from nmt.subwords import BOS, EOS, PAD, UNK, Subwords, train_subwords

LINES = [f"The {animal} sees {number} small birds." for animal in ("cat", "dog", "fox") for number in range(40)]
CHINESE = [f"我看见了{number}只鸟。" for number in range(60)]


@functools.cache
def trained(kind: str) -> Subwords:
    """A small model of both languages."""
    return Subwords(train_subwords(LINES + CHINESE, kind=kind, size=380, character_coverage=0.9995, spaced=True))


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_bytes_depend_on_the_text_alone(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second training, in another folder, gives the same file."""
    monkeypatch.chdir(tmp_path)
    again = train_subwords(iter(LINES + CHINESE), kind=kind, size=380, character_coverage=0.9995, spaced=True)
    assert again == trained(kind).content
    assert str(tmp_path).encode() not in again


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_special_pieces(kind: str) -> None:
    """Their ids and names are the ones that all code relies on; decoding says nothing for them."""
    subwords = trained(kind)
    assert subwords.pieces([PAD, UNK, BOS, EOS]) == ["<pad>", "<unk>", "<s>", "</s>"]
    words = subwords.encode(["The cat"])[0]
    assert subwords.decode([[BOS, *words, EOS, PAD, PAD], []]) == ["The cat", ""]


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
@given(text=st.text(st.characters(exclude_categories=[])))
@example(text="emoji 👩🏽\u200d🚀 and 𠮷, Ǆ, a\u2581b, <s>, <0x41>, ⁇")
@example(text="")
def test_round_trip_of_any_text(kind: str, text: str) -> None:
    """Every normalised text comes back as it went in, and never needs <unk>."""
    clean = normalise(text, "en", "NFC").strip()
    subwords = trained(kind)
    ids = subwords.encode([clean])
    assert subwords.decode(ids) == [clean]
    assert not {PAD, UNK, BOS, EOS} & set(ids[0])


def test_without_spaces_a_word_is_the_same_piece_everywhere() -> None:
    """In Chinese the first word has no mark, so joined sentences are their pieces joined; all comes back as it was."""
    content = train_subwords(CHINESE, kind="unigram", size=320, character_coverage=1.0, spaced=False)
    subwords = Subwords(content)
    first, second = subwords.encode(CHINESE[:2])
    assert subwords.encode(["".join(CHINESE[:2])]) == [[*first, *second]]
    assert "\u2581" not in "".join(subwords.pieces(first))
    assert subwords.decode([[*first, *second], first]) == [CHINESE[0] + CHINESE[1], CHINESE[0]]


def test_many_lines_in_order() -> None:
    """Lines keep their places, empty ones too."""
    lines = ["", "The cat", "我看见", "", "birds"]
    subwords = trained("unigram")
    assert subwords.decode(subwords.encode(lines)) == lines
    assert subwords.encode(lines)[0] == []
    assert subwords.encode([]) == []
    assert subwords.decode([]) == []


def test_decoded_text_is_one_line() -> None:
    """A model may write the byte of a line feed; files are line by line."""
    subwords = trained("unigram")
    names = subwords.pieces(range(subwords.size))
    feed, back = names.index("<0x0A>"), names.index("<0x0D>")
    letters = subwords.encode(["a"])[0]
    assert subwords.decode([[*letters, feed, back, *letters]])[0].split() == ["a", "a"]
    assert "\n" not in subwords.decode([[feed]])[0]
    assert subwords.is_byte(feed)
    assert not subwords.is_byte(EOS)


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_little_text_gives_a_small_vocabulary(kind: str) -> None:
    """The size is a limit, not a demand."""
    content = train_subwords(["one two", "three"], kind=kind, size=5000, character_coverage=1.0, spaced=True)
    assert 260 < Subwords(content).size < 400


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_too_few_pieces(kind: str) -> None:
    """The error names the number of pieces that would do, and that number does."""
    lines = ["".join(chr(code) for code in range(0x4E00, 0x4E40))]
    with pytest.raises(UserError, match=r"300 pieces are too few: .* are (\d+);") as caught:
        train_subwords(lines, kind=kind, size=300, character_coverage=1.0, spaced=True)
    needed = int(str(caught.value).split(" or more")[0].rsplit(" ", 1)[1])
    assert Subwords(train_subwords(lines, kind=kind, size=needed, character_coverage=1.0, spaced=True)).size == needed


@pytest.mark.parametrize("lines", [[], ["", ""], [" "]])
def test_no_text(lines: list[str]) -> None:
    """Nothing to learn from is said in one sentence."""
    with pytest.raises(UserError, match="no text to train"):
        train_subwords(lines, kind="unigram", size=300, character_coverage=1.0, spaced=True)


def test_load(tmp_path: Path) -> None:
    """A file gives the same model; its checksum is that of the bytes."""
    path = tmp_path / "source.model"
    path.write_bytes(trained("bpe").content)
    subwords = Subwords.load(path)
    assert subwords.encode(LINES) == trained("bpe").encode(LINES)
    assert subwords.sha256 == trained("bpe").sha256


@pytest.mark.parametrize(
    "content", [b"", b"no model", trained("unigram").content[:-100], trained("unigram").content[:2000]]
)
def test_damaged_files(content: bytes, tmp_path: Path) -> None:
    """An empty, foreign or truncated file is a UserError that names it."""
    path = tmp_path / "source.model"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"source\.model is"):
        Subwords.load(path)


def test_missing_and_foreign_models(tmp_path: Path) -> None:
    """So is a file that is not there, and a SentencePiece model with SentencePiece's own special ids."""
    import io

    import sentencepiece

    with pytest.raises(UserError, match="does not exist"):
        Subwords.load(tmp_path / "none.model")
    content = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES), model_writer=content, vocab_size=60, hard_vocab_limit=False, minloglevel=2
    )
    (tmp_path / "foreign.model").write_bytes(content.getvalue())
    with pytest.raises(UserError, match="of other make"):
        Subwords.load(tmp_path / "foreign.model")
