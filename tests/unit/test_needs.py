"""A body waits for the names that it reads before it binds them, and for no other."""

import ast

import pytest

from car_sched_nb.runners.needs import needs


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ("engine.run(q)", {"engine", "q"}),
        ("df = df.dropna()", {"df"}),
        ("total += 1", {"total"}),
        ("x = 1\nx + 1", set()),
        ("def f(a, *b, k=outer):\n    return a + later\nlater = 1\nf(2)", {"outer"}),
        ("def f():\n    return engine", {"engine"}),
        ("def f():\n    h = lambda n: n\n    return h(n)", {"n"}),
        ("def f():\n    return [row for row in rows] + [row]", {"rows", "row"}),
        ("def f():\n    def g():\n        return n + k\n    n = 1\n    return g()", {"k"}),
        ("for row in rows:\n    if row: print(last)\n    last = row", {"rows"}),
        ("while True:\n    if done: break\n    done = True", set()),
        ("[x * k for x in xs if x]", {"xs", "k"}),
        ("{k: v for k, v in pairs}", {"pairs"}),
        ("with opened as f:\n    f.read()", {"opened"}),
        ("try:\n    a()\nexcept ValueError as e:\n    print(e)", {"a"}),
        ("import os.path, json as j\nos.path, j", set()),
        ("match value:\n    case [a, *rest]:\n        print(a, rest)", {"value"}),
        ("class A(Base):\n    y = x\nA()", {"Base", "x"}),
        ("(n := 3) + n", set()),
        ("await asyncio.sleep(0)\ncar.current()", set()),
        ("from math import *\nsin(1)", set()),
        ("try:\n    df\nexcept NameError:\n    df = 1", set()),
        ("exec(code)\nmade", set()),
        ("f = lambda a: a + b\nb = 1\nf(1)", set()),
    ],
)
def test_a_body_needs_what_it_reads_first(body: str, wanted: set[str]):
    code = compile(body, "body", "exec", flags=ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    assert isinstance(code, ast.Module)
    assert needs(code) == wanted
