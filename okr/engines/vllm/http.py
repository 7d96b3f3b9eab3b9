"""Tells the clients of vLLM's HTTP server which key their answer is under (ASGI middleware)."""

import json
from functools import lru_cache
from typing import Any

from okr.engines.vllm.configuration import Configuration
from okr.engines.vllm.requests import opts_out
from okr.routing import Key
from okr.traces.responses import KEY_ID, SETTING

HEADER = b"okr-key-id"
_TOKENS_IN = "/inference/v1/generate"  # takes vLLM's sampling parameters as they are
_ENDPOINTS = ("/v1/completions", "/v1/chat/completions", "/v1/responses", "/v1/messages", _TOKENS_IN)


@lru_cache
def _key_id(path: str) -> str:
    """The id of the key in a file. It is read once: workers do not read a changed file either."""
    return Key.load(path).id


class KeyedResponses:
    """Adds the header ``okr-key-id`` to every answer, and ``okr_key_id`` and ``okr_setting`` to JSON answers. A request
    that opts out gets neither."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        configuration = None
        if scope["type"] == "http" and scope["path"].endswith(_ENDPOINTS):
            configuration = Configuration.of(scope["app"].state.vllm_config.additional_config)
        if configuration is None or configuration.key_file is None:
            await self.app(scope, receive, send)
            return
        messages, body = await _received(receive)
        if configuration.opt_out and _asks_to_opt_out(body, scope["path"]):
            await self.app(scope, _replayed(messages, receive), send)
            return
        answer = _Answer(send, _key_id(configuration.key_file), configuration)
        await self.app(scope, _replayed(messages, receive), answer.send)


async def _received(receive: Any) -> tuple[list[Any], bytes]:
    """The messages of a request's body, and the body."""
    messages, body = [], b""
    while True:
        message = await receive()
        messages.append(message)
        body += message.get("body", b"")
        if message["type"] != "http.request" or not message.get("more_body"):
            return messages, body


def _replayed(messages: list[Any], receive: Any) -> Any:
    """A function that gives ``messages`` once more, and then what follows."""
    left = iter(messages)

    async def again() -> Any:
        for message in left:
            return message
        return await receive()

    return again


def _asks_to_opt_out(body: bytes, path: str) -> bool:
    """Whether a request to an endpoint opts out, where vLLM looks for it there."""
    try:
        request = json.loads(body)
    except (ValueError, RecursionError):
        return False
    if not isinstance(request, dict):
        return False
    if not path.endswith(_TOKENS_IN):
        return opts_out(request.get("vllm_xargs"))
    sampling = request.get("sampling_params")
    return isinstance(sampling, dict) and opts_out(sampling.get("extra_args"))


class _Answer:
    """One answer under way to a client."""

    def __init__(self, send: Any, key_id: str, configuration: Configuration) -> None:
        self.forward, self.key_id, self.configuration = send, key_id, configuration
        self.start: Any = None
        self.body = b""

    async def send(self, message: Any) -> None:
        """Pass a message on. A JSON answer is held until it is whole."""
        if message["type"] == "http.response.start" and message["status"] == 200:
            headers = list(message.get("headers", ()))
            kind = next((value for name, value in headers if name.lower() == b"content-type"), b"")
            named = {**message, "headers": [*headers, (HEADER, self.key_id.encode())]}
            if kind.startswith(b"application/json"):
                self.start = named
            else:
                await self.forward(named)
        elif message["type"] == "http.response.body" and self.start is not None:
            self.body += message.get("body", b"")
            if not message.get("more_body"):
                await self._send_whole()
        else:
            await self.forward(message)

    async def _send_whole(self) -> None:
        body = self._named()
        headers = [pair for pair in self.start["headers"] if pair[0].lower() != b"content-length"]
        headers.append((b"content-length", str(len(body)).encode()))
        await self.forward({**self.start, "headers": headers})
        await self.forward({"type": "http.response.body", "body": body})

    def _named(self) -> bytes:
        """The body with the key and the setting, or as it is if it is no JSON object."""
        try:
            document = json.loads(self.body)
        except ValueError:
            return self.body
        if not isinstance(document, dict):
            return self.body
        section = self.configuration.model_dump(mode="json", include={"zone", "epsilon", "strength"})
        document |= {KEY_ID: self.key_id, SETTING: section}
        return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
