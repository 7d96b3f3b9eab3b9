"""The middleware of the server: it says which key an answer is under, and changes nothing else."""

import asyncio
import json
import math
from itertools import count, pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from okr.engines.vllm import Configuration
from okr.engines.vllm.http import KeyedResponses
from okr.routing import Key

KEY = Key(bytes(range(32)))
TOKENS_IN = "/inference/v1/generate"
PATHS = [
    *("/v1/completions", "/v1/chat/completions", "/v1/responses", "/v1/messages", TOKENS_IN),
    "/prefix/v1/completions",
]
JSON = [(b"content-type", b"application/json"), (b"x-other", b"1")]
ANSWER = {"id": "cmpl-1", "choices": [{"text": "Wörter — 話", "logprobs": None, "value": 0.1}], "usage": {"total": 3}}
OPT_OUT = json.dumps({"prompt": "a", "vllm_xargs": {"okr": False}}).encode()


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Configuration:
    path = tmp_path_factory.mktemp("key") / "key.json"
    KEY.save(path)
    return Configuration(key_file=str(path), zone="max", epsilon=math.inf, strength=0.5)


class Server:
    """An application behind the middleware. It notes the requests that it gets and answers with ``messages``."""

    def __init__(self, configuration: Configuration | None, messages: list[dict[str, Any]]) -> None:
        additional = {} if configuration is None else {"other": 1, **configuration.section()}
        config = SimpleNamespace(additional_config=additional)
        self.state = SimpleNamespace(vllm_config=config)
        self.messages = messages
        self.bodies: list[bytes] = []
        self.waits: list[int] = []
        self.sent: list[dict[str, Any]] = []

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            body, more = b"", True
            while more:
                message = await receive()
                body, more = body + message.get("body", b""), message.get("more_body", False)
            self.bodies.append(body)
        for message in self.messages:
            await send(message)
            self.waits.append(len(self.sent))
        if scope["type"] == "http":
            assert (await receive())["type"] == "http.disconnect"

    def get(self, path: str, *pieces: bytes, kind: str = "http") -> list[dict[str, Any]]:
        """What a client gets that sends ``pieces`` and then leaves."""
        given = [
            {"type": "http.request", "body": piece, "more_body": place < len(pieces) - 1}
            for place, piece in enumerate(pieces)
        ]
        waiting = iter([*given, {"type": "http.disconnect"}])

        async def receive() -> Any:
            return next(waiting)

        async def send(message: Any) -> None:
            self.sent.append(message)

        asyncio.run(KeyedResponses(self.app)({"type": kind, "path": path, "app": self}, receive, send))
        return self.sent


def start(headers: list[tuple[bytes, bytes]], status: int = 200) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": headers}


def body(content: bytes, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": content, "more_body": more}


def answer(document: Any = ANSWER, pieces: int = 1) -> list[dict[str, Any]]:
    """A JSON answer in several messages."""
    content = json.dumps(document, ensure_ascii=False).encode()
    size = len(content) // pieces
    parts = [content[place * size : None if place == pieces - 1 else (place + 1) * size] for place in range(pieces)]
    head = start([*JSON, (b"Content-Length", str(len(content)).encode())])
    return [head, *(body(part, place < pieces - 1) for place, part in enumerate(parts))]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("pieces", [1, 5])
def test_a_json_answer_names_key_and_setting(keyed: Configuration, path: str, pieces: int) -> None:
    head, content = Server(keyed, answer(pieces=pieces)).get(path, b'{"prompt": "a"}')
    assert head["status"] == 200
    headers = [(name.lower(), value) for name, value in head["headers"]]
    assert sorted(headers) == sorted(
        [*JSON, (b"okr-key-id", KEY.id.encode()), (b"content-length", str(len(content["body"])).encode())]
    )
    assert not content.get("more_body")
    told = {"okr_key_id": KEY.id, "okr_setting": {"zone": "max", "epsilon": "inf", "strength": 0.5}}
    assert json.loads(content["body"]) == ANSWER | told
    secret = bytes(range(32))
    assert not any(form in content["body"] for form in (secret, secret.hex().encode()))


def test_what_an_answer_claims_of_the_key_is_replaced(keyed: Configuration) -> None:
    made = Server(keyed, answer(ANSWER | {"okr_key_id": "f" * 16})).get(PATHS[0], b"{}")
    assert json.loads(made[1]["body"])["okr_key_id"] == KEY.id


def test_a_stream_gets_the_header_and_is_passed_on_message_by_message(keyed: Configuration) -> None:
    events = [body(b"data: {}\n\n", True), body(b"data: [DONE]\n\n", True), body(b"")]
    server = Server(keyed, [start([(b"Content-Type", b"text/event-stream; charset=utf-8")]), *events])
    head, *rest = server.get(PATHS[1], b'{"stream": true}')
    assert head["headers"] == [
        (b"Content-Type", b"text/event-stream; charset=utf-8"),
        (b"okr-key-id", KEY.id.encode()),
    ]
    assert rest == events
    assert server.waits == [1, 2, 3, 4]


@pytest.mark.parametrize("status", [400, 404, 500, 503])
def test_errors_are_left_as_they_are(keyed: Configuration, status: int) -> None:
    messages = [start(JSON, status), body(b'{"error": 1}')]
    assert Server(keyed, messages).get(PATHS[0], b"{}") == messages


@pytest.mark.parametrize("path", ["/health", "/v1/models", "/v1/completions/render", "/", "", "/metrics"])
def test_other_paths_are_left_as_they_are(keyed: Configuration, path: str) -> None:
    assert Server(keyed, answer()).get(path, b"{}") == answer()


@pytest.mark.parametrize("configuration", [None, Configuration()])
def test_without_a_key_answers_are_left_as_they_are(configuration: Configuration | None) -> None:
    assert Server(configuration, answer()).get(PATHS[0], b"{}") == answer()


def test_what_is_no_request_is_passed_on(keyed: Configuration) -> None:
    messages = [{"type": "websocket.accept"}]
    assert Server(keyed, messages).get("/v1/completions", kind="websocket") == messages
    assert Server(keyed, []).get("", kind="lifespan") == []


@pytest.mark.parametrize(
    ("path", "request_body"),
    [
        (PATHS[0], OPT_OUT),
        (PATHS[0], b'{"vllm_xargs": {"okr": "off", "other": 1}}'),
        ("/v1/messages", b'{"vllm_xargs": {"okr": "false"}}'),
        (TOKENS_IN, b'{"sampling_params": {"extra_args": {"okr": false}}}'),
    ],
)
def test_a_request_that_opts_out_gets_neither_header_nor_fields(
    keyed: Configuration, path: str, request_body: bytes
) -> None:
    server = Server(keyed, answer())
    assert server.get(path, request_body) == answer()
    assert server.bodies == [request_body]


def test_an_endpoint_reads_an_opt_out_only_where_vllm_reads_it(keyed: Configuration) -> None:
    """Elsewhere vLLM ignores the wish, so the answer is keyed and must say so."""
    for path in PATHS:
        body = OPT_OUT if path == TOKENS_IN else b'{"sampling_params": {"extra_args": {"okr": false}}}'
        assert json.loads(Server(keyed, answer()).get(path, body)[1]["body"])["okr_key_id"] == KEY.id


@pytest.mark.parametrize(
    "request_body",
    [b'{"vllm_xargs": {"okr": true}}', b'{"vllm_xargs": {}}', b'{"vllm_xargs": null}', b'{"okr": false}', b"", b"\xff",
     b"okr=false", b'{"prompt": "a"', b"[" * 100_000, b'"okr"', b"[]", b'{"vllm_xargs": {"okr": null}}',
     b'{"sampling_params": [1]}', b'{"sampling_params": "x"}', b'{"vllm_xargs": [["okr", false]]}',
     b'{"vllm_xargs": {"okr": {"a": []}}}', b"1" * 5000],
    ids=count(),
)  # fmt: skip
def test_any_other_body_is_keyed_and_reaches_the_server_whole(keyed: Configuration, request_body: bytes) -> None:
    server = Server(keyed, answer())
    assert json.loads(server.get(PATHS[0], request_body)[1]["body"])["okr_key_id"] == KEY.id
    assert server.bodies == [request_body]


@given(cuts=st.lists(st.integers(0, len(OPT_OUT)), max_size=6))
def test_a_body_in_several_messages_is_one(cuts: list[int]) -> None:
    ends = [0, *sorted(cuts), len(OPT_OUT)]
    pieces = [OPT_OUT[begin:end] for begin, end in pairwise(ends)]
    server = Server(Configuration(key_file="no file is read"), answer())
    assert server.get(PATHS[0], *pieces) == answer()
    assert server.bodies == [OPT_OUT]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4) | st.floats(allow_nan=False),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["vllm_xargs", "sampling_params", "extra_args", "okr"]), inner)
    ),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(request=VALUES, document=VALUES)
def test_no_request_and_no_answer_breaks_it(keyed: Configuration, request: Any, document: Any) -> None:
    server = Server(keyed, answer(document))
    head, content = server.get(PATHS[0], json.dumps(request).encode())
    assert server.bodies == [json.dumps(request).encode()]
    found = json.loads(content["body"])
    assert dict(head["headers"]).get(b"content-length", str(len(content["body"])).encode()).decode() == str(
        len(content["body"])
    )
    if isinstance(document, dict):
        assert {name: part for name, part in found.items() if not name.startswith("okr_")} == document
    else:
        assert found == document


def test_an_answer_that_is_not_the_json_it_claims_to_be_is_passed_on(keyed: Configuration) -> None:
    """A client that leaves may get half an answer; a server may lie about its kind."""
    messages = [start([*JSON, (b"content-length", b"5")]), body(b'{"a":')]
    head, content = Server(keyed, messages).get(PATHS[0], b"{}")
    assert content["body"] == b'{"a":'
    assert (b"okr-key-id", KEY.id.encode()) in head["headers"]
    assert (b"content-length", b"5") in head["headers"]


def test_an_answer_without_headers_is_passed_on(keyed: Configuration) -> None:
    head, content = Server(keyed, [{"type": "http.response.start", "status": 200}, body(b"text")]).get(PATHS[0], b"{}")
    assert head["headers"] == [(b"okr-key-id", KEY.id.encode())]
    assert content["body"] == b"text"


def test_the_key_file_is_read_once(tmp_path: Path) -> None:
    path = tmp_path / "key.json"
    KEY.save(path)
    configuration = Configuration(key_file=str(path))
    for _ in range(2):
        assert json.loads(Server(configuration, answer()).get(PATHS[0], b"{}")[1]["body"])["okr_key_id"] == KEY.id
        path.unlink(missing_ok=True)
