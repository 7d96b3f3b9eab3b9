"""Which room of the package may import which: arrows point down, and nobody uses another module's private names."""

import ast
import importlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import pytest

OKR = Path(__file__).resolve().parents[2] / "okr"
SPEC = OKR.parent / "spec"
GROUND = {"errors", "files", "version", "startup", "validation", "intervals", "seeds"}
MAY = {
    "routing": {"ground"},
    "discovery": {"ground", "routing"},
    "loaders": {"ground", "discovery"},
    "traces": {"ground", "routing", "discovery"},
    "engines": {"ground", "routing", "discovery", "traces"},
    "transformers": {"ground", "routing", "discovery", "traces", "engines"},
    "vllm": {"ground", "routing", "discovery", "loaders", "traces", "engines"},
    "detection": {"ground", "routing", "discovery", "traces", "engines"},
    "baking": {"ground", "routing", "discovery", "loaders", "traces", "engines", "transformers", "detection"},
    "collect": {"ground", "discovery", "loaders", "traces", "baking"},
    "pages": {"ground"},
    "jobs": {"ground", "loaders"},
}
MAY["experiment"] = {*MAY, "ground"}
MAY["tuning"] = {*MAY, "ground"} - {"tuning"}
MAY["suites"] = {*MAY, "ground"} - {"suites", "tuning"}
MAY["commands"] = {*MAY, "ground", "spec", "top"}
MAY["top"] = {*MAY, "ground"}
LATE = {("okr.engines.prepared", "transformers")}
"""Imports that stand in a function: an engine is chosen when a model is given."""
FOREIGN = {"vllm": "okr.engines.vllm", "mlx_lm": "okr.collect.mlx", "llama_cpp": "okr.collect.llama_cpp"}
"""The engines that need not be installed, and the one place that imports each."""


def room_of(module: str) -> str:
    """The room of a module; the engines for transformers and vLLM are rooms of their own."""
    parts = module.split(".")
    if parts[1:3] in (["engines", "transformers"], ["engines", "vllm"]):
        return parts[2]
    if len(parts) > 1 and (OKR / parts[1]).is_dir():
        return parts[1]
    return "ground" if len(parts) > 1 and parts[1] in GROUND else "top"


def imports(module: str, tree: ast.Module) -> list[tuple[str, list[str]]]:
    """(module imported from, names) of every import of the package in ``tree``, those for type checkers left out."""
    checked = [n for n in ast.walk(tree) if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.unparse(n.test)]
    left_out = {id(inner) for outer in checked for inner in ast.walk(outer)}
    found = []
    for node in ast.walk(tree):
        if id(node) in left_out:
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "okr":
            for name in (alias.name for alias in node.names):
                inner = f"{node.module}.{name}"
                is_module = (OKR.parent / inner.replace(".", "/")).with_suffix(".py").exists()
                found.append((inner, []) if is_module else (node.module, [name]))
        elif isinstance(node, ast.Import):
            found += [(alias.name, []) for alias in node.names if alias.name.split(".")[0] == "okr"]
    return found


@cache
def modules() -> dict[str, ast.Module]:
    paths = [path for path in OKR.rglob("*.py") if OKR / "spec" not in path.parents]
    named = {".".join(path.relative_to(OKR.parent).with_suffix("").parts): path for path in paths}
    return {name.removesuffix(".__init__"): ast.parse(path.read_text(encoding="utf-8")) for name, path in named.items()}


@pytest.mark.parametrize("room", sorted(MAY))
def test_a_room_imports_only_those_below_it(room):
    bad = [
        f"{module} imports {other}"
        for module, tree in modules().items()
        if room_of(module) == room and module != "okr"
        for other, _ in imports(module, tree)
        if room_of(other) not in {room, *MAY[room]} and (module, room_of(other)) not in LATE
    ]
    assert not bad, "\n".join(bad)


def top_packages(nodes: Iterable[ast.AST]) -> set[str]:
    """The packages that the imports among ``nodes`` name."""
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").split(".")[0])
    return found


@pytest.mark.parametrize("engine", sorted(FOREIGN))
def test_another_engine_is_touched_in_one_place_and_only_when_it_is_asked(engine: str) -> None:
    touched = False
    for path in OKR.rglob("*.py"):
        module = ".".join(path.relative_to(OKR.parent).with_suffix("").parts)
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert engine not in top_packages(tree.body), module
        if engine in top_packages(ast.walk(tree)):
            assert f"{module}.".startswith(f"{FOREIGN[engine]}."), module
            touched = True
    assert touched


def test_rooms_form_no_cycle():
    order: list[str] = ["ground"]
    left = {room: {*below} - {"spec"} for room, below in MAY.items() if room not in ("top", "commands")}
    while left:
        ready = [room for room, below in left.items() if below <= {*order, room}]
        assert ready, f"a cycle among {sorted(left)}"
        for room in ready:
            order.append(room)
            del left[room]


def test_no_private_name_is_used_in_another_module():
    spec = {str(path.relative_to(SPEC)): ast.parse(path.read_text(encoding="utf-8")) for path in SPEC.rglob("*.py")}
    bad = [
        f"{module} takes {alias.name} from {node.module}"
        for module, tree in (modules() | spec).items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.level or (module not in spec and node.module.startswith("okr")))
        for alias in node.names
        if alias.name.startswith("_") and not alias.name.startswith("__")
    ]
    assert spec
    assert not bad, "\n".join(bad)


def test_every_folder_is_a_room():
    assert {path.name for path in OKR.iterdir() if path.is_dir() and path.name != "__pycache__"} == {
        *(room for room in MAY if room not in ("top", "transformers", "vllm")), "spec",
    }  # fmt: skip


@pytest.mark.parametrize("folder", ["bench", "studies", "tools"])
def test_scripts_take_from_the_package_what_it_has(folder):
    bad = [
        f"{path.name} takes {name} from {module}"
        for path in (OKR.parent / folder).rglob("*.py")
        for module, names in imports(path.stem, ast.parse(path.read_text(encoding="utf-8")))
        for name in names
        if not hasattr(importlib.import_module(module), name)
    ]
    assert not bad, "\n".join(bad)
