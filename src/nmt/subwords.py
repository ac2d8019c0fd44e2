"""SentencePiece models: train, load, encode, decode.

Byte fallback spells what the pieces do not cover, so no text is unknown. The text is normalised before it comes here
(`nmt.corpus.normalise`), so SentencePiece's own normalisation is off: its `nmt_nfkc` turns `，！…` into ASCII.
"""

import hashlib
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import sentencepiece

from nmt.errors import UserError
from nmt.files import read_bytes

SPACE = "▁"
"""What a space is in a piece."""
PAD, UNK, BOS, EOS = 0, 1, 2, 3
SPECIAL = (PAD, UNK, BOS, EOS)

# Only bytes can spell a control character, and only a model can ask for one: a translation stays one line of text.
_CONTROLS = dict.fromkeys([*range(0x20), *range(0x7F, 0xA0)], " ")


def train_subwords(lines: Iterable[str], *, kind: str, size: int, character_coverage: float, spaced: bool) -> bytes:
    """Train a model of `kind` (unigram or bpe) and return its file's bytes.

    `size` counts all pieces, special ones and the 256 bytes included. It is an upper limit: a corpus with less to offer
    gives a smaller vocabulary. The bytes depend on the arguments alone: one thread, since unigram training with several
    gives other pieces, and no output path, which the file would embed. A size below what `character_coverage` asks for,
    or a corpus without text, is a UserError.

    `spaced`: the language puts spaces between words, so a sentence's first word is marked as if a space preceded it,
    and is the same piece as anywhere. In Chinese that mark would make it another one.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            model_type=kind,
            vocab_size=size,
            hard_vocab_limit=False,
            character_coverage=character_coverage,
            byte_fallback=True,
            normalization_rule_name="identity",
            add_dummy_prefix=spaced,
            pad_id=PAD,
            unk_id=UNK,
            bos_id=BOS,
            eos_id=EOS,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise UserError(_explain(str(error), size)) from None
    return model.getvalue()


def _explain(message: str, size: int) -> str:
    """What to do about an error of the trainer."""
    needed = re.search(r"required_chars\. \d+ vs (\d+)", message)
    if needed:
        return (
            f"{size} pieces are too few: the characters to cover, the bytes and the special pieces are {needed[1]}; "
            f"raise tokenize's vocabulary to {needed[1]} or more, or lower its character_coverage"
        )
    if "sentences_.empty()" in message or "all_chars_count" in message:
        return "there is no text to train a subword model on: every training line is empty"
    return f"SentencePiece cannot train on this text: {message}"


class Subwords:
    """A trained model of one side: text to ids and back."""

    def __init__(self, content: bytes) -> None:
        """Take a model file's bytes; a RuntimeError says that they are none."""
        self.content = content
        self._processor = sentencepiece.SentencePieceProcessor()
        self._processor.LoadFromSerializedProto(content)

    def __reduce__(self) -> tuple[type["Subwords"], tuple[bytes]]:
        """What goes to another process."""
        return Subwords, (self.content,)

    @classmethod
    def load(cls, path: Path) -> "Subwords":
        """Read a model file; a missing, truncated or foreign one is a UserError."""
        try:
            subwords = cls(read_bytes(path))
            pieces = subwords.pieces(range(subwords.size))
        except (RuntimeError, UnicodeDecodeError):
            raise UserError(
                f"{path} is not a readable SentencePiece model (truncated?); make or fetch it again"
            ) from None
        if pieces[: len(SPECIAL)] != ["<pad>", "<unk>", "<s>", "</s>"]:
            raise UserError(f"{path} is a SentencePiece model of other make than ours; `dvc repro tokenize` makes one")
        return subwords

    @property
    def size(self) -> int:
        """How many pieces there are, special ones and bytes included."""
        return int(self._processor.GetPieceSize()) if self.content else 0

    @property
    def sha256(self) -> str:
        """The hexadecimal sha256 of the model file."""
        return hashlib.sha256(self.content).hexdigest()

    def encode(self, lines: Sequence[str]) -> list[list[int]]:
        """The best segmentation of each normalised line, without bos and eos; an empty line gives no ids."""
        ids: list[list[int]] = self._processor.Encode(list(lines), out_type=int)
        return ids

    def decode(self, sequences: Sequence[Sequence[int]]) -> list[str]:
        """The text of each sequence; special ids but unk say nothing, control characters become spaces."""
        texts: list[str] = self._processor.Decode([list(map(int, sequence)) for sequence in sequences])
        return [text.translate(_CONTROLS) for text in texts]

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The pieces' names: `▁` marks a space, `<0xE4>` a byte, `<pad>`, `<unk>`, `<s>`, `</s>` the special ones."""
        names: list[str] = self._processor.IdToPiece(list(map(int, ids)))
        return names

    def ids(self, pieces: Sequence[str]) -> list[int]:
        """The ids of pieces by their names: the way back from `pieces`."""
        ids: list[int] = self._processor.PieceToId(list(pieces))
        return ids

    def spelled(self, lines: Sequence[str]) -> list[str]:
        """Each normalised line as its pieces spell it: SPACE for a space, and before the first word if it is marked."""
        texts: list[str] = self._processor.Normalize(list(lines))
        return texts

    def scores(self) -> dict[str, float]:
        """Of each learned piece, neither special nor a byte: log p; of bpe the higher, the sooner it is merged."""
        learned = [piece for piece in range(len(SPECIAL), self.size) if not self.is_byte(piece)]
        return {
            name: self._processor.GetScore(piece) for name, piece in zip(self.pieces(learned), learned, strict=True)
        }

    def ids_or_bytes(self, pieces: Sequence[str]) -> list[int]:
        """Like `ids`; a character that is no piece becomes its bytes."""
        ids = self.ids(pieces)
        if UNK not in ids:
            return ids
        known = (
            [piece] if i != UNK else [f"<0x{byte:02X}>" for byte in piece.encode()]
            for piece, i in zip(pieces, ids, strict=True)
        )
        return self.ids([piece for part in known for piece in part])

    def is_byte(self, piece: int) -> bool:
        """Whether the piece is one of the 256 bytes of the fallback."""
        return bool(self._processor.IsByte(piece))
