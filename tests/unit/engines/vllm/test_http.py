"""What the middleware adds to the answers of vLLM's server, and what it leaves alone."""

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from okr import Key
from okr.engines.vllm import Configuration
from okr.engines.vllm.http import KeyedResponses

PATH = "/v1/completions"


class Site:
    """A server behind the middleware that answers ``body``, and what reached the client."""

    def __init__(self, key: Key, folder: Path, **options: Any) -> None:
        key.save(folder / "key.json")
        section = Configuration(key_file=str(folder / "key.json"), **options).section()
        self.state = SimpleNamespace(vllm_config=SimpleNamespace(additional_config=section))
        self.asked = b""

    def ask(
        self,
        body: bytes = b"{}",
        *,
        answer: bytes = b'{"id": "1"}',
        kind: bytes = b"application/json",
        status: int = 200,
        path: str = PATH,
        parts: int = 1,
    ) -> tuple[dict[bytes, bytes], list[bytes]]:
        """The headers and the parts of the body that the client gets."""

        async def app(scope: Any, receive: Any, send: Any) -> None:
            self.asked, more = b"", True
            while more:
                message = await receive()
                self.asked += message["body"]
                more = message["more_body"]
            headers = [(b"content-type", kind), (b"content-length", str(len(answer)).encode())]
            await send({"type": "http.response.start", "status": status, "headers": headers})
            step = max(1, len(answer) // parts)
            pieces = [answer[at : at + step] for at in range(0, len(answer), step)]
            for place, piece in enumerate(pieces):
                more = place + 1 < len(pieces)
                await send({"type": "http.response.body", "body": piece, "more_body": more})

        asked = [
            {"type": "http.request", "body": body[at : at + 9], "more_body": True} for at in range(0, len(body), 9)
        ]
        asked.append({"type": "http.request", "body": b"", "more_body": False})
        sent: list[Any] = []

        async def receive() -> Any:
            return asked.pop(0)

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "path": path, "app": SimpleNamespace(state=self.state)}
        asyncio.run(KeyedResponses(app)(scope, receive, send))
        return dict(sent[0]["headers"]), [message["body"] for message in sent[1:]]


@pytest.fixture
def site(key: Key, tmp_path: Path) -> Site:
    return Site(key, tmp_path)


@pytest.mark.parametrize("parts", [1, 3])
def test_a_json_answer_names_its_key_and_setting(site: Site, key: Key, parts: int) -> None:
    body = b'{"prompt": "The whale", "vllm_xargs": {"other": 1}}'
    headers, pieces = site.ask(body, answer='{"id": "Ω", "choices": []}'.encode(), parts=parts)
    assert site.asked == body
    document = json.loads(b"".join(pieces))
    assert document == {
        "id": "Ω", "choices": [], "okr_key_id": key.id,
        "okr_setting": {"zone": "boundary", "epsilon": "inf", "strength": 0.1},
    }  # fmt: skip
    assert headers[b"okr-key-id"] == key.id.encode()
    assert int(headers[b"content-length"]) == len(b"".join(pieces))


def test_a_stream_gets_the_header_alone_and_is_not_held(site: Site, key: Key) -> None:
    headers, pieces = site.ask(answer=b"data: 1\n\ndata: 2\n\n", kind=b"text/event-stream; charset=utf-8", parts=2)
    assert headers[b"okr-key-id"] == key.id.encode()
    assert pieces == [b"data: 1\n\n", b"data: 2\n\n"]


@pytest.mark.parametrize(
    "asked",
    [
        {"body": b'{"vllm_xargs": {"okr": false}}'},
        {"body": b'{"sampling_params": {"extra_args": {"okr": "off"}}}'},
        {"status": 400},
        {"path": "/v1/models"},
    ],
)
def test_other_answers_are_left_alone(site: Site, asked: dict[str, Any]) -> None:
    headers, pieces = site.ask(**asked)
    assert b"okr-key-id" not in headers
    assert b"".join(pieces) == b'{"id": "1"}'


def test_a_server_that_allows_no_opt_out_keys_every_answer(key: Key, tmp_path: Path) -> None:
    headers, _ = Site(key, tmp_path, opt_out=False).ask(b'{"vllm_xargs": {"okr": false}}')
    assert headers[b"okr-key-id"] == key.id.encode()


@pytest.mark.parametrize(
    "body", [b"", b"no json", b"[1]", b'{"vllm_xargs": [1]}', b'{"sampling_params": 3}', b"[" * 100_000]
)
def test_a_body_of_any_kind_reaches_the_server(site: Site, body: bytes) -> None:
    headers, _ = site.ask(body)
    assert site.asked == body
    assert b"okr-key-id" in headers


def test_without_a_key_nothing_is_added() -> None:
    site = Site.__new__(Site)
    site.state = SimpleNamespace(vllm_config=SimpleNamespace(additional_config=Configuration().section()))
    headers, _ = site.ask()
    assert b"okr-key-id" not in headers
