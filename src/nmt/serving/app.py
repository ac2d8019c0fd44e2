"""The HTTP side: what is answered to which request, and the headers that keep browsers from being misled."""

import asyncio
import base64
import contextlib
import hashlib
import importlib.resources
import json
import re
from collections.abc import AsyncIterator, Collection
from dataclasses import asdict
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import nmt
from nmt.serving.batcher import Batcher, Busy
from nmt.serving.request import Limits, Question, read_question
from nmt.serving.worker import Answer, Failure, Search, to_json

_INLINE = re.compile(r"<(script|style)>(.*?)</\1>", re.DOTALL)


HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""Of every answer that does not say otherwise."""
_UNKNOWN_HOST = "this server does not answer to that host name; `nmt serve --allow-host NAME` adds one"


class Json(Response):
    """JSON as all that we answer."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return to_json(content)


def build(batcher: Batcher, about: dict[str, Any], limits: Limits, hosts: Collection[str], seconds: float) -> ASGIApp:
    """The application. `about` is told at /version; a request is answered within `seconds`."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        batcher.open()
        yield
        await batcher.close()

    app = FastAPI(
        title="nmt", version=nmt.__version__, docs_url=None, redoc_url=None, redirect_slashes=False, lifespan=lifespan
    )
    _add_information(app, batcher, about | {"limits": asdict(limits)})
    body = {"content": {"application/json": {"schema": Question.model_json_schema()}}, "required": True}

    @app.post("/translate", openapi_extra={"requestBody": body})
    async def translate(request: Request) -> Response:
        """Translate each source; the answers are in the same order."""
        try:
            question = await read_question(request, limits)
            search = _search(question, min(about["decoding"]["beam_size"], limits.beam_size))
            answers = await _first(batcher.translate(question.source, search), request, seconds)
        except ClientDisconnect:
            return Response(status_code=499)  # nobody reads it
        return _together(about["model"], answers)

    app.add_exception_handler(StarletteHTTPException, _refused)
    app.add_exception_handler(Busy, _busy)
    app.add_exception_handler(Exception, _failed)
    return Guard(app, hosts)


def _add_information(app: FastAPI, batcher: Batcher, about: dict[str, Any]) -> None:
    """The page, /version and /health."""
    page = importlib.resources.files("nmt.serving").joinpath("page.html").read_bytes()
    page_headers = {"Content-Security-Policy": content_security_policy(page.decode()), "Cache-Control": "no-cache"}

    @app.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    async def home() -> Response:
        return Response(page, media_type="text/html; charset=utf-8", headers=page_headers)

    @app.get("/version")
    async def version() -> Response:
        """Which program and which model answer, with digests; what they are set to; what a request may hold."""
        return Json({"version": nmt.__version__, **about})

    @app.api_route("/health", methods=["GET", "HEAD"])
    async def health() -> Response:
        """200 while every worker runs, else 503; and what has happened so far."""
        ready = sum(worker.ready for worker in batcher.workers)
        well = ready == len(batcher.workers)
        counts = {name: value for name, value in asdict(batcher.counts).items() if name != "busy"}
        state = {"status": "ok" if well else "restarting", "workers": ready, "waiting": batcher.waiting, **counts}
        return Json(state, status_code=200 if well else 503)


def content_security_policy(page: str) -> str:
    """Nothing may run or be loaded but the page's own script and style, known by their hashes, and our answers."""
    found = [
        (kind, base64.b64encode(hashlib.sha256(text.encode()).digest()).decode())
        for kind, text in _INLINE.findall(page)
    ]
    sources = [f"{kind}-src 'sha256-{digest}'" for kind, digest in found]
    fixed = "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    return "; ".join(["default-src 'none'", *sources, fixed])


def _search(question: Question, beam_size: int) -> Search:
    """How to search; 422 if the beam does not hold what is asked for."""
    search = Search(question.beam_size or beam_size, question.n_best, question.attention)
    if search.n_best > search.beam_size:
        raise HTTPException(422, f"n_best: {search.n_best} may not exceed beam_size, which is {search.beam_size}")
    return search


def _together(model: str, answers: list[Answer | Failure]) -> Response:
    """One body of all answers; 500 if one is missing."""
    for answer in answers:
        if isinstance(answer, Failure):
            raise HTTPException(500, answer.reason)
    translations = b",".join(answer for answer in answers if isinstance(answer, Answer))
    return Response(
        b'{"model":%b,"translations":[%b]}' % (json.dumps(model).encode(), translations), media_type="application/json"
    )


async def _first(answering: Any, request: Request, seconds: float) -> list[Answer | Failure]:
    """The answers, unless the client leaves (ClientDisconnect) or it takes too long (504) before they are there."""
    answers = asyncio.ensure_future(answering)
    leaving = asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait({answers, leaving}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if answers.done():
            found: list[Answer | Failure] = answers.result()
            return found
        if leaving.done():
            raise ClientDisconnect
        raise HTTPException(504, f"no translation within {seconds:g} seconds; send less, or try again later")
    finally:
        answers.cancel()
        leaving.cancel()


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, StarletteHTTPException)
    reason, headers = error.detail, error.headers or {}
    if error.status_code == 404:
        reason = "nothing is here; translations are at /translate, and /openapi.json tells the rest"
    if error.status_code == 405:
        reason = f"only {' and '.join(sorted(headers['Allow'].split(', ')))} is answered here"
    return Json({"error": reason}, status_code=error.status_code, headers=error.headers)


async def _busy(_: Request, error: Exception) -> Response:
    assert isinstance(error, Busy)
    return Json({"error": str(error)}, status_code=503, headers={"Retry-After": str(error.retry_after)})


async def _failed(_: Request, error: Exception) -> Response:
    return Json({"error": "an error of the program, which is in its log"}, status_code=500)


class Guard:
    """Around the application: only requests to a known host come in, and no answer goes out without its headers.

    A page elsewhere whose host name suddenly means 127.0.0.1 ("DNS rebinding") sends its own name as Host.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str]) -> None:
        self.app, self.hosts = app, frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        host = host_name(Headers(scope=scope).get("host", ""))
        app = self.app if host in self.hosts else Json({"error": _UNKNOWN_HOST}, status_code=421)
        await app(scope, receive, send_guarded)


def host_name(header: str) -> str:
    """The name in a Host header, without the port, in lower case."""
    return re.sub(r":\d*$", "", header.strip()).lower()
