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
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..codec import floats, hexfloat, signs, unfloats, unsigns
from ..verdicts import BadImplementation, Fault, Unsupported, UsageError, words

Array = NDArray[Any]


_MOST_BYTES = 1 << 26


class ProcessAdapter:
    """Starts the program with its first call, and again after it died or was stopped for not answering."""

    def __init__(self, command: str, *, timeout: float = 20.0) -> None:
        self.name = f"cmd:{command}"
        try:
            self._command = shlex.split(command)
        except ValueError as error:
            raise UsageError(f"cannot read the command {command!r}: {error}") from None
        if not self._command:
            raise UsageError("cmd: needs a program")
        self._timeout = timeout * 0.9  # before the timer that guards every call
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: Any = None
        self._rest = bytearray()

    def projection(self, secret: bytes, *, stack: str, layer: int, hidden_size: int, num_experts: int) -> Array:
        """Answer: {"projection": ["+-+", ...]}."""
        site = {"stack": stack, "layer": layer, "hidden_size": hidden_size, "num_experts": num_experts}
        answer = self._ask("projection", {"secret": secret.hex(), **site})
        return _read(answer, "projection", unsigns)

    def key_scores(self, hidden: Array, projection: Array) -> Array:
        """Answer: {"key_scores": [["0x1p+0", ...], ...]}."""
        answer = self._ask("key_scores", {"hidden": floats(hidden), "projection": signs(projection)})
        return _read(answer, "key_scores", lambda rows: unfloats(rows, projection.shape[1]))

    def select(
        self, choice: Array, key_scores: Array, *, top_k: int, epsilon: float, zone: str, strength: float
    ) -> dict[str, Array | None]:
        """Answer: {"indices": [[...]]} and, if reported, "opportunity", "pool" and "locked"."""
        setting = {"top_k": top_k, "epsilon": hexfloat(epsilon), "zone": zone, "strength": hexfloat(strength)}
        tokens, experts = choice.shape
        scores = {"experts": experts, "choice": floats(choice), "key_scores": floats(key_scores)}
        answer = self._ask("select", {**scores, **setting})
        parts: dict[str, Array | None] = {
            name: None if answer.get(name) is None else _read(answer, name, lambda part: np.array(part, bool))
            for name in ("opportunity", "pool", "locked")
        }
        parts["indices"] = _read(answer, "indices", np.array)
        if tokens == 0:  # a list of no rows does not say how long they are
            shapes = {"indices": (0, top_k), "pool": choice.shape, "locked": choice.shape}
            for name, shape in shapes.items():
                part = parts[name]
                if part is not None and part.size == 0:
                    parts[name] = part.reshape(shape).astype(np.int64 if name == "indices" else bool)
        return parts

    def close(self) -> None:
        """Stop the program."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for stream in (self._process.stdin, self._process.stdout, self._errors):
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.close()
            self._process, self._rest = None, bytearray()

    def _ask(self, function: str, arguments: dict[str, Any]) -> dict[str, Any]:
        process = self._started()
        self._nothing_more(process, function)
        line = json.dumps({"function": function, "arguments": arguments}).encode() + b"\n"
        assert process.stdin is not None
        try:
            process.stdin.write(line)
            process.stdin.flush()
            reply = self._line(process, function)
        except OSError:
            raise self._died(function) from None
        except BaseException:  # the timer that guards every call, an interruption: what it says later answers nothing
            self.close()
            raise
        try:
            answer = json.loads(reply)
        except (ValueError, RecursionError):
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
                self._errors.close()
                raise BadImplementation(f"cannot start {self._command[0]!r}: {error.strerror}") from None
        return self._process

    def _line(self, process: subprocess.Popen[bytes], function: str) -> bytes:
        assert process.stdout is not None
        deadline = time.monotonic() + self._timeout
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            chunk = bytes(self._rest)
            while b"\n" not in chunk:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise Fault("timeout", f"{function} did not answer within {self._timeout:g} s")
                chunk = os.read(process.stdout.fileno(), 1 << 16)
                if not chunk:
                    raise self._died(function)
                self._rest += chunk
                if len(self._rest) > _MOST_BYTES:
                    raise Fault("crash", f"{function}: an answer of more than {_MOST_BYTES >> 20} MiB")
        line, _, self._rest = self._rest.partition(b"\n")
        return bytes(line)

    def _nothing_more(self, process: subprocess.Popen[bytes], function: str) -> None:
        """Lines that nobody asked for would be taken for the answers to come."""
        assert process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            more = bytes(self._rest)
            if not more and selector.select(0):
                more = os.read(process.stdout.fileno(), 1 << 16)  # nothing: it ended, and the next answer will say so
        if more:
            self.close()
            raise Fault("crash", f"{function}: more lines than one for the request before: {more[:120]!r}")

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


def _read(answer: dict[str, Any], name: str, parse: Callable[[Any], Array]) -> Array:
    """One part of an answer."""
    if answer.get(name) is None:
        raise Fault("shape", f"the answer has no {name}")
    try:
        return parse(answer[name])
    except (TypeError, ValueError, OverflowError, IndexError) as error:
        raise Fault("dtype", f"{name} cannot be read: {words(error)}") from error
