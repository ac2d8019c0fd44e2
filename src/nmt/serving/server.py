"""The listening side: uvicorn, made patient for a while only, and made to refuse in our form."""

import asyncio
import contextlib
import json
import logging
import signal
import socket
from collections.abc import Iterator

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol

from nmt.errors import UserError

MOST_CONNECTIONS = 500
"""More at a time are turned away, before the system has no file descriptors left."""


class Protocol(H11Protocol):
    """uvicorn's own; a client that sends its request too slowly, or no HTTP, hears so in JSON and is disconnected."""

    read_timeout = 10.0
    """Seconds from a request's first byte (of a connection's first request: from the connection) to its last."""
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # asyncio does it only where the listening socket names TCP as its protocol; without it an answer of two packets
        # waits for the client's delayed acknowledgement, 40 ms.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._expect()
        if len(self.connections) > MOST_CONNECTIONS:
            self._refuse(503, "too many connections; try again later", [(b"retry-after", b"1")])

    def connection_lost(self, exc: Exception | None) -> None:
        self._relax()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        """Look at what is there: called for new bytes, and, when an answer is out, for what came behind its request."""
        super().handle_events()
        waiting = self.conn.their_state is h11.IDLE and bool(self.conn.trailing_data[0])
        if waiting or self.conn.their_state is h11.SEND_BODY:
            self._expect()
        else:
            self._relax()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "this is not an HTTP request that can be read", [])

    def _expect(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(self.read_timeout, self._too_slow)

    def _relax(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        self._refuse(408, f"the request was not there within {self.read_timeout:g} seconds", [])

    def _refuse(self, status: int, reason: str, headers: list[tuple[bytes, bytes]]) -> None:
        """Answer, unless an answer is on its way already, and hang up."""
        if self.transport.is_closing():
            return
        if self.cycle is not None:
            self.cycle.disconnected = True  # the application need not answer any more
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = json.dumps({"error": reason}).encode()
            length = (b"content-length", str(len(body)).encode())
            fixed = [(b"content-type", b"application/json"), length, (b"connection", b"close")]
            response = h11.Response(status_code=status, headers=[*fixed, *headers])
            for event in (response, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 is any that is free.

    Raises:
        UserError: the address is not ours, or taken.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=1024)
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{host}, port {port}: {reason}; choose others with --host and --port") from None


def serve(app: ASGIApp, sock: socket.socket, *, read_timeout: float, grace: float) -> None:
    """Answer until SIGINT or SIGTERM comes; then finish what has begun, for `grace` seconds at most."""
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    protocol = type("Protocol", (Protocol,), {"read_timeout": read_timeout})
    config = Config(
        app,
        http=protocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=max(1, round(grace)),
    )
    with _stopping_is_no_failure():
        uvicorn.Server(config).run(sockets=[sock])


@contextlib.contextmanager
def _stopping_is_no_failure() -> Iterator[None]:
    """Swallow the signal that ended uvicorn and that it raises once more: by then all is done."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda *_: None) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
