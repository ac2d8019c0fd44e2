"""What a client asks for: read with limits, checked, or refused with one sentence that says why."""

import unicodedata
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import HTTPException, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError

_SHOWN = 80
"""Characters of a client's own that an error repeats at most."""


class Question(BaseModel):
    """The JSON body of a request for translations."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)

    source: Annotated[list[str], Field(min_length=1)]
    """Sentences, or longer texts without line breaks."""
    beam_size: Annotated[int, Field(gt=0)] | None = None
    """Beam size; 1 is greedy search. Without it, the model's own setting."""
    n_best: Annotated[int, Field(gt=0)] = 1
    """Translations of each source."""
    attention: bool = True
    """Whether to tell which words each word looked at."""


@dataclass(frozen=True)
class Limits:
    """What one request may ask for."""

    body: int
    """Bytes."""
    lines: int
    characters: int
    """Of all sources of a request."""
    beam_size: int


async def read_question(request: Request, limits: Limits) -> Question:
    """Read and check a request's body.

    Raises:
        HTTPException: 4xx, with the reason.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json" or request.headers.get("content-encoding", "identity") != "identity":
        raise HTTPException(415, "send JSON, uncompressed, with the header Content-Type: application/json")
    body = await _read_body(request, limits.body)
    try:
        question = Question.model_validate_json(body)
    except ValidationError as error:
        raise _refusal(error) from None
    _check(question, limits)
    return question


async def _read_body(request: Request, limit: int) -> bytes:
    """The body; one that is too large is read to its end and forgotten, or the client would not hear the answer."""
    declared = request.headers.get("content-length", "")
    too_large = HTTPException(413, f"the body has more than {limit:,} bytes; send less at a time")
    if declared.isdecimal() and int(declared) > limit and "expect" in request.headers:
        raise too_large
    body = bytearray()
    length = 0
    async for chunk in request.stream():
        length += len(chunk)
        if length <= limit:
            body += chunk
    if length > limit:
        raise too_large
    return bytes(body)


def _refusal(error: ValidationError) -> HTTPException:
    """400 for what is not JSON, 422 for JSON of another form; the first fault is told."""
    fault: Any = error.errors(include_url=False, include_input=False)[0]
    if fault["type"] == "json_invalid":
        return HTTPException(400, f"the body is not valid JSON: {_short(fault['msg'].partition(': ')[2])}")
    place = ".".join(map(str, fault["loc"]))
    return HTTPException(
        422, f"{_short(place)}: {_short(fault['msg'])}" if place else f"the body: {_short(fault['msg'])}"
    )


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _check(question: Question, limits: Limits) -> None:
    """Refuse what is too much, and what is no line of text."""
    characters = sum(map(len, question.source))
    if len(question.source) > limits.lines:
        raise HTTPException(422, f"source: {len(question.source):,} texts; at most {limits.lines:,} go in a request")
    if characters > limits.characters:
        raise HTTPException(422, f"source: {characters:,} characters; at most {limits.characters:,} go in a request")
    if (question.beam_size or 0) > limits.beam_size:
        raise HTTPException(422, f"beam_size: at most {limits.beam_size} is allowed")
    for i, line in enumerate(question.source):
        for place, character in enumerate(line):
            if unicodedata.category(character) == "Cc" and character != "\t":
                advice = "send each line as a source of its own" if character in "\r\n" else "leave it out"
                raise HTTPException(
                    422, f"source.{i}: control character U+{ord(character):04X} at place {place}; {advice}"
                )
