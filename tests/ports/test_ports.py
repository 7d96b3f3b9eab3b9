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
from okr.spec.profiles import PROFILES, Profile
from okr.spec.runner import run_clause, smoke
from okr.spec.subject import Subject

HERE = Path(__file__).parent
EXAMPLES = HERE.parents[1] / "examples" / "ports"
ROUTING = [clause for clause in registry.load().values() if clause.level == "routing"]
PATIENCE = 300.0  # seconds for one answer: a compiler within it may take its time
SOME = Profile("some", 20, shrink=False)  # the stored reports are of profile ci, docs/adequacy.md has 10,000 cases
CAUGHT = ("fail", "mutated")  # a clause was violated; a crash or a wait catches nobody
FAST = {"g++": ("-O0",), "rustc": ("-C", "opt-level=0", "-C", "overflow-checks=off")}
"""Compiling takes longer than judging a bug that needs no optimisation. Integers overflow as they do with it."""


@dataclass(frozen=True)
class Port:
    """``needs``: a Python module, or with ``program`` a compiler. ``install``: what to do without it.

    ``program``: the file that the command in the port's head makes of the sources, and that speaks JSON lines; a port
    without it is one Python file.
    """

    file: str
    needs: str
    install: str
    program: str = ""

    @property
    def there(self) -> bool:
        return bool(shutil.which(self.needs) if self.program else find_spec(self.needs))

    @property
    def sources(self) -> dict[str, str]:
        """The text of each file, the main one first."""
        main = EXAMPLES / self.file
        others = [p for p in sorted(main.parent.iterdir()) if p != main and p.suffix in (".hpp", ".rs")]
        return {path.name: path.read_text("utf-8") for path in (main, *(others if self.program else ()))}

    @property
    def command(self) -> list[str]:
        """How its head says that it is built."""
        lines = (line.lstrip("/! ") for line in next(iter(self.sources.values())).splitlines())
        return shlex.split(next(line for line in lines if line.startswith(f"{self.needs} ")))


PORTS = {
    "jax": Port("jax_router.py", "jax", "needs JAX: pip install jax"),
    "mlx": Port("mlx_router.py", "mlx", "needs MLX: pip install mlx; on Linux also mlx-cpu"),
    "cpp": Port("cpp/router.cpp", "g++", "needs g++ 10 or newer", "router"),
    "rust": Port("rust/router.rs", "rustc", "needs Rust: https://rustup.rs", "router"),
}


@dataclass(frozen=True)
class Bug:
    """``find`` stands once in the port's ``file``, the main one unless it is given. With ``replace`` in its place, or
    compiled with ``flags``, or both, the port violates one of ``clauses``."""

    port: str
    name: str
    why: str
    clauses: tuple[str, ...]
    find: str = ""
    replace: str = ""
    file: str = ""
    flags: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.port}: {self.name}"


def bugs(port: str) -> list[Bug]:
    """The bugs of a port. ``clause`` in the file is one id or a list of them."""
    found = []
    for entry in tomllib.loads((HERE / "bugs" / f"{port}.toml").read_text("utf-8"))["bug"]:
        clause, flags = entry.pop("clause"), tuple(entry.pop("flags", ()))
        found.append(Bug(port, **entry, flags=flags, clauses=(clause,) if isinstance(clause, str) else tuple(clause)))
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


def built(port: Port, sources: dict[str, str], flags: tuple[str, ...], cache: Path) -> Path:
    """The file to run: a program compiled once a session from these sources, or the Python file among them."""
    name = hashlib.sha256(repr((sources, flags)).encode()).hexdigest()[:16]
    folder = cache / name
    result = folder / (port.program or next(iter(sources)))
    with FileLock(cache / f"{name}.lock"):
        if not result.exists():
            folder.mkdir(exist_ok=True)
            for file, text in sources.items():
                (folder / file).write_text(text, "utf-8")
            if port.program:
                command = [*port.command, *flags]
                done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
                assert done.returncode == 0, done.stderr
    return result


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
    place = f"cmd:{built(port, port.sources, (), cache)}" if port.program else f"{EXAMPLES / port.file}:Router"
    with judged(place) as subject:
        results = [run_clause(subject, clause, SOME) for clause in ROUTING]
    assert {r.clause.id: (r.verdict, r.failure) for r in results if r.verdict != "pass"} == {}
    assert len(results) == 61


@pytest.mark.parametrize("name", PORTS)
def test_a_port_is_short_and_has_its_bugs(name: str) -> None:
    """A port that brings its own JSON or hash has each in a file of its own."""
    for file, text in PORTS[name].sources.items():
        assert len(text.splitlines()) < 120, file
    assert len({bug.name for bug in bugs(name)}) >= 10


@pytest.mark.parametrize("bug", BUGS)
def test_a_bug_of_the_framework_is_caught_by_its_clause(bug: Bug, cache: Path) -> None:
    """In a process of its own: some bugs are settings of the whole process."""
    port = PORTS[bug.port]
    sources = port.sources
    if bug.find:
        wrong = bug.file or next(iter(sources))
        assert sources[wrong].count(bug.find) == 1
        sources[wrong] = sources[wrong].replace(bug.find, bug.replace)
    file = built(port, sources, bug.flags or FAST.get(port.needs, ()), cache)
    worker = f"{shlex.quote(sys.executable)} -m okr.spec.adapters.worker {shlex.quote(str(file))}:Router"
    clauses = registry.load()
    with judged(f"cmd:{file if port.program else worker}") as subject:
        said = []
        for clause in bug.clauses:
            said.append(run_clause(subject, clauses[clause], replace(PROFILES["ci"], shrink=False)).verdict)
            if said[-1] in CAUGHT:
                return
    pytest.fail(f"{bug.why} Asked {', '.join(bug.clauses)}: {', '.join(said)}")
