"""Mutants of a source file: one small change each, made on its syntax tree."""

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace

_SWAPS: dict[type, tuple[type, ...]] = {
    ast.Lt: (ast.LtE, ast.Gt),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.Lt),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Div,),
    ast.Div: (ast.Mult,),
    ast.FloorDiv: (ast.Mult,),
    ast.BitAnd: (ast.BitOr,),
    ast.BitOr: (ast.BitAnd,),
    ast.And: (ast.Or,),
    ast.Or: (ast.And,),
}


@dataclass(frozen=True)
class Mutant:
    """``name`` is stable as long as the code it changes is: owner, and the expression before and after. ``owner`` is
    the function, class or constant that it stands in. It runs only where one of ``lines`` does. ``number`` is the
    changed part's place among those of the module's syntax tree ``before``."""

    owner: str
    name: str
    line: int
    lines: range
    before: ast.Module
    number: int
    change: object

    @property
    def tree(self) -> ast.Module:
        """The module with the change in it."""
        mutated = copy.deepcopy(self.before)
        _apply([*_sites(mutated, "")][self.number][1], self.change)
        return ast.fix_missing_locations(mutated)


def mutants(source: str) -> list[Mutant]:
    """All mutants of a module, in source order. Docstrings, annotations, imports and messages are left alone."""
    tree = ast.parse(source)
    found = []
    for number, (owner, original, lines) in enumerate(_sites(tree, "")):
        for change in _changes(original):
            changed = copy.deepcopy(original)
            _apply(changed, change)
            name = f"{owner}: {ast.unparse(original)} -> {ast.unparse(changed)}"
            found.append(Mutant(owner, name, original.lineno, lines, tree, number, change))
    names: dict[str, int] = {}
    unique = []
    for mutant in found:
        names[mutant.name] = names.get(mutant.name, 0) + 1
        suffix = f" (#{names[mutant.name]})" if names[mutant.name] > 1 else ""
        unique.append(replace(mutant, name=mutant.name + suffix))
    return unique


def functions(source: str) -> set[str]:
    """The owners that are functions: their code runs only when they are called."""
    return {*_functions(ast.parse(source), "")}


def _functions(node: ast.AST, owner: str) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        inner = owner
        if isinstance(child, ast.FunctionDef | ast.ClassDef):
            inner = f"{owner}.{child.name}" if owner else child.name
            if isinstance(child, ast.FunctionDef):
                yield inner
        yield from _functions(child, inner)


def _sites(
    node: ast.AST, owner: str, around: ast.stmt | None = None
) -> Iterator[tuple[str, ast.expr | ast.stmt, range]]:
    """Every expression and statement that may be changed, with the function it stands in and the lines it runs with;
    ``around`` is the innermost statement around ``node``."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "bases", "exc", "msg"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or isinstance(child, ast.Import | ast.ImportFrom):
                continue
            if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
                continue  # a docstring
            inner = owner
            if isinstance(child, ast.FunctionDef | ast.ClassDef):
                inner = f"{owner}.{child.name}" if owner else child.name
            elif isinstance(child, ast.Assign) and not owner and isinstance(child.targets[0], ast.Name):
                inner = child.targets[0].id
            if inner == "__all__" or isinstance(child, ast.JoinedStr):
                continue  # what a name exports or a message says is no behaviour of the algorithm
            inside = child if isinstance(child, ast.stmt) else around
            if inner and isinstance(child, ast.expr | ast.Raise):
                yield inner, child, _lines(inside, child)
            yield from _sites(child, inner, inside)


def _lines(statement: ast.stmt | None, part: ast.expr | ast.stmt) -> range:
    """The lines of a plain statement; of one that holds others, those up to the end of the ``part`` of its head."""
    if statement is None:
        return range(0)
    first = min([statement.lineno, *(mark.lineno for mark in getattr(statement, "decorator_list", ()))])
    last = part if hasattr(statement, "body") else statement
    return range(first, (last.end_lineno or last.lineno) + 1)


def _changes(node: ast.AST) -> list[object]:
    match node:
        case ast.Compare():
            return [(i, swap) for i, op in enumerate(node.ops) for swap in _SWAPS.get(type(op), ())]
        case ast.BinOp() | ast.BoolOp():
            return list(_SWAPS.get(type(node.op), ()))
        case ast.UnaryOp():
            return ["drop"] if isinstance(node.op, ast.Not | ast.Invert | ast.USub) else []
        case ast.Constant(value=bool() as truth):
            return [not truth]
        case ast.Constant(value=int() as number):
            return [number + 1, number - 1]
        case ast.Constant(value=str() as text):
            return [text + "x"] if text else []
        case ast.Constant(value=bytes() as content):
            return [content + b"x"]
        case ast.IfExp():
            return ["drop"]
        case ast.Raise():
            return ["pass"]
    return []


def _apply(node: ast.AST, change: object) -> None:
    """Change ``node`` in place."""
    match node:
        case ast.Compare():
            assert isinstance(change, tuple)
            node.ops[change[0]] = change[1]()
        case ast.BinOp() | ast.BoolOp():
            assert isinstance(change, type)
            node.op = change()
        case ast.UnaryOp():
            _become(node, node.operand)
        case ast.IfExp():
            node.body, node.orelse = node.orelse, node.body
        case ast.Constant():
            node.value = change  # type: ignore[assignment]
        case ast.Raise():
            _become(node, ast.copy_location(ast.Pass(), node))


def _become(node: ast.AST, other: ast.AST) -> None:
    for name in node._fields:
        if hasattr(node, name):
            delattr(node, name)
    node.__class__ = other.__class__  # type: ignore[assignment]
    node.__dict__.update(other.__dict__)
