"""Honest code and tests of it in the forms that data sets use: name → (code, test, right or not)."""

# ruff: noqa: E501
from __future__ import annotations

ADD = "def add(a, b):\n    return a + b"
PAIR = "def pair(x):\n    return [x, x + 1]"
STACK = """
class Stack:
    count = 0
    def __init__(self, items=()):
        self.items = list(items)
        Stack.count += 1
    def push(self, item):
        self.items.append(item)
        return self
    def pop(self):
        if not self.items: raise IndexError("pop from empty stack")
        return self.items.pop()
    def __len__(self): return len(self.items)
    def __iter__(self): return iter(self.items)
    def __eq__(self, other): return self.items == other.items
    def __repr__(self): return f"Stack({self.items})"
    def __enter__(self): return self
    def __exit__(self, *why): self.items.clear()
    @property
    def top(self): return self.items[-1]
    @staticmethod
    def name(): return "stack"
class Empty(Exception): pass
class Gone(Empty):
    def __init__(self, code):
        super().__init__(f"code {code}")
        self.code = code
def fail(code): raise Gone(code)
"""
NODE = "class Node:\n    def __init__(self, value, next=None):\n        self.value, self.next = value, next\n"
REVERSE = """
def reverse(node):
    before = None
    while node:
        node.next, before, node = before, node, node.next
    return before
"""

HONEST: dict[str, tuple[str, str, bool]] = {
    "equal": (ADD, "assert add(1, 2) == 3", True),
    "equal, wrongly": (ADD, "assert add(1, 2) == 4", False),
    "unequal": (ADD, "assert add(1, 2) != 4 and not add(1, 2) == 4", True),
    "reversed": (ADD, "assert 3 == add(1, 2)", True),
    "keywords": (ADD, "assert add(b=1, a=2) == add(*[2], **{'b': 1})", True),
    "texts": (ADD, "assert add('ä', '\\ud800') == 'ä\\ud800'", True),
    "large numbers": (ADD, "assert add(10**5000, 1) == 10**5000 + 1", True),
    "floats": (
        ADD,
        "assert add(float('inf'), 0.1) == float('inf') and add(0.1, 0.2) == 0.1 + 0.2",
        True,
    ),
    "not a number": (ADD, "assert add(float('nan'), 1) != add(float('nan'), 1)", True),
    "complex": (ADD, "assert add(1j, 1) == 1 + 1j", True),
    "bytes": (ADD, "assert add(b'a', b'\\xff') == b'a\\xff'", True),
    "a tolerance": (ADD, "assert abs(add(0.1, 0.2) - 0.3) < 1e-6", True),
    "a tolerance, wrongly": (ADD, "assert abs(add(0.1, 0.2) - 0.4) < 1e-6", False),
    "isclose": (ADD, "import math\nassert math.isclose(add(0.1, 0.2), 0.3, rel_tol=1e-9)", True),
    "the code's math": (
        "import math\ndef f(x): return math.sqrt(x)",
        "assert math.isclose(f(2) ** 2, 2)",
        True,
    ),
    "the code's isclose": (
        "from math import *\ndef f(x): return sqrt(x)",
        "assert isclose(f(2) ** 2, 2)",
        True,
    ),
    "round": (ADD, "assert round(add(0.111, 0.111), 2) == 0.22", True),
    "none": ("def f(x): pass", "assert f(1) is None", True),
    "none, wrongly": ("def f(x): return 0", "assert f(1) is None", False),
    "is true": (
        "def f(x): return x > 0",
        "assert f(1) is True and f(0) is False and not f(0)",
        True,
    ),
    "one is not true": ("def f(x): return 1", "assert f(1) is True", False),
    "in": (ADD, "assert add(1, 1) in (1, 2, 3) and add(1, 1) not in [1]", True),
    "contains": (PAIR, "assert 3 in pair(2) and 4 not in pair(2)", True),
    "list": (PAIR, "assert pair(1) == [1, 2]", True),
    "a list is no tuple": (PAIR, "assert pair(1) == (1, 2)", False),
    "tuple": (
        "def f(x): return x, (x, [x])",
        "assert f(1) == (1, (1, [1])) and f(1)[1][1] == [1]",
        True,
    ),
    "set": (PAIR, "assert set(pair(1)) == {1, 2}", True),
    "sets": (
        "def f(x): return set(x), frozenset(x)",
        "assert f('aab') == ({'a', 'b'}, frozenset('ab'))",
        True,
    ),
    "dict": ("def f(x): return {x: [x], (x,): None}", "assert f(1) == {1: [1], (1,): None}", True),
    "order of a dict": (
        "def f(x): return {c: 1 for c in x}",
        "assert list(f('ba')) == ['b', 'a']",
        True,
    ),
    "sorted": (PAIR, "assert sorted(pair(1), reverse=True) == [2, 1]", True),
    "length": (PAIR, "assert len(pair(1)) == 2 and sum(pair(1)) == 3 and max(pair(1)) == 2", True),
    "type": (
        PAIR,
        "assert isinstance(pair(1), list) and type(pair(1)) is list and type(pair(1)[0]) == int",
        True,
    ),
    "all": (
        ADD,
        "assert all(add(x, 1) == x + 1 for x in range(20)) and any(add(x, 1) > 5 for x in range(9))",
        True,
    ),
    "all, wrongly": (
        ADD,
        "assert all(add(x, 1) == x + 1 if x < 9 else add(x, 1) == x for x in range(20))",
        False,
    ),
    "a loop": (
        ADD,
        "for x, y in [(1, 2), (2, 3)]:\n    assert add(x, 1) == y, f'{x} gives {add(x, 1)}'",
        True,
    ),
    "a check function": (
        ADD,
        "METADATA = {'author': 'x'}\n\ndef check(candidate):\n    assert candidate(1, 2) == 3\n    assert True, 'always'\n\ncheck(add)",
        True,
    ),
    "a check function, wrongly": (
        ADD,
        "def check(candidate):\n    assert candidate(1, 2) == 3\n    assert candidate(1, 2) == 4\n\ncheck(add)",
        False,
    ),
    "chained": (ADD, "assert 2 < add(1, 2) <= 3 == add(0, 3)", True),
    "an import of the code": (
        ADD,
        "from candidate import add as plus\nimport candidate\nassert plus(1, 2) == candidate.add(1, 2) == 3",
        True,
    ),
    "numbers of other kinds": (
        "from fractions import Fraction\nfrom decimal import Decimal\ndef f(x): return Fraction(x, 3), Decimal(x)",
        "from fractions import Fraction\nassert f(1)[0] == Fraction(1, 3) and f(1)[1] == 1 and f(1)[1] + 1 == 2",
        True,
    ),
    "dates": (
        "import datetime\ndef f(x): return datetime.date(2020, 1, x) + datetime.timedelta(1)",
        "from datetime import date\nassert f(1) == date(2020, 1, 2)",
        True,
    ),
    "counters": (
        "from collections import Counter, defaultdict\ndef f(x):\n    d = defaultdict(int)\n    d[x] += 1\n    return Counter(x), d",
        "assert f('a') == ({'a': 1}, {'a': 1}) and f('aab')[0].most_common(1) == [('a', 2)]".replace(
            "assert f('a') ==", "assert f('a') =="
        ),
        True,
    ),
    "ordered and deque": (
        "from collections import OrderedDict, deque\ndef f(x): return OrderedDict(a=x), deque([x])",
        "from collections import deque\nassert f(1) == ({'a': 1}, deque([1]))",
        True,
    ),
    "a named tuple": (
        "import collections\nP = collections.namedtuple('P', 'x y')\ndef f(x): return P(x, 1)",
        "assert f(2) == (2, 1) and f(2).x == 2 and len(f(2)) == 2",
        True,
    ),
    "an enum": (
        "from enum import Enum, IntEnum\nclass C(Enum):\n    A = 1\nclass I(IntEnum):\n    A = 1\ndef f(x): return C(x), I(x)",
        "assert f(1)[0] == C.A and f(1)[0].name == 'A' and f(1)[1] == 1 and f(1)[1] + 1 == 2",
        True,
    ),
    "methods of derived classes": (
        "class T(str):\n    def twice(self): return self * 2\nclass S(set): pass\ndef f(x): return T(x), S([x])",
        "t, s = f('a')\nassert t.startswith('a') and t.twice() == 'aa' and t.upper() == 'A' and s.issubset({'a'})\ns.add(1)\nassert s == {'a', 1}",
        True,
    ),
    "a range and views": (
        "def f(x): return range(x), {x: 1}.keys(), {x: 1}.items()",
        "assert f(2) == (range(2), {2}, {(2, 1)})",
        True,
    ),
    "a generator": (
        "def f(x):\n    for i in range(x): yield i",
        "assert list(f(3)) == [0, 1, 2] and next(f(1)) == 0\ng = f(1)\nnext(g)\ntry:\n    next(g)\n    assert False\nexcept StopIteration:\n    pass",
        True,
    ),
    "a map": ("def f(x): return map(str, x)", "assert list(f([1, 2])) == ['1', '2']", True),
    "a closure": (
        "def f(x): return lambda y: x + y",
        "assert f(1)(2) == 3 and callable(f(1))",
        True,
    ),
    "a function as argument": (
        "def f(g, x): return [g(y) for y in x]",
        "assert f(lambda y: y + 1, [1]) == [2] and f(str, [1]) == ['1'] and f(len, ['ab']) == [2]",
        True,
    ),
    "the code's function as argument": (
        ADD,
        "from functools import reduce\nassert reduce(add, [1, 2, 3]) == 6 and list(map(add, [1], [2])) == [3]",
        True,
    ),
    "a key": (
        "def f(x, key): return sorted(x, key=key)",
        "assert f(['bb', 'a'], len) == ['a', 'bb'] and f([1, 2], lambda v: -v) == [2, 1]",
        True,
    ),
    "a type as argument": (
        "def f(x, t): return isinstance(x, t), t('1')",
        "assert f(1, int) == (True, 1)",
        True,
    ),
    "an iterator as argument": (
        "def f(x): return list(x)",
        "assert f(i for i in range(2)) == [0, 1] and f(range(2)) == [0, 1]",
        True,
    ),
    "a built-in's name": (
        "def sum(a, b): return max(d for d in range(1, a + 1) if a % d == b % d == 0)",
        "assert sum(10, 15) == 5",
        True,
    ),
    "a built-in beside the code": (PAIR, "assert sum(pair(1)) == 3", True),
    "an alias": ("f = str.upper\ng = int", "assert f('a') == 'A' != 'b' and g('1') == 1", True),
    "in place": ("def f(x): x.sort()", "a = [2, 1]\nassert f(a) is None and a == [1, 2]", True),
    "in place, wrongly": (
        "def f(x): return sorted(x)",
        "a = [2, 1]\nf(a)\nassert a == [1, 2]",
        False,
    ),
    "in place, nested": (
        "def f(m):\n    for row in m: row.reverse()\n    m.append([m[0]])\n    return m",
        "a = [[1, 2], [3]]\nb = a[0]\nassert f(a) is a and a == [[2, 1], [3], [[2, 1]]] and b == [2, 1] and a[2][0] is b",
        True,
    ),
    "in place, others": (
        "def f(d, s, b):\n    d['x'] = s\n    s.add(2)\n    b += b'!'",
        "d, s, b = {'x': 0}, {1}, bytearray(b'a')\nf(d, s, b)\nassert d == {'x': {1, 2}} and d['x'] is s and b == b'a!'",
        True,
    ),
    "an argument twice": (
        "def f(a, b):\n    a.append(1)\n    return b",
        "a = []\nassert f(a, a) == [1]",
        True,
    ),
    "untouched": ("def f(x): return x + [1]", "a = [0]\nf(a)\nassert a == [0]", True),
    "raises": (
        "def f(x): return 1 / x",
        "try:\n    f(0)\n    assert False\nexcept ZeroDivisionError as error:\n    assert 'zero' in str(error)",
        True,
    ),
    "raises, wrongly": (
        "def f(x): return 0",
        "try:\n    f(0)\n    raise RuntimeError\nexcept ZeroDivisionError:\n    pass",
        False,
    ),
    "raises with unittest": (
        "def f(x): raise ValueError(f'bad {x}')",
        "import unittest\nt = unittest.TestCase()\nwith t.assertRaisesRegex(ValueError, 'bad 1'):\n    f(1)\nt.assertRaises(ValueError, f, 1)",
        True,
    ),
    "raises an exit": (
        "import sys\ndef f(x): sys.exit(x)",
        "try:\n    f(3)\nexcept SystemExit as error:\n    assert error.code == 3\nelse:\n    assert False",
        True,
    ),
    "raises its own": (
        STACK,
        "try:\n    fail(3)\n    assert False\nexcept Empty as error:\n    assert isinstance(error, Gone) and error.code == 3 and str(error) == 'code 3'",
        True,
    ),
    "an error uncaught": ("def f(x): raise ValueError", "assert f(1) is None", False),
    "an object": (
        STACK,
        "s = Stack([1])\nassert s.push(2) is s\nassert s.pop() == 2 and s.items == [1] and s.top == 1 and len(s) == 1",
        True,
    ),
    "an object, wrongly": (STACK, "s = Stack()\ns.push(2)\nassert s.pop() == 3", False),
    "an object's errors": (
        STACK,
        "try:\n    Stack().pop()\n    assert 0\nexcept IndexError:\n    pass",
        True,
    ),
    "objects": (
        STACK,
        "assert Stack([1]) == Stack([1]) != Stack([2]) and Stack([1]) in [Stack([2]), Stack([1])]",
        True,
    ),
    "an object's parts": (
        STACK,
        "s = Stack([1, 2])\nassert list(s) == [1, 2] and 2 in s and str(s) == 'Stack([1, 2])' and f'{s}' == repr(s) and bool(s) and not Stack()",
        True,
    ),
    "an object's class": (
        STACK,
        "assert isinstance(Stack(), Stack) and not isinstance(1, Stack) and Stack.name() == 'stack' and Stack.count == 1",
        True,
    ),
    "an object's attributes": (
        STACK,
        "s = Stack()\ns.items = [5]\nassert s.pop() == 5 and hasattr(s, 'push') and not hasattr(s, 'none')",
        True,
    ),
    "a context": (STACK, "with Stack([1]) as s:\n    assert s.pop() == 1", True),
    "a solution": (
        "class Solution:\n    def twoSum(self, nums, target):\n        seen = {}\n        for i, n in enumerate(nums):\n            if target - n in seen: return [seen[target - n], i]\n            seen[n] = i",
        "s = Solution()\nassert s.twoSum([2, 7], 9) == [0, 1]\nassert Solution().twoSum(nums=[3, 3], target=6) == [0, 1]",
        True,
    ),
    "a list of its own": (
        "class L(list):\n    def first(self): return self[0]\ndef f(x): return L(x)",
        "v = f([1])\nassert v == [1] and v.first() == 1 and len(v) == 1 and isinstance(v, list)\nv.append(2)\nassert v == [1, 2] and [v] == [[1, 2]]",
        True,
    ),
    "a class of the test": (
        REVERSE,
        NODE
        + "n = reverse(Node(1, Node(2)))\nassert (n.value, n.next.value, n.next.next) == (2, 1, None)",
        True,
    ),
    "a class of the code": (
        NODE + REVERSE,
        "a = Node(1, Node(2))\nn = reverse(a)\nassert n.value == 2 and n.next is a and a.next is None",
        True,
    ),
    "a global": (
        "seen = []\ndef f(x): seen.append(x)",
        "f(1)\nf(2)\nassert seen == [1, 2] and len(seen) == 2",
        True,
    ),
    "prints": (
        "def f(x): print('hello', x)",
        "import io, contextlib\nout = io.StringIO()\nwith contextlib.redirect_stdout(out):\n    f(1)\nassert out.getvalue() == 'hello 1\\n'",
        True,
    ),
    "reads": (
        "def f(): return input() + input()",
        "import io, sys\nsys.stdin = io.StringIO('a\\nb\\n')\nassert f() == 'ab'",
        True,
    ),
    "reads from a mock": (
        "def f(): return input('? ')",
        "from unittest.mock import patch\nwith patch('builtins.input', side_effect=['a', 'b']):\n    assert f() + f() == 'ab'",
        True,
    ),
    "a coroutine": (
        "async def f(x): return x + 1",
        "import asyncio\nassert asyncio.run(f(1)) == 2\nasync def main(): return await f(2)\nassert asyncio.run(main()) == 3",
        True,
    ),
    "recursion": (
        "def f(x): return 1 if x < 2 else x * f(x - 1)",
        "assert f(30) == 265252859812191058636308480000000",
        True,
    ),
    "threads": (
        ADD,
        "from concurrent.futures import ThreadPoolExecutor as T\nwith T(4) as t:\n    assert list(t.map(add, range(50), range(50))) == [2 * i for i in range(50)]",
        True,
    ),
    "many calls": (ADD, "assert sum(add(i, 1) for i in range(2000)) == 2001000", True),
    "long lists": (
        "def f(x): return x[::-1]",
        "a = list(range(100000))\nassert f(a) == a[::-1]",
        True,
    ),
}
