"""A process that holds a model and translates, so that the one that speaks HTTP has a core of its own to answer with.

Threads would share Python's lock: two of them translate hardly more than one.
"""

import contextlib
import hashlib
import json
import logging
import multiprocessing
import multiprocessing.connection
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from nmt import files
from nmt.errors import UserError

if TYPE_CHECKING:
    from nmt.translator import Translator

Answer = bytes
"""A translation as JSON: written here, because large ones would keep the other process from answering."""
_Pipe = multiprocessing.connection.Connection

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Search:
    """How a sentence is to be translated: those that agree in it may go together."""

    beam_size: int
    n_best: int
    attention: bool


@dataclass(frozen=True)
class Failure:
    """Why there is no translation; the fault is not the client's."""

    reason: str


class Model(Protocol):
    """What is sent to the process; `nmt.commands.model_choice.Choice` is one."""

    @property
    def folder(self) -> Path:
        """The bundle's."""

    def load(self) -> "Translator":
        """Read the bundle."""


class Worker:
    """The parent's side: one translating process, started anew when it died or took too long."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self._process: multiprocessing.process.BaseProcess | None = None
        self._pipe: _Pipe | None = None
        self._loaded = self._ended = False
        self._digest: str | None = None

    @property
    def ready(self) -> bool:
        """Whether the process runs and has its model."""
        process = self._process
        return self._loaded and process is not None and process.is_alive()

    def start(self) -> dict[str, Any]:
        """Start the process, wait until it has its model, and return what it tells of it.

        Raises:
            UserError: the model cannot be loaded, it is not the one that an earlier start found, or the machine has no
                process to spare.
        """
        self.stop()
        context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
        try:
            ours, theirs = context.Pipe()
            with theirs:  # closed here, so that reading fails when the process ends
                process = context.Process(target=_work, args=(self.model, theirs), daemon=True)
                process.start()
        except OSError as error:
            raise UserError(f"no process to translate in could be started: {error}") from None
        self._pipe, self._process = ours, process
        if self._ended:
            process.kill()
        try:
            hello = ours.recv()
        except EOFError:
            self.stop()
            raise UserError(
                "the translating process ended before it had loaded its model; is there memory left?"
            ) from None
        if isinstance(hello, Failure):
            self.stop()
            raise UserError(hello.reason)
        if self._digest not in (None, hello["model"]):
            self.stop()
            raise UserError(f"{self.model.folder} holds another model than when this server began: start it again")
        self._digest, self._loaded = hello["model"], True
        return dict(hello)

    def translate(self, sources: Sequence[str], search: Search, seconds: float) -> list[Answer | Failure]:
        """An answer for each source, in order. Blocks; afterwards the process may have been replaced."""
        try:
            if not self.ready:
                self.start()
            assert self._pipe is not None
            self._pipe.send((list(sources), search))
            if self._pipe.poll(seconds):
                return list(self._pipe.recv())
            reason = f"a batch took more than {seconds:g} seconds to translate"
        except UserError as error:
            reason = str(error)
        except (EOFError, OSError):
            reason = "the process that translated this died"
        if not self._ended:
            log.error("%s; starting another", reason)
        self.stop()
        return [Failure(reason)] * len(sources)

    def kill(self) -> None:
        """End the process for good and at once; a thread that waits for its answer stops waiting."""
        self._ended = True
        if self._process is not None:
            self._process.kill()

    def stop(self) -> None:
        """End the process and clear up; not while another thread is in `translate`, which would start another."""
        process, pipe = self._process, self._pipe
        self._process, self._pipe, self._loaded = None, None, False
        if process is not None and pipe is not None:
            process.kill()  # it holds nothing worth saving
            process.join()
            pipe.close()


def _work(model: Model, pipe: _Pipe) -> None:
    """The process: say what the model is, then answer batch after batch until the parent closes the pipe, or dies."""
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to the whole group; the parent decides when it is over
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(EOFError, OSError):
        try:
            translator = model.load()
            translate(translator, ["1"], Search(beam_size=1, n_best=1, attention=True))  # loads dictionaries
            pipe.send(describe(model.folder, translator))
        except UserError as error:
            pipe.send(Failure(str(error)))
            return
        while True:
            pipe.send(_attempt(translator, *pipe.recv()))


def describe(folder: Path, translator: "Translator") -> dict[str, Any]:
    """What a client may want to know of a model: its digest, those of its files, its languages and settings."""
    config = translator.bundle.config
    digests = {path.name: files.sha256(path) for path in sorted(folder.iterdir()) if path.is_file()}
    return {
        "model": hashlib.sha256("".join(f"{name} {digest}\n" for name, digest in digests.items()).encode()).hexdigest(),
        "files": digests,
        "attention": config.attention,
        "languages": config.languages.model_dump(),
        "decoding": translator.decoding.model_dump(),
        "device": str(translator.device),
    }


def _attempt(translator: "Translator", sources: list[str], search: Search) -> list[Answer | Failure]:
    """Answers; where a batch fails, each source is tried alone, so that one does not take the others with it."""
    try:
        return [*translate(translator, sources, search)]
    except Exception as error:
        if len(sources) > 1:
            return [one for source in sources for one in _attempt(translator, [source], search)]
        if isinstance(error, UserError):
            return [Failure(str(error))]
        log.exception("a sentence cannot be translated")
        return [Failure("this cannot be translated: an error of the program, which is in its log")]


def translate(translator: "Translator", sources: list[str], search: Search) -> list[Answer]:
    """What goes out for each source."""
    from nmt.serving.answers import answer  # not above: it imports torch, which the parent can do without

    languages = translator.bundle.config.languages
    found = translator.translate(sources, beam_size=search.beam_size, n_best=search.n_best)
    return [to_json(answer(translation, languages, with_attention=search.attention)) for translation in found]


def to_json(content: object) -> bytes:
    """UTF-8, as small as it gets; a number that JSON does not know is an error of ours."""
    return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
