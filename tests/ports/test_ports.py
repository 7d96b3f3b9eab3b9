"""The ports in examples/ports conform, and the suite catches bugs that are typical of their frameworks.

A framework or a compiler that is not there skips its port. ``bugs/<port>.toml`` has the bugs.
"""

import hashlib
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from okr.spec import registry
from okr.spec.adapters import load
from okr.spec.profiles import PROFILES
from okr.spec.runner import run_clause, smoke
from okr.spec.subject import Subject

HERE = Path(__file__).parent
EXAMPLES = HERE.parents[1] / "examples" / "ports"
ROUTING = [clause for clause in registry.load().values() if clause.level == "routing"]
PATIENCE = 300.0  # seconds for one answer: a compiler within it may take its time
CAUGHT = ("fail", "mutated")  # a clause was violated; a crash or a wait catches nobody
Router = Callable[[str], str]  # from a port's text to its name for ``okr conform``


@dataclass(frozen=True)
class Port:
    """``needs``: a Python module, or with ``build`` the program of that command. ``install``: what to do without it.

    ``build`` makes {binary}, which speaks JSON lines, from {source}; a port without it is a Python file.
    """

    file: str
    needs: str
    install: str
    build: str = ""

    @property
    def there(self) -> bool:
        return bool(shutil.which(self.needs) if self.build else find_spec(self.needs))

    @property
    def text(self) -> str:
        return (EXAMPLES / self.file).read_text("utf-8")


PORTS = {
    "jax": Port("jax_router.py", "jax", "needs JAX: pip install jax"),
    "mlx": Port("mlx_router.py", "mlx", "needs MLX: pip install mlx; on Linux also mlx-cpu"),
}


@dataclass(frozen=True)
class Bug:
    """``find`` stands once in the port's text; with ``replace`` in its place one of ``clauses`` is violated."""

    port: str
    name: str
    why: str
    find: str
    replace: str
    clauses: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.port}: {self.name}"


def bugs(port: str) -> list[Bug]:
    """The bugs of a port. ``clause`` in the file is one id or a list of them."""
    found = []
    for entry in tomllib.loads((HERE / "bugs" / f"{port}.toml").read_text("utf-8"))["bug"]:
        clause = entry.pop("clause")
        found.append(Bug(port, **entry, clauses=(clause,) if isinstance(clause, str) else tuple(clause)))
    return found


def parameters(items: list[Any], port_of: Callable[[Any], str]) -> list[Any]:
    """As parameters of a test, skipped where the port's framework or compiler is not there."""
    skips = {name: pytest.mark.skipif(not port.there, reason=port.install) for name, port in PORTS.items()}
    return [pytest.param(item, marks=skips[port_of(item)], id=str(item)) for item in items]


ALL = parameters(list(PORTS), str)
BUGS = parameters([bug for name in PORTS for bug in bugs(name)], lambda bug: bug.port)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """A folder that all workers of a session share."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if hasattr(request.config, "workerinput") else base) / "built-ports"
    folder.mkdir(exist_ok=True)
    return folder


def built(port: Port, text: str, cache: Path) -> Path:
    """The file to run: a program compiled once a session from this text, or for Python the text itself."""
    name = hashlib.sha256((port.build + text).encode()).hexdigest()[:16]
    source = cache / f"router_{name}{Path(port.file).suffix}"
    binary = source.with_suffix(".program")
    with FileLock(cache / f"{name}.lock"):
        if not source.exists():
            source.write_text(text, "utf-8")
        if not port.build:
            return source
        if not binary.exists():
            command = port.build.format(source=source, binary=binary)
            done = subprocess.run(shlex.split(command), capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
    return binary


@contextmanager
def judged(name: str) -> Iterator[Subject]:
    """The implementation called ``name``, after a first simple call."""
    implementation = load(name, timeout=PATIENCE)
    try:
        subject = Subject(implementation, timeout=PATIENCE)
        smoke(subject)
        yield subject
    finally:
        if hasattr(implementation, "close"):
            implementation.close()


@pytest.mark.parametrize("name", ALL)
def test_a_port_conforms(name: str, cache: Path) -> None:
    port = PORTS[name]
    place = f"cmd:{built(port, port.text, cache)}" if port.build else f"{EXAMPLES / port.file}:Router"
    with judged(place) as subject:
        results = [run_clause(subject, clause, PROFILES["ci"]) for clause in ROUTING]
    assert {r.clause.id: (r.verdict, r.failure) for r in results if r.verdict != "pass"} == {}
    assert len(results) == 61


@pytest.mark.parametrize("name", PORTS)
def test_a_port_is_short_and_has_its_bugs(name: str) -> None:
    assert len(PORTS[name].text.splitlines()) < 120
    assert len({bug.name for bug in bugs(name)}) >= 10


@pytest.mark.parametrize("bug", BUGS)
def test_a_bug_of_the_framework_is_caught_by_its_clause(bug: Bug, cache: Path) -> None:
    """In a process of its own: some bugs are settings of the whole process."""
    port = PORTS[bug.port]
    assert port.text.count(bug.find) == 1
    file = built(port, port.text.replace(bug.find, bug.replace), cache)
    worker = f"{shlex.quote(sys.executable)} -m okr.spec.adapters.worker {shlex.quote(str(file))}:Router"
    clauses = registry.load()
    with judged(f"cmd:{file if port.build else worker}") as subject:
        said = []
        for clause in bug.clauses:
            said.append(run_clause(subject, clauses[clause], replace(PROFILES["ci"], shrink=False)).verdict)
            if said[-1] in CAUGHT:
                return
    pytest.fail(f"{bug.why} Asked {', '.join(bug.clauses)}: {', '.join(said)}")
