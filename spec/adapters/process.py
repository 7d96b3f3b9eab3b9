"""A program in any language, spoken to in JSON lines (docs/conformance.md describes them).

One request a line on its standard input, one answer a line on its standard output. Floats are hexadecimal text.
"""

import contextlib
import json
import os
import selectors
import shlex
import subprocess
import tempfile
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spec.codec import floats, hexfloat, signs, unfloats, unsigns
from spec.verdicts import BadImplementation, Fault, Unsupported

Array = NDArray[Any]


class ProcessAdapter:
    """Starts the program with its first call, and again after it died or was stopped for not answering."""

    def __init__(self, command: str, *, timeout: float = 20.0) -> None:
        self.name = f"cmd:{command}"
        self._command = shlex.split(command)
        self._timeout = timeout * 0.9  # before the timer that guards every call
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: Any = None
        self._rest = b""

    def projection(self, secret: bytes, *, stack: str, layer: int, hidden_size: int, num_experts: int) -> Array:
        """Answer: {"projection": ["+-+", ...]}."""
        site = {"stack": stack, "layer": layer, "hidden_size": hidden_size, "num_experts": num_experts}
        return unsigns(self._ask("projection", {"secret": secret.hex(), **site})["projection"])

    def key_scores(self, hidden: Array, projection: Array) -> Array:
        """Answer: {"key_scores": [["0x1p+0", ...], ...]}."""
        answer = self._ask("key_scores", {"hidden": floats(hidden), "projection": signs(projection)})
        return unfloats(answer["key_scores"], projection.shape[1])

    def select(
        self, choice: Array, key_scores: Array, *, top_k: int, epsilon: float, zone: str, strength: float
    ) -> dict[str, Array | None]:
        """Answer: {"indices": [[...]]} and, if reported, "opportunity", "pool" and "locked"."""
        setting = {"top_k": top_k, "epsilon": hexfloat(epsilon), "zone": zone, "strength": hexfloat(strength)}
        tokens, experts = choice.shape
        scores = {"experts": experts, "choice": floats(choice), "key_scores": floats(key_scores)}
        answer = self._ask("select", {**scores, **setting})
        parts: dict[str, Array | None] = {
            name: None if answer.get(name) is None else np.array(answer[name], bool).reshape(shape)
            for name, shape in (("opportunity", (tokens,)), ("pool", choice.shape), ("locked", choice.shape))
        }
        indices = np.array(answer["indices"])
        parts["indices"] = indices.reshape(0, top_k).astype(np.int64) if tokens == 0 else indices
        return parts

    def close(self) -> None:
        """Stop the program."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for stream in (self._process.stdin, self._process.stdout):
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.close()
            self._process, self._rest = None, b""

    def _ask(self, function: str, arguments: dict[str, Any]) -> dict[str, Any]:
        process = self._started()
        line = json.dumps({"function": function, "arguments": arguments}).encode() + b"\n"
        assert process.stdin is not None
        try:
            process.stdin.write(line)
            process.stdin.flush()
        except OSError:
            raise self._died(function) from None
        reply = self._line(process, function)
        try:
            answer = json.loads(reply)
        except ValueError:
            raise Fault("crash", f"{function}: the answer is no JSON: {reply[:120]!r}") from None
        if isinstance(answer, dict) and answer.get("unsupported"):
            raise Unsupported(f"{self.name} has no function {function}")
        if not isinstance(answer, dict) or "error" in answer:
            raise Fault(
                "crash", f"{function}: {answer['error'] if isinstance(answer, dict) else 'answer is no object'}"
            )
        return answer

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
            try:
                self._process = subprocess.Popen(
                    self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors
                )
            except OSError as error:
                raise BadImplementation(f"cannot start {self._command[0]!r}: {error.strerror}") from None
        return self._process

    def _line(self, process: subprocess.Popen[bytes], function: str) -> bytes:
        assert process.stdout is not None
        deadline = time.monotonic() + self._timeout
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._rest:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    self.close()
                    raise Fault("timeout", f"{function} did not answer within {self._timeout:g} s")
                chunk = os.read(process.stdout.fileno(), 1 << 16)
                if not chunk:
                    raise self._died(function)
                self._rest += chunk
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def _died(self, function: str) -> Fault:
        assert self._process is not None
        try:
            code: object = self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            code = "unknown"
        self._errors.seek(0)
        said = self._errors.read()[-300:].decode("utf-8", "replace").strip().splitlines()
        self.close()
        return Fault(
            "crash", f"{function}: the program ended (exit status {code}): {said[-1] if said else 'no message'}"
        )
