"""Which names a body needs from the notebook: those that it reads before it binds them itself."""

from __future__ import annotations

import ast
import builtins
import re
import symtable
from typing import NamedTuple

_DYNAMIC = frozenset({"exec", "eval", "globals", "locals", "vars", "NameError", "get_ipython"})
"""A body that uses one of these may make names that its text does not show."""

_ALWAYS = frozenset({"asyncio", "car", "__name__", "__file__", "__builtins__", "display"})


def needs(tree: ast.Module) -> frozenset[str]:
    """Return the names that must be there before a body can run; none when its text cannot tell."""
    reader = _Reader()
    reader.visit(tree)
    read = reader.outside()
    if reader.star or (read | reader.read) & _DYNAMIC:
        return frozenset()
    return frozenset(name for name in read - _ALWAYS if not hasattr(builtins, name))


class Reads(NamedTuple):
    """Which of the notebook's names a body takes with it into another process."""

    surely: frozenset[str]
    """Those that it reads before it binds them."""
    perhaps: frozenset[str]
    """Those that it may read: where it binds them in a branch only, or through `exec` and its like."""


def reads(tree: ast.Module) -> Reads:
    """Return which names a body reads from outside, whether they are there or not.

    A body that uses `exec`, `eval`, `globals` and the like, or a magic, may read names that its code does not show:
    each word in one of its texts counts as a name.
    """
    found = []
    for reader in (_Reader(), _Careful()):
        reader.visit(tree)
        found.append(reader.outside())
    surely, perhaps = found
    if _loads(tree) & _DYNAMIC - {"NameError"}:
        texts = (
            node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
        )
        perhaps |= {word for text in texts for word in re.findall(r"[^\W\d]\w*", text)}
    return Reads(frozenset(surely), frozenset(perhaps - surely))


class _Reader(ast.NodeVisitor):
    """Follows the statements in their order; the bodies of functions wait until all is bound."""

    def __init__(self) -> None:
        self.bound: set[str] = set()
        self.needed: set[str] = set()
        self.read: set[str] = set()
        self.later: list[ast.AST] = []
        self.star = False

    def outside(self) -> set[str]:
        """Return what is read before it is bound, and what functions read that nothing binds."""
        return self.needed | {name for node in self.later for name in _reads_outside(node) - self.bound}

    def _load(self, name: str) -> None:
        self.read.add(name)
        if name not in self.bound:
            self.needed.add(name)

    def _in_order(self, *nodes: ast.AST | list[ast.AST] | None) -> None:
        for node in nodes:
            for one in node if isinstance(node, list) else [node]:
                if one is not None:
                    self.visit(one)

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Load):
            self._load(node.id)
        else:
            self.bound.add(node.id)

    def visit_Assign(self, node: ast.Assign) -> None:
        self._in_order(node.value, list(node.targets))

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self._in_order(node.annotation, node.value, node.target if node.value else None)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        if isinstance(node.target, ast.Name):
            self._load(node.target.id)
        self._in_order(node.value, node.target)

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        self._in_order(node.value, node.target)

    def _loop(self, node: ast.For | ast.AsyncFor) -> None:
        self.visit(node.iter)
        self.bound |= _binds(node)  # the second turn finds what the first has bound
        self._in_order(list(node.body), list(node.orelse))

    visit_For = visit_AsyncFor = _loop

    def visit_While(self, node: ast.While) -> None:
        self.bound |= _binds(node)
        self.generic_visit(node)

    def _comprehension(self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp) -> None:
        for part in node.generators:
            self._in_order(part.iter, part.target, list(part.ifs))
        self._in_order(*([node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]))

    visit_ListComp = visit_SetComp = visit_GeneratorExp = visit_DictComp = _comprehension

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._in_order(list(node.decorator_list), list(node.args.defaults), list(node.args.kw_defaults))  # type: ignore[arg-type]
        self.bound.add(node.name)
        self.later.append(node)

    visit_FunctionDef = visit_AsyncFunctionDef = _function

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self._in_order(list(node.args.defaults))
        self.later.append(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self.generic_visit(node)
        self.bound.add(node.name)

    def visit_alias(self, node: ast.alias) -> None:
        self.star |= node.name == "*"
        self.bound.add((node.asname or node.name).partition(".")[0])

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        if node.name:
            self.bound.add(node.name)
        self.generic_visit(node)

    def visit_match_case(self, node: ast.match_case) -> None:
        self.bound |= _binds(node.pattern)
        self.generic_visit(node)


class _Careful(_Reader):
    """Counts a name as bound only where it is on every way through the body."""

    def _branch(self, *nodes: ast.AST | list[ast.AST] | None) -> set[str]:
        """Visit what may not happen; return what is bound where it does."""
        before = set(self.bound)
        self._in_order(*nodes)
        after, self.bound = self.bound, before
        return after

    def visit_If(self, node: ast.If) -> None:
        self.visit(node.test)
        self.bound = self._branch(list(node.body)) & self._branch(list(node.orelse))

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self.visit(node.test)
        self._branch(node.body)
        self._branch(node.orelse)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        self.visit(node.values[0])
        self._branch(list(node.values[1:]))

    def _try(self, node: ast.Try | ast.TryStar) -> None:
        self._branch(list(node.body), list(node.orelse))
        for handler in node.handlers:
            self._branch(handler)
        self._in_order(list(node.finalbody))

    visit_Try = visit_TryStar = _try

    def _loop(self, node: ast.For | ast.AsyncFor) -> None:
        self.visit(node.iter)
        self._branch(node.target, list(node.body))
        self._branch(list(node.orelse))

    visit_For = visit_AsyncFor = _loop

    def visit_While(self, node: ast.While) -> None:
        self.visit(node.test)
        self._branch(list(node.body))
        self._branch(list(node.orelse))

    def _comprehension(self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp) -> None:
        before = set(self.bound)
        super()._comprehension(node)
        self.bound = before

    visit_ListComp = visit_SetComp = visit_GeneratorExp = visit_DictComp = _comprehension

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        before = set(self.bound)
        self.generic_visit(node)
        self.bound = before | {node.name}

    def visit_match_case(self, node: ast.match_case) -> None:
        before = set(self.bound)
        super().visit_match_case(node)
        self.bound = before


def _reads_outside(function: ast.AST) -> set[str]:
    """Return the names that a function reads and neither it nor one around them within it binds."""
    tables = symtable.symtable(ast.unparse(function), "<body>", "exec").get_children()
    found: set[str] = set()
    while tables:
        table = tables.pop()
        tables += table.get_children()
        found |= {one.get_name() for one in table.get_symbols() if one.is_global() and one.is_referenced()}
    return found


def _loads(tree: ast.AST) -> set[str]:
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}


def _binds(tree: ast.AST) -> set[str]:
    bound: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store() | ast.Del()) | ast.arg(arg=name):
                bound.add(name)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                bound.add(name)
            case ast.alias():
                bound.add((node.asname or node.name).partition(".")[0])
            case ast.ExceptHandler(name=str(name)):
                bound.add(name)
            case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)) | ast.MatchMapping(rest=str(name)):
                bound.add(name)
            case _:
                pass
    return bound
