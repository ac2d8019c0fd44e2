"""Any body as a request for translations, sent to a real server."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nmt.files import write_json
from tests.bundles import write_bundle
from tests.fuzz.harness import damaged, fuzzed, in_time
from tests.serve_process import Server, serving

pytestmark = pytest.mark.xdist_group("serving")

JSON = {"Content-Type": "application/json"}
GOOD = json.dumps({"source": ["我喜欢吃苹果。", "<b>猫</b>"], "beam_size": 2, "n_best": 1, "attention": True}).encode()
DECODING = {
    "length_penalty": 1.0,
    "coverage_penalty": 0.0,
    "max_length_ratio": 1.0,
    "max_length_extra": 3,
    "batch_sentences": 8,
}
text = st.text(st.characters(), max_size=20) | st.sampled_from(
    ["<script>alert(1)</script>", "\0", "\x1b[31m", "\u2028", "a\nb"]
)
numbers = st.integers() | st.floats() | st.sampled_from([10**400, -1, 0, 2**63, 1e999, True])
keys = st.sampled_from(["source", "beam_size", "n_best", "attention", "__proto__", "source\0"]) | st.text(max_size=5)
values = st.recursive(
    st.none() | st.booleans() | numbers | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
)
questions = st.fixed_dictionaries(
    {"source": st.lists(text, max_size=3) | values},
    optional={"beam_size": values, "n_best": values, "attention": values, "surprise": values},
)
nested = st.builds(
    lambda opening, depth: opening * depth, st.sampled_from([b"[", b'{"source":', b'{"a":[']), st.integers(1, 9_000)
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a small untrained model."""
    folder = write_bundle(tmp_path_factory.mktemp("served") / "bundle", "additive")
    write_json(folder / "decoding.json", {"beam_size": 2, "n_best": 1, **DECODING})
    with serving(folder, tmp_path_factory.mktemp("log") / "log") as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[httpx.Client]:
    """One connection for all requests."""
    with server.client() as one:
        yield one


def encoded(value: Any) -> bytes:
    """JSON with what Python's writer lets through: NaN, numbers without end, halves of characters as they are."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


def ask(client: httpx.Client, body: bytes, headers: dict[str, str]) -> httpx.Response:
    """The answer, which is one: a translation for each source, or a short reason that no browser takes for a page."""
    with in_time():
        response = client.post("/translate", content=body, headers=headers)
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-content-type-options"] == "nosniff"
    content = response.json()
    if response.status_code == 200:
        assert len(content["translations"]) == len(json.loads(body)["source"])
        return response
    assert 400 <= response.status_code < 500, (response.status_code, content)
    assert set(content) == {"error"}
    assert 0 < len(content["error"]) < 400
    return response


@fuzzed(few=40)
@given(body=st.binary(max_size=200) | values.map(encoded) | questions.map(encoded) | nested | damaged(GOOD))
def test_any_body(client: httpx.Client, body: bytes) -> None:
    """Bytes, JSON of any form, nesting without end, and a good request that was damaged."""
    ask(client, body, JSON)


@fuzzed(few=15)
@given(
    names=st.dictionaries(
        st.sampled_from(
            ["Content-Type", "Content-Encoding", "Accept", "Origin", "Range", "X-Forwarded-Host", "Cookie"]
        ),
        st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30).map(str.strip),
        max_size=4,
    )
)
def test_any_headers(client: httpx.Client, names: dict[str, str]) -> None:
    """Headers that say other things than they should."""
    ask(client, GOOD, JSON | names)


@fuzzed(few=15)
@given(path=st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="#"), max_size=30))
def test_any_path(client: httpx.Client, path: str) -> None:
    """No path leads to a file or to a fault."""
    with in_time():
        response = client.send(httpx.Request("GET", client.base_url.join("/").copy_with(raw_path=b"/" + path.encode())))
    assert response.status_code in (200, 400, 404, 405)
    assert "root:" not in response.text


def test_nothing_was_logged_as_a_fault(server: Server, client: httpx.Client) -> None:
    """After all of that the server answers, with the process that it began with, and has nothing to complain of."""
    assert ask(client, GOOD, JSON).status_code == 200
    assert "Traceback" not in server.log.read_text()
    assert "starting another" not in server.log.read_text()
