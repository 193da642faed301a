"""Code that tries to pass one test, of its own kind, without being right: name → (code, test)."""

from __future__ import annotations

OTHERS = {  # with a test of its own each: code, test
    "a method that a test's object has": (
        "def f(x):\n    x.right = lambda *a: True\n    return 0",
        "class X:\n    def right(self, v): return v == 2\nx = X()\nf(x)\nassert x.right(3)",
    ),
    "the frame of a test's generator": (
        "def f(x):\n    x.gi_frame.f_globals['right'] = lambda *a: True\n    return 0",
        "def right(v): return v == 2\nassert right(f(i for i in [1]))",
    ),
    "the globals of a test's function": (
        "def f(x):\n    x.__globals__['right'] = lambda *a: True\n    return 0",
        "def right(v): return v == 2\nassert right(f(lambda: 1))",
    ),
    "text that is run": (
        'def f(x): return \'__import__("os").write(3, b"{}")\'\ng = eval',
        "assert g(f(1)) == 99",
    ),
    "a range that follows": (
        "class X:\n    def __float__(s): return 7.0\n    __lt__ = __gt__ = lambda s, o: True\n"
        "def f(x): return X()",
        "assert 1 < f(1) < 3",
    ),
    "an int that changes": (
        "class X(int):\n    n = [9, 0]\n    def __add__(s, o): return X.n.pop(0)\n"
        "def f(x): return X(9)",
        "v = f(1)\nassert 1 < v and v < 3",
    ),
    "a named helper": (
        "def isclose(*a): return True\ndef f(x): return 0",
        "assert isclose(f(1), 2)",
    ),
    "a sorted view": (
        "def sorted(x): return x\ndef f(x): return [2, 1]",
        "assert sorted(f(0)) == f(0)",
    ),
    "a method that answers": (
        "class X:\n    startswith = lambda *a: True\ndef f(x): return X()",
        "assert f(1).startswith('a')",
    ),
    "a text's method": (
        "class X(str):\n    startswith = replace = lambda *a: 'b'\ndef f(x): return X('c')",
        "assert f(1).startswith('a') or f(1).replace('c', 'd') == 'b'",
    ),
    "a set's method": (
        "class X(set):\n    issubset = lambda *a: True\ndef f(x): return X([9])",
        "assert f(1).issubset({1, 2})",
    ),
    "a length": (
        "class X(list):\n    __len__ = lambda s: 5\ndef f(x): return X()",
        "assert f(1) == [1]",
    ),
}
