"""`nmt serve` as a real server: answers, batches, limits, hostile requests, and how it ends."""

import asyncio
import json
import pickle
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

import nmt
from nmt.commands.model_choice import Choice
from nmt.errors import UserError
from nmt.files import sha256, write_json
from nmt.serving import batcher
from nmt.serving.worker import Answer, Failure, Search, Worker
from nmt.translator import Translator
from nmt.word_view import word_view
from tests.bundles import write_bundle
from tests.project import ROOT
from tests.serve_process import Server, answer_of, error_of, post, serving, until

pytestmark = pytest.mark.xdist_group("serving")

LINES = [
    "我喜欢吃苹果。",
    "",
    "天气很好，我们去公园吧！",
    "\t 你好",
    "她有3只猫和2条狗。",
    "<b>猫</b>&amp;",
    "我👍🏽🇨🇳你",
    "猫" * 300,
]
DECODING = {
    "length_penalty": 1.0,
    "coverage_penalty": 0.0,
    "max_length_ratio": 1.5,
    "max_length_extra": 4,
    "batch_sentences": 8,
}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Untrained bundles with decoding settings, with attention and without."""
    root = tmp_path_factory.mktemp("bundles")
    folders = {kind: write_bundle(root / kind / "bundle", kind) for kind in ("additive", "none")}
    for folder in folders.values():
        write_json(folder / "decoding.json", {"beam_size": 3, "n_best": 3, **DECODING})
    return folders


@pytest.fixture(scope="module")
def server(bundles: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with attention."""
    with serving(bundles["additive"], tmp_path_factory.mktemp("log") / "log", "--read-timeout", "1") as running:
        yield running


@pytest.fixture(scope="module")
def impatient(bundles: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server without attention, with room for few and time for little."""
    log = tmp_path_factory.mktemp("log") / "log"
    limits = ("--max-queue", "3", "--max-batch", "1", "--timeout", "4", "--max-beam", "2")
    names = ("--allow-host", "nmt.example.org:8000", "--allow-host", "2001:db8::5")
    with serving(bundles["none"], log, *limits, *names) as running:
        yield running


@pytest.fixture(scope="module")
def translator(bundles: dict[str, Path]) -> Translator:
    """The same model without a server."""
    return Translator.load(bundles["additive"], device="cpu", threads=1)


def assert_answers(
    response: httpx.Response, translator: Translator, lines: list[str], n_best: int, **search: int
) -> None:
    """The server says what the translator says, in text, score, words and attention."""
    assert response.status_code == 200, response.text
    answers = response.json()["translations"]
    expected = translator.translate(lines, n_best=n_best, **search)
    for answer, translation in zip(answers, expected, strict=True):
        for ours, theirs in zip(answer["hypotheses"], translation.hypotheses, strict=True):
            view = word_view(translation, theirs, translator.bundle.config.languages)
            assert ours["translation"] == theirs.text
            assert ours["score"] == pytest.approx(theirs.score, abs=1e-4)
            assert (answer["source"]["text"], answer["source"]["words"]) == (view.text, view.source)
            assert ours["words"] == view.target
            assert view.weights is not None
            assert len(ours["attention"]) == len(view.target)
            for row, weights in zip(ours["attention"], view.weights, strict=True):
                assert row == pytest.approx(list(weights), abs=2e-4)


def test_answers_are_the_translators(server: Server, translator: Translator) -> None:
    """Odd lines, several hypotheses, greedy search and the model's own beam."""
    assert_answers(server.translate(*LINES), translator, LINES, 1)
    assert_answers(server.translate(*LINES, n_best=3), translator, LINES, 3)
    assert_answers(server.translate(*LINES, beam_size=1), translator, LINES, 1, beam_size=1)
    short = server.translate("猫", attention=False).json()["translations"]
    assert short == [{"hypotheses": [{key: short[0]["hypotheses"][0][key] for key in ("translation", "score")}]}]


def test_a_model_without_attention_says_so(impatient: Server) -> None:
    """Words, but null where the weights would be."""
    (answer,) = impatient.translate("我喜欢吃苹果。").json()["translations"]
    assert answer["source"]["words"][-1] == "</s>"
    assert answer["hypotheses"][0]["words"]
    assert answer["hypotheses"][0]["attention"] is None


def test_the_servers_limit_is_a_requests_default(impatient: Server, bundles: dict[str, Path]) -> None:
    """The model's own beam is wider: who asks for none gets the widest that is allowed."""
    (answer,) = impatient.translate("猫", n_best=2).json()["translations"]
    expected = Translator.load(bundles["none"], device="cpu", threads=1).translate(["猫"], beam_size=2, n_best=2)
    assert [one["translation"] for one in answer["hypotheses"]] == [one.text for one in expected[0].hypotheses]
    assert impatient.translate("猫", beam_size=3).status_code == 422


def test_no_request_is_allowed_that_could_never_wait(impatient: Server) -> None:
    """More sources than the queue has room for are too many: "try again later" would hold for ever."""
    with impatient.client() as client:
        assert client.get("/version").json()["limits"]["lines"] == 3
    assert impatient.translate(*["猫"] * 4).status_code == 422


@pytest.mark.parametrize("name", ["nmt.example.org", "NMT.example.org:8000", "[2001:db8::5]", "[2001:db8::5]:8000"])
def test_names_that_were_allowed_are_answered(impatient: Server, name: str) -> None:
    """However their case, port and brackets were written for `--allow-host`."""
    with impatient.client() as client:
        assert client.get("/version", headers={"Host": name}).status_code == 200
        assert client.get("/version", headers={"Host": f"x{name}"}).status_code == 421


def test_without_a_process_to_spare_the_worker_says_so_and_tries_again(bundles: dict[str, Path]) -> None:
    """Nothing can be opened at the moment; later it can."""
    worker = Worker(Choice(bundles["additive"], None, "cpu", 1))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        with pytest.raises(UserError, match=r"no process to translate in could be started: .*Too many open files"):
            worker.start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert not worker.ready
    assert worker.start()["languages"] == {"source": "zh", "target": "en"}
    worker.stop()


class Faulty(Worker):
    """A worker without a process, whose first start and first batch meet a fault of ours."""

    def __init__(self) -> None:
        self.faults = ["start", "translate"]
        self.stopped = 0

    @property
    def ready(self) -> bool:
        return "start" not in self.faults

    def start(self) -> dict[str, Any]:
        self._fail("start")
        return {}

    def translate(self, sources: Sequence[str], search: Search, seconds: float) -> list[Answer | Failure]:
        self._fail("translate")
        return [source.encode() for source in sources]

    def stop(self) -> None:
        self.stopped += 1

    def kill(self) -> None:
        """There is none."""

    def _fail(self, name: str) -> None:
        if name in self.faults:
            self.faults.remove(name)
            raise pickle.UnpicklingError(name)


def test_a_fault_of_ours_costs_one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a worker raises: its sentences get an answer, its process is replaced, and the next ones are served."""
    monkeypatch.setattr(batcher, "_LOOK_AFTER", 0.01)

    async def ask() -> list[list[Answer | Failure]]:
        queue = batcher.Batcher([worker], batcher.Sizes(batch=2, characters=99, waiting=9, wait=0, seconds=9))
        queue.open()
        async with asyncio.timeout(30):
            answers = [await queue.translate(["one", "two"], Search(1, 1, attention=False)) for _ in range(2)]
        await queue.close()
        return answers

    worker = Faulty()
    failed, translated = asyncio.run(ask())
    assert all(isinstance(one, Failure) and "an error of the program" in one.reason for one in failed)
    assert translated == [b"one", b"two"]
    assert (worker.faults, worker.stopped) == ([], 1)


def test_a_process_is_not_replaced_by_one_with_another_model(bundles: dict[str, Path], tmp_path: Path) -> None:
    """The server has told its clients which model answers them."""
    bundle = tmp_path / "bundle"
    shutil.copytree(bundles["additive"], bundle)
    worker = Worker(Choice(bundle, None, "cpu", 1))
    worker.start()
    shutil.rmtree(bundle)
    shutil.copytree(bundles["none"], bundle)
    worker.stop()
    (failure,) = worker.translate(["猫"], Search(beam_size=1, n_best=1, attention=False), 60.0)
    assert failure == Failure(f"{bundle} holds another model than when this server began: start it again")
    shutil.rmtree(bundle)
    shutil.copytree(bundles["additive"], bundle)
    assert not isinstance(worker.translate(["猫"], Search(beam_size=1, n_best=1, attention=False), 60.0)[0], Failure)
    worker.stop()


def test_concurrent_requests_are_translated_together(server: Server, translator: Translator) -> None:
    """What came in while the model was busy goes as one batch for each setting, and each client gets its own answer."""
    before = server.health()
    with ThreadPoolExecutor(16) as threads, server.stopped():
        first = threads.submit(server.translate, "猫")
        until(lambda: server.model_process().status() == psutil.STATUS_STOPPED and server.health()["waiting"] == 0)
        time.sleep(0.1)  # longer than a sentence waits for company
        beam = [threads.submit(server.translate, line) for line in LINES]
        greedy = [threads.submit(server.translate, line, beam_size=1) for line in LINES[:4]]
        until(lambda: server.health()["waiting"] == len(LINES) + 4)
        server.model_process().send_signal(signal.SIGCONT)
        for line, answer in zip(LINES, beam, strict=True):
            assert_answers(answer.result(), translator, [line], 1)
        for line, answer in zip(LINES, greedy, strict=False):
            assert_answers(answer.result(), translator, [line], 1, beam_size=1)
        assert first.result().status_code == 200
    after = server.health()
    assert int(after["sentences"]) - int(before["sentences"]) == len(LINES) + 5
    assert int(after["batches"]) - int(before["batches"]) == 3


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (b"", 400, "not valid JSON"),
        (b"{", 400, "not valid JSON"),
        (b'{"source": ["a"]} x', 400, "not valid JSON"),
        (b"[" * 60_000, 400, "recursion"),
        (b'{"source":' * 6_000, 400, "recursion"),
        (b'{"source": ["\xff"]}', 400, "not valid JSON"),
        (b'{"source": ["\xed\xa0\x80"]}', 400, "not valid JSON"),
        (rb'{"source": ["\ud800"]}', 400, "not valid JSON"),
        ('{"source": ["a"]}'.encode("utf-16"), 400, "not valid JSON"),
        (b"null", 422, "the body"),
        (b"NaN", 422, "the body"),
        (b'{"source": [NaN]}', 422, "source.0: .*string"),
        (b'{"source": [1]}', 422, "source.0: .*string"),
        (b'{"source": [["a"]]}', 422, "source.0: .*string"),
        (b'{"source": "a"}', 422, "source: .*array"),
        (b'{"source": []}', 422, "source: .*at least 1"),
        (b"{}", 422, "source: .*required"),
        (b'{"source": ["a"], "beam_size": 1e999}', 422, "beam_size: "),
        (b'{"source": ["a"], "beam_size": "5"}', 422, "beam_size: .*integer"),
        (b'{"source": ["a"], "beam_size": true}', 422, "beam_size: .*integer"),
        (b'{"source": ["a"], "beam_size": -1}', 422, "beam_size: .*greater than 0"),
        (b'{"source": ["a"], "beam_size": ' + b"9" * 4000 + b"}", 422, "beam_size: "),
        (b'{"source": ["a"], "beam_size": 11}', 422, "beam_size: at most 10"),
        (b'{"source": ["a"], "n_best": 4}', 422, "n_best: 4 may not exceed beam_size, which is 3"),
        (b'{"source": ["a"], "<script>alert(1)</script>": 1}', 422, "Extra inputs"),
        (b'{"source": ["a"], "' + b"k" * 9_000 + b'": 1}', 422, "^k{80}…: Extra inputs"),
        (json.dumps({"source": ["a"] * 33}).encode(), 422, "33 texts; at most 32"),
        (json.dumps({"source": ["猫" * 600, "狗" * 401]}).encode(), 422, "1,001 characters; at most 1,000"),
        (b'{"source": ["a", "b\\u0000"]}', 422, r"source.1: control character U\+0000 at place 1"),
        (b'{"source": ["\\u001b[31m"]}', 422, r"U\+001B"),
        (b'{"source": ["a\\nb"]}', 422, "send each line as a source of its own"),
        (b'{"source": ["\\u009b"]}', 422, r"U\+009B"),
        (b'{"source": ["' + b"a" * 70_000 + b'"]}', 413, "65,536 bytes"),
        (b" " * 20_000_000, 413, "65,536 bytes"),
    ],
    ids=lambda value: repr(value)[:40] if isinstance(value, bytes) else None,
)  # fmt: skip
def test_what_is_no_question_is_refused(server: Server, body: bytes, status: int, reason: str) -> None:
    """One JSON error each, short, without the client's markup run as such; then the next request is answered."""
    with server.client() as client:
        response = client.post("/translate", content=body, headers={"Content-Type": "application/json"})
    assert (response.status_code, response.headers["content-type"]) == (status, "application/json")
    assert response.headers["x-content-type-options"] == "nosniff"
    assert re.search(reason, error_of(response.content))
    assert len(response.content) < 300
    assert server.translate("猫", attention=False).status_code == 200


HOSTILE = {
    "no HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, "not an HTTP request"),
    "a path that is not ASCII": (b"GET /\xe7\x8c\xab HTTP/1.1\r\nHost: localhost\r\n\r\n", 400, "not an HTTP request"),
    "endless headers": (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 200_000, 400, "not an HTTP request"),
    "two lengths": (post(b"{}", "Content-Length: 2", "Content-Length: 9"), 400, "not an HTTP request"),
    "length and chunks": (post(b"{}", "Content-Length: 2", "Transfer-Encoding: gzip"), 400, "not an HTTP request"),
    "no host": (b"GET / HTTP/1.0\r\n\r\n", 421, "--allow-host"),
    "another host": (b"GET / HTTP/1.1\r\nHost: rebound.example:80\r\n\r\n", 421, "--allow-host"),
    "a form": (post(b"source=a", "Content-Type: application/x-www-form-urlencoded"), 415, "application/json"),
    "text": (post(b'{"source": ["a"]}', "Content-Type: text/plain"), 415, "application/json"),
    "packed": (post(b"\x1f\x8b", "Content-Encoding: gzip"), 415, "uncompressed"),
    "a method": (post(b"{}", path="/translate").replace(b"POST", b"PUT", 1), 405, "only POST"),
    "another method": (b"DELETE / HTTP/1.1\r\nHost: localhost\r\n\r\n", 405, "only GET and HEAD"),
    "no such place": (post(b"{}", path="/translate/../../etc/passwd"), 404, "nothing is here"),
    "a null in the path": (b"GET /%00 HTTP/1.1\r\nHost: localhost\r\n\r\n", 404, "nothing is here"),
    "a web socket": (
        b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", 200, "<!DOCTYPE",
    ),
    "waiting to send too much": (post(b"", "Expect: 100-continue", "Content-Length: 99999999"), 413, "65,536 bytes"),
    "too much in chunks": (
        post(b"186A0\r\n" + b" " * 100_000 + b"\r\n0\r\n\r\n", "Content-Length:", "Transfer-Encoding: chunked")
        .replace(b"Content-Length:\r\n", b""), 413, "65,536 bytes",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_bytes_get_an_answer(server: Server, name: str) -> None:
    """Refused with one JSON error (a web socket is not spoken, so the page comes), and the server goes on."""
    content, status, reason = HOSTILE[name]
    found, headers, body = server.raw(content)
    assert found == status
    assert reason in (body.decode() if status == 200 else error_of(body))
    assert "content-length" in headers
    assert server.translate("猫", attention=False).status_code == 200


def test_html_comes_back_as_text(server: Server) -> None:
    """Markup in a sentence is data: JSON that a browser will not take for a page."""
    response = server.translate("<script>alert(1)</script>猫")
    assert response.headers["content-type"] == "application/json"
    assert response.headers["content-security-policy"].startswith("default-src 'none'")
    assert "<script>" in response.json()["translations"][0]["source"]["text"]


@pytest.mark.parametrize(
    "begun", [b"", b"POST /transl", post(b'{"source"', "Content-Length: 500")], ids=["nothing", "head", "body"]
)
def test_a_slow_client_is_told_and_left(server: Server, begun: bytes) -> None:
    """A request that does not become whole holds a connection for a second, and nobody else."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(begun)
        for _ in range(3):
            assert server.translate("猫").status_code == 200
        status, _, body = answer_of(connection)
        assert (status, error_of(body)) == (408, "the request was not there within 1 seconds")
        assert connection.recv(1) == b""


@pytest.mark.parametrize("begun", [b"POST /transl", post(b'{"source"', "Content-Length: 500")], ids=["head", "body"])
def test_a_slow_request_behind_another_is_told_too(server: Server, begun: bytes) -> None:
    """It came in the same packet: nothing further comes to remind the server of it."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(post(json.dumps({"source": ["猫"]}).encode()) + begun)
        assert answer_of(connection)[0] == 200
        assert answer_of(connection)[0] == 408
        assert connection.recv(1) == b""


def test_a_connection_serves_many_requests(server: Server) -> None:
    """With refusals, unread bodies and pauses longer than a request may take in between, nothing gets out of step."""
    body = json.dumps({"source": ["猫"]}).encode()
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        for request, expected in [
            (post(body), 200),
            (post(b"x" * 99_999, path="/no"), 404),
            (post(b" " * 99_999), 413),
        ] * 2:
            connection.sendall(request)
            assert answer_of(connection)[0] == expected
        time.sleep(1.2)
        connection.sendall(post(body))
        assert answer_of(connection)[0] == 200


def test_an_answer_does_not_wait_for_acknowledgements(server: Server) -> None:
    """The quickest of many answers on one connection takes less than the 40 ms of a delayed acknowledgement."""
    with server.client() as client:
        times = [client.get("/version").elapsed.total_seconds() for _ in range(20)]
    assert min(times) < 0.03


def test_a_full_queue_sheds_and_late_answers_are_given_up(impatient: Server) -> None:
    """503 with Retry-After at once; 504 after the time limit; a process that hangs is replaced, and all is well."""
    old = impatient.model_process().pid
    with ThreadPoolExecutor(4) as threads, impatient.stopped():
        waiting = [threads.submit(impatient.translate, "猫")]
        until(lambda: impatient.health()["waiting"] == 0)
        time.sleep(0.1)
        waiting += [threads.submit(impatient.translate, "猫") for _ in range(3)]
        until(lambda: impatient.health()["waiting"] == 3)
        begin = time.monotonic()
        refused = impatient.translate("猫")
        assert time.monotonic() - begin < 3
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) >= 1
        assert "3 sentences are waiting" in error_of(refused.content)
        for answer in waiting:
            assert answer.result().status_code == 504
            assert "within 4 seconds" in error_of(answer.result().content)
        assert impatient.health()["waiting"] == 0
    until(lambda: impatient.health()["status"] == "ok" and impatient.model_process().pid != old)
    assert impatient.translate("猫").status_code == 200


def test_nobody_translates_for_a_client_that_left(server: Server) -> None:
    """Its sentences leave the queue."""
    before = int(server.health()["abandoned"])
    with ThreadPoolExecutor(1) as threads, server.stopped():
        first = threads.submit(server.translate, "猫")
        time.sleep(0.2)
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(post(json.dumps({"source": ["狗"] * 5}).encode()))
            until(lambda: server.health()["waiting"] == 5)
        until(lambda: server.health()["waiting"] == 0)
        server.model_process().send_signal(signal.SIGCONT)
        assert first.result().status_code == 200
    assert server.health()["abandoned"] == before + 5


def test_a_process_that_dies_is_replaced(server: Server) -> None:
    """Its requests get one clear error, also while nobody asked; /health says so meanwhile."""
    with ThreadPoolExecutor(1) as threads, server.stopped() as process:
        answer = threads.submit(server.translate, "猫")
        time.sleep(0.3)
        process.kill()
        assert answer.result().status_code == 500
        assert error_of(answer.result().content) == "the process that translated this died"
    until(lambda: server.health()["status"] == "ok")
    server.model_process().kill()
    until(lambda: server.health()["status"] != "ok")
    until(lambda: server.health()["status"] == "ok")
    assert server.translate("猫").status_code == 200


def test_it_says_what_it_is(server: Server, bundles: dict[str, Path]) -> None:
    """/version names the program and the model by digests; /openapi.json describes the requests."""
    with server.client() as client:
        version = client.get("/version").json()
        schema = client.get("/openapi.json").json()
        head = client.head("/health")
    assert version["version"] == nmt.__version__
    assert version["files"] == {path.name: sha256(path) for path in sorted(bundles["additive"].iterdir())}
    assert version["model"] == server.translate("猫").json()["model"]
    assert len(version["model"]) == 64
    assert version["languages"] == {"source": "zh", "target": "en"}
    assert version["decoding"] == {"beam_size": 3, "n_best": 3, **DECODING}
    assert version["limits"] == {"body": 65536, "lines": 32, "characters": 1000, "beam_size": 10}
    question = schema["paths"]["/translate"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert set(question["properties"]) == {"source", "beam_size", "n_best", "attention"}
    assert (head.status_code, head.content) == (200, b"")


def test_only_this_machine_is_answered(server: Server) -> None:
    """The socket listens at loopback alone."""
    listening = {one.laddr.ip for one in psutil.Process(server.process.pid).net_connections() if one.status == "LISTEN"}
    assert listening == {"127.0.0.1"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_when_running_requests_are_answered(bundles: dict[str, Path], tmp_path: Path, number: int) -> None:
    """No new connection, an answer for who waits, status 0, no process left."""
    with serving(bundles["additive"], tmp_path / "log", "--workers", "2") as server, ThreadPoolExecutor(1) as threads:
        family = psutil.Process(server.process.pid).children()
        models = [process for process in family if "spawn_main" in " ".join(process.cmdline())]
        assert len(models) == 2
        for process in models:
            process.send_signal(signal.SIGSTOP)
        answer = threads.submit(server.translate, "猫")
        until(lambda: any(one.status == "ESTABLISHED" for one in psutil.Process(server.process.pid).net_connections()))
        time.sleep(0.2)
        for process in models:  # to the whole group, as a terminal does
            process.send_signal(number)
        server.process.send_signal(number)
        time.sleep(0.3)
        with pytest.raises(httpx.ConnectError):
            server.health()
        for process in models:
            process.send_signal(signal.SIGCONT)
        assert answer.result().status_code == 200
        assert server.process.wait(60) == 0
        assert psutil.wait_procs(family, timeout=60)[1] == []


def test_no_process_outlives_a_killed_server(bundles: dict[str, Path], tmp_path: Path) -> None:
    """A model in memory that nobody asks would stay for good."""
    with serving(bundles["additive"], tmp_path / "log") as server:
        model = server.model_process()
        server.process.kill()
        model.wait(60)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`nmt serve` where it is to fail."""
    return subprocess.run(
        [sys.executable, "-m", "nmt", "serve", *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=150, check=False,
    )  # fmt: skip


def test_it_does_not_start_on_what_is_wrong(server: Server, bundles: dict[str, Path], tmp_path: Path) -> None:
    """A port that is taken, an address that is not ours, a folder without a model: one line each."""
    model = ["--model", str(bundles["additive"])]
    taken = run(*model, "--port", str(server.port))
    elsewhere = run(*model, "--host", "203.0.113.1")
    nothing = run("--model", str(tmp_path), "--port", "0")
    for done, reason in [(taken, "in use"), (elsewhere, "203.0.113.1"), (nothing, "holds no model")]:
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("error: ")
        assert reason in done.stderr
        assert done.stderr.count("\n") == 1
    assert "not a port from 0 to 65535" in run("--port", "70000").stderr
    assert "not a whole number" in run("--workers", "0").stderr
