r"""Answer requests for translations over HTTP, with a page to try them.

The page is at /, POST /translate takes and gives JSON, /version says which model answers, /health whether it can, and
/openapi.json describes all of it. Sentences of requests that come at the same time are translated together. Only this
machine is answered unless --host says otherwise; Ctrl-C or SIGTERM ends it once running requests are answered.

    nmt serve &
    curl -s --retry 60 --retry-connrefused --retry-delay 1 localhost:8000/translate \
        -H 'Content-Type: application/json' -d '{"source": ["谢谢。"]}'
"""

import argparse
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from nmt.commands.model_choice import add_model_options, chosen
from nmt.commands.numbers import beam_size, between, port, positive

if TYPE_CHECKING:
    _Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


def register(subparsers: "_Subparsers") -> None:
    """Add the command's options."""
    parser = subparsers.add_parser(
        "serve",
        help="answer requests for translations over HTTP, with a page to try them",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_address(parser)
    _add_work(parser)
    _add_limits(parser)
    add_model_options(parser)
    parser.set_defaults(run=run)


def _add_address(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("address").add_argument
    add("--host", default="127.0.0.1", help="the address to listen at (default: %(default)s)")
    add("--port", type=port, metavar="N", default=8000, help="0: any that is free (default: %(default)s)")
    add("--allow-host", metavar="NAME", action="append", default=[], help="a name by which clients may call this "
        "server, besides localhost and --host; may be repeated")  # fmt: skip


def _add_work(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("work").add_argument
    add("--workers", type=positive, metavar="N", default=1, help="processes, each with the model and one thread "
        "(default: %(default)s)")  # fmt: skip
    add("--max-batch", type=positive, metavar="N", default=32, help="sentences at a time (default: %(default)s)")
    add("--max-wait", type=between(0, 10_000), metavar="MS", default=2.0, help="milliseconds that a sentence waits for "
        "others while a process is free (default: %(default)g)")  # fmt: skip


def _add_limits(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("limits", "more is refused with 4xx, where the queue is full with 503").add_argument
    add("--max-queue", type=positive, metavar="N", default=256, help="sentences that wait (default: %(default)s)")
    add("--max-lines", type=positive, metavar="N", default=32, help="sources of a request (default: %(default)s)")
    add("--max-characters", type=positive, metavar="N", default=1000, help="of all its sources (default: %(default)s)")
    add("--max-beam", type=beam_size, metavar="N", default=10, help="beam size of a request (default: %(default)s)")
    add("--max-body", type=positive, metavar="N", default=65536, help="bytes of a request (default: %(default)s)")
    add("--timeout", type=between(0.1, 3600), metavar="S", default=30.0, help="seconds until a request is given up, "
        "with 504 (default: %(default)g)")  # fmt: skip
    add("--read-timeout", type=between(0.1, 3600), metavar="S", default=10.0, help="seconds that a client may take to "
        "send its request (default: %(default)g)")  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """Load the model, listen, say where, and answer until told to stop."""
    from nmt.serving import app, server
    from nmt.serving.batcher import Batcher, Sizes
    from nmt.serving.request import Limits
    from nmt.serving.worker import Worker

    lines = min(arguments.max_lines, arguments.max_queue)  # more could never wait together
    limits = Limits(arguments.max_body, lines, arguments.max_characters, arguments.max_beam)
    sizes = Sizes(
        batch=arguments.max_batch,
        characters=arguments.max_characters,
        waiting=arguments.max_queue,
        wait=arguments.max_wait / 1000,
        seconds=arguments.timeout,
    )
    host = _in_address(arguments.host)
    model = chosen(arguments, threads=1)
    workers = [Worker(model) for _ in range(arguments.workers)]
    try:
        with server.listen(arguments.host, arguments.port) as sock, ThreadPoolExecutor() as threads:
            about, *_ = threads.map(Worker.start, workers)
            hosts = {*LOOPBACK, host, *(app.host_name(_in_address(name)) for name in arguments.allow_host)}
            application = app.build(Batcher(workers, sizes), about, limits, hosts, arguments.timeout)
            address = f"http://{host}:{sock.getsockname()[1]}/"
            print(f"{model.folder} (model {about['model'][:12]}) answers at {address}", flush=True)
            server.serve(application, sock, read_timeout=arguments.read_timeout, grace=arguments.timeout)
    finally:
        for worker in workers:
            worker.stop()
    return 0


def _in_address(host: str) -> str:
    """As it stands in an address: IPv6 in brackets."""
    return f"[{host}]" if host.count(":") > 1 and not host.startswith("[") else host
