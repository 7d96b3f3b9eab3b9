"""The implementation under judgement: every answer is timed, checked for shape and kind, and its inputs for harm."""

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .cases import (
    BakeCase,
    Call,
    Evidence,
    EvidenceCase,
    InspectCase,
    Inspected,
    ProjectionCase,
    ScoreCase,
    SealCase,
    SelectCase,
    Selected,
)
from .verdicts import BadImplementation, Fault, Unsupported, words

FUNCTIONS = ("projection", "key_scores", "select")
AGAIN = 1.0  # seconds: where time is up inside a finalizer, Python drops the exception; the next one ends the call
Array = NDArray[Any]


class Subject:
    """Calls an implementation and turns whatever happens into a value or a Fault.

    ``levels``: which clauses it is judged by. ``last`` is the last call, for the reproduction.
    """

    def __init__(self, implementation: Any, *, timeout: float = 20.0) -> None:
        self.implementation = implementation
        try:
            self.name = str(getattr(implementation, "name", type(implementation).__name__))
            self.levels = frozenset(getattr(implementation, "levels", ("routing",)))
        except Exception as error:
            raise BadImplementation(f"its name and levels cannot be read: {words(error)}") from error
        self.timeout = timeout
        self.last: Call | None = None

    def has(self, function: str) -> bool:
        """Whether the implementation has this function."""
        return callable(getattr(self.implementation, function, None))

    def projection(self, case: ProjectionCase) -> NDArray[np.int8]:
        """The projection as int8 [d, E], whatever numeric type it came as."""
        answer = self._call("projection", (case.secret,), case.arguments())
        matrix = _array(answer, (case.hidden_size, case.num_experts), "projection", kinds="iuf")
        return np.where(np.abs(matrix) == 1, matrix, 0).astype(np.int8)

    def key_scores(self, case: ScoreCase) -> NDArray[np.floating]:
        """Key scores, float32 or float64 [T, E]."""
        answer = self._call("key_scores", (case.hidden, case.projection), {})
        scores = _array(answer, (case.hidden.shape[0], case.projection.shape[1]), "key_scores", kinds="f")
        if scores.dtype.itemsize < 4:
            raise Fault("dtype", f"key_scores returned {scores.dtype}; float32 or wider is needed")
        return scores

    def select(self, case: SelectCase) -> Selected:
        """The selection, with whatever of the zone is reported."""
        answer = self._call("select", (case.choice, case.key), case.setting.arguments())
        tokens, experts = case.choice.shape
        indices = _array(_part(answer, "indices"), (tokens, case.setting.top_k), "select: indices", kinds="iu")
        shapes: dict[str, tuple[int, ...]] = {
            "opportunity": (tokens,),
            "pool": (tokens, experts),
            "locked": (tokens, experts),
        }
        parts = {name: _part(answer, name) for name in shapes}
        checked = {
            name: None if part is None else _array(part, shapes[name], f"select: {name}", kinds="b")
            for name, part in parts.items()
        }
        return Selected(indices.astype(np.int64), **checked)

    def evidence(self, case: EvidenceCase) -> Evidence:
        """The evidence in swaps. Only what verifies traces has this function."""
        found: Evidence = self._own("evidence")(case)
        return found

    def bake(self, case: BakeCase, *, out: bool = False) -> NDArray[np.float32]:
        """The baked weight, float32 [E, d]; with ``out`` the weight with the key taken out of it."""
        answer = np.asarray(self._own("unbake" if out else "bake")(case))
        if answer.dtype != np.float32 or answer.shape != case.weight.shape:
            raise Fault("dtype", f"a weight came back as {answer.dtype} {list(answer.shape)}")
        return answer

    def seal(self, case: SealCase) -> tuple[bytes, bytes]:
        """The tag, and the sealed bytes."""
        tag, content = self._own("seal")(case)
        return bytes(tag), bytes(content)

    def inspect(self, case: InspectCase) -> Inspected:
        """What weights show of a key."""
        found: Inspected = self._own("inspect")(case)
        return found

    def _own(self, function: str) -> Callable[[Any], Any]:
        """A function that only some systems have."""
        if not self.has(function):
            raise Unsupported(f"{self.name} has no function {function}")
        asked: Callable[[Any], Any] = getattr(self.implementation, function)
        return asked

    def refuses(self, function: str, *arguments: Any, **options: Any) -> bool:
        """Whether the call raises. A call that never returns is a Fault here as well, and what has no such function
        refuses nothing."""
        if not self.has(function):
            raise Unsupported(f"{self.name} has no function {function}")
        try:
            self._call(function, arguments, options)
        except Fault as fault:
            if fault.kind == "crash":
                return True
            raise
        return False

    def accepts(self, function: str, *arguments: Any, **options: Any) -> None:
        """The call must answer, whatever it answers; refusing is a crash."""
        self._call(function, arguments, options)

    def _call(self, function: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        if not self.has(function):
            raise Unsupported(f"{self.name} has no function {function}")
        self.last = Call(function, {"args": arguments, **options})
        lent = tuple(value.copy() if isinstance(value, np.ndarray) else value for value in arguments)
        with _time_limit(self.timeout, function), np.errstate(all="ignore"):
            answer = _guarded(getattr(self.implementation, function), function, lent, options)
        for ours, theirs in zip(arguments, lent, strict=True):
            if isinstance(ours, np.ndarray) and ours.tobytes() != theirs.tobytes():
                raise Fault("mutated", f"{function} wrote into an array it was lent")
        return answer


def _guarded(call: Callable[..., Any], function: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    try:
        return call(*arguments, **options)
    except (Fault, Unsupported, BadImplementation, KeyboardInterrupt):
        raise
    except BaseException as error:  # SystemExit too: the suite must not end where the implementation wants to
        raise Fault("crash", f"{function} raised {words(error)}") from error


@contextmanager
def _time_limit(seconds: float, function: str) -> Iterator[None]:
    """Interrupt Python code that runs too long. Native code that never returns needs the subprocess adapter.

    A timer that the caller had set goes on afterwards."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGALRM"):
        yield
        return

    running = True

    def expire(*_: object) -> None:
        if running:
            raise Fault("timeout", f"{function} did not answer within {seconds:g} s")

    began = time.monotonic()
    previous = signal.signal(signal.SIGALRM, expire)
    left, interval = signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)
    try:
        yield
    finally:
        running = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
        if left:
            signal.setitimer(signal.ITIMER_REAL, max(left + began - time.monotonic(), 0.001), interval)


def _part(answer: Any, name: str) -> Any:
    """``indices`` and the optional parts, from an object with attributes, a mapping, or a bare array of indices."""
    try:
        if isinstance(answer, Mapping):
            return answer.get(name)
        if hasattr(answer, "indices"):
            return getattr(answer, name, None)
    except Exception as error:
        raise Fault("crash", f"select: {name} cannot be read: {words(error)}") from error
    return answer if name == "indices" else None


def _array(value: Any, shape: tuple[int, ...], what: str, *, kinds: str) -> Array:
    if value is None:
        raise Fault("shape", f"{what} is missing")
    try:
        array = np.asarray(value)
    except Exception as error:
        raise Fault("dtype", f"{what} is no array: {words(error)}") from error
    if array.shape != shape:
        raise Fault("shape", f"{what} has shape {list(array.shape)}; {list(shape)} is needed")
    if array.size and array.dtype.kind not in kinds:
        names = " or ".join({"i": "integers", "u": "unsigned", "f": "floats", "b": "booleans"}[k] for k in kinds)
        raise Fault("dtype", f"{what} has dtype {array.dtype}; {names} needed")
    return array
