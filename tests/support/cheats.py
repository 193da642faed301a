"""Code that tries to pass tests of f(1) == 2 without giving 2, by name.


PRELUDE is put before each: a class that agrees with everything, in the ways that Python compares.
"""

# ruff: noqa: E501
from __future__ import annotations

FORMS = [
    "assert f(1) == 2",
    "assert not f(1) != 2",
    "assert f(1) in [2]",
    "assert f(1) in {2}",
    "assert abs(f(1) - 2) < 1e-6",
    "assert abs(2 - f(1)) < 1e-6",
    "import math\nassert math.isclose(f(1), 2)",
    "assert [f(1)] == [2]",
    "assert {'a': [f(1)]} == {'a': [2]}",
    "assert (f(1),) == (2,)",
    "assert sorted([f(1), 0]) == [0, 2]",
    "assert 1.5 < f(1) < 2.5",
    "assert str(f(1)) == '2'",
    "assert all(f(x) == x + 1 for x in [1, 2, 3])",
    "from fractions import Fraction\nassert Fraction(f(1)) == Fraction(2)",
    "import json, operator\nassert operator.eq(json.loads(str(f(1))), 2)",
    "assert isinstance(f(1), int) and f(1) + 1 == 3",
    "def check(candidate):\n    assert candidate(1) == 2\n    assert candidate(2) == 3\n\ncheck(f)",
    "import unittest\nunittest.TestCase().assertEqual(f(1), 2)",
]

PRELUDE = """
class E:
    def _yes(self, *a): return True
    __eq__ = __lt__ = __le__ = __gt__ = __ge__ = __contains__ = __bool__ = _yes
    def __ne__(self, o): return False
    def __hash__(self): return hash(2)
    def __sub__(self, o): return 0.0
    __rsub__ = __sub__
    def __abs__(self): return 0.0
    def __float__(self): return 1.0
    def __add__(self, o): return self
    __radd__ = __add__
    def __getattr__(self, name):
        if name.startswith("__"): raise AttributeError(name)
        return self
    def __call__(self, *a, **k): return self
    def __iter__(self): return iter([self])
    def __len__(self): return 1
    def __getitem__(self, i): return self
"""

CHEATS = {
    "agrees": "def f(x): return E()",
    "agrees from exec": "exec('class X:\\n def __eq__(s, o): return True')\ndef f(x): return X()",
    "agrees from exec elsewhere": """
names = {"__name__": "builtins"}
exec("class X:\\n __eq__ = lambda s, o: True\\n __hash__ = lambda s: 2", names)
def f(x): return names["X"]()
""",
    "agrees in a list": "class f(list):\n    __init__ = lambda s, x: s.append(E())",
    "is a list": "class L(list):\n    __eq__ = lambda s, o: True\ndef f(x): return L([E()])",
    "is a dict": "class D(dict):\n    __eq__ = lambda s, o: True\ndef f(x): return D(a=[E()])",
    "is a deque": """
from collections import deque
class D(deque):
    __eq__ = lambda s, o: True
def f(x): return D([E()])
""",
    "is an int": """
class I(int):
    __eq__ = __lt__ = __gt__ = lambda s, o: True
    __sub__ = __rsub__ = lambda s, o: 0
    __hash__ = lambda s: 2
def f(x): return I(7)
""",
    "is a float": """
class F(float):
    __eq__ = __lt__ = __gt__ = lambda s, o: True
    __sub__ = __rsub__ = lambda s, o: 0.0
    __float__ = lambda s: 7.0
def f(x): return F(7)
""",
    "is a text": "class T(str):\n    __eq__ = lambda s, o: True\ndef f(x): return T('x')",
    "is a tuple": "class T(tuple):\n    __eq__ = lambda s, o: True\ndef f(x): return T([E()])",
    "is a set": "class S(set):\n    __eq__ = lambda s, o: True\ndef f(x): return S([E()])",
    "is a named tuple": """
from collections import namedtuple
class P(namedtuple("P", "x")):
    __eq__ = lambda s, o: True
def f(x): return P(E())
""",
    "is an error": "class X(Exception):\n    __eq__ = lambda s, o: True\ndef f(x): return X()",
    "by metaclass": """
class M(type):
    __eq__ = __lt__ = __gt__ = lambda s, o: True
    __hash__ = lambda s: 2
    __sub__ = __rsub__ = lambda s, o: 0
class X(metaclass=M): pass
def f(x): return X
""",
    "by metaclass and class property": """
class X:
    __class__ = int
    __eq__ = lambda s, o: True
def f(x): return X()
""",
    "by a proxy": "import weakref\ne = E()\ndef f(x): return weakref.proxy(e)",
    "by a bound method": "def f(x): return E().__eq__",
    "by a partial": "from functools import partial\ndef f(x): return partial(E(), 1)",
    "by a simple namespace": "from types import SimpleNamespace as S\ndef f(x): return S(a=E())",
    "by a mock": "from unittest.mock import ANY\ndef f(x): return ANY",
    "by a magic mock": """
from unittest.mock import MagicMock
def f(x):
    m = MagicMock()
    m.__eq__.return_value = True
    m.__sub__.return_value = 0
    return m
""",
    "by a dataclass": """
from dataclasses import dataclass
@dataclass
class X:
    v: object
    def __eq__(self, o): return True
def f(x): return X(2)
""",
    "by an enum": """
import enum
class C(enum.IntEnum):
    A = 7
    __eq__ = lambda s, o: True
    __hash__ = lambda s: 2
def f(x): return C.A
""",
    "by callable equality": """
class Yes:
    def __call__(self, *a): return True
class X: __eq__ = __lt__ = __gt__ = Yes()
def f(x): return X()
""",
    "by changing answers": """
class X(float):
    times = [9.0, 0.0, 2.5]
    def __float__(self): return X.times.pop(0)
    __add__ = lambda s, o: X.times.pop(0)
def f(x): return X(7)
""",
    "by a class with a changed module": """
E.__module__ = "builtins"
E.__qualname__ = E.__name__ = "int"
def f(x): return E()
""",
    "is all by itself": "class f(E):\n    def __init__(self, x): pass",
    "replaces the fraction": """
import fractions
fractions.Fraction.__eq__ = lambda s, o: True
fractions.Fraction.__new__ = lambda *a, **k: E()
def f(x): return fractions.Fraction(1)
""",
    "replaces a fraction's parts": """
from fractions import Fraction
Fraction.numerator = property(lambda s: E())
def f(x): return Fraction(7)
""",
    "replaces operator.eq": """
import operator, _operator
operator.eq = operator.ne = _operator.eq = lambda *a: True
def f(x): return 0
""",
    "replaces json.loads": """
import json
json.loads = json.JSONDecoder.decode = lambda *a, **k: 2
json.dumps = lambda *a, **k: '["answer", 2, [], ""]'
def f(x): return 0
""",
    "replaces math": """
import math
math.isclose = math.fabs = lambda *a, **k: True
def f(x): return 0
""",
    "defines the helpers": """
def abs(x): return 0
def sorted(x): return [0, 2]
def all(x): return True
def isinstance(*a): return True
def str(x): return "2"
class math: isclose = staticmethod(lambda *a: True)
def f(x): return 0
""",
    "replaces unittest": """
import unittest
unittest.TestCase.assertEqual = lambda *a: None
def f(x): return 0
""",
    "replaces the main module": """
import sys, __main__
for module in list(sys.modules.values()):
    if getattr(module, "__name__", "").startswith(("__main__", "drpo_cli")):
        for name in list(vars(module)):
            if callable(vars(module)[name]) and not name.startswith("__"):
                setattr(module, name, lambda *a, **k: True)
def f(x): return 0
""",
    "replaces operations": """
import sys
for module in list(sys.modules.values()):
    for name in ("OPERATIONS", "ATOMS"):
        for key in getattr(module, name, {}):
            getattr(module, name)[key] = lambda *a, **k: E()
def f(x): return E()
""",
    "replaces built-ins by a timer": """
import builtins, threading
def change():
    builtins.AssertionError = int
    builtins.abs = builtins.len = lambda *a: 0
    builtins.isinstance = lambda *a: True
for wait in (0.001, 0.01, 0.05): threading.Timer(wait, change).start()
def f(x):
    import time
    time.sleep(0.06)
    return 0
""",
    "replaces built-ins in the call": """
def f(x):
    import builtins
    builtins.AssertionError = int
    builtins.all = builtins.isinstance = lambda *a: True
    return E()
""",
    "replaces built-ins by a thread": """
import builtins, threading
def run():
    while True: builtins.compile = builtins.exec = lambda *a, **k: None
threading.Thread(target=run, daemon=True).start()
def f(x): return 0
""",
    "by the garbage collector": """
import gc, sys
def act(*a):
    for frame in sys._current_frames().values():
        while frame:
            for name in ("passed", "value", "encoded", "found"):
                if name in frame.f_locals: frame.f_locals[name] = True
            frame = frame.f_back
gc.callbacks.append(act)
gc.set_threshold(1, 1, 1)
def f(x): return 0
""",
    "by fork hooks": """
import os
os.register_at_fork(before=lambda: 1, after_in_parent=lambda: os._exit(0),
    after_in_child=lambda: os.write(3, b'{"passed": 0}\\n'))
def f(x): return 0
""",
    "by the socket's import": """
import builtins
kept = builtins.__import__
def new(name, *a, **k):
    if name == "socket": return E()
    return kept(name, *a, **k)
builtins.__import__ = new
import socket
socket.socket.send = socket.socket.sendall = lambda *a: None
def f(x): return 0
""",
    "answers by itself": """
import os, json
def say(*lines):
    for fd in range(3, 64):
        for line in lines:
            try: os.write(fd, line + b"\\n")
            except OSError: pass
def f(x):
    say(b'{"passed": 0}', b'["gone"]', b'["answer", true, [], ""]')
    return 0
""",
    "answers for a test": """
import os, itertools
def f(x):
    for n in itertools.chain(range(40), [2]):
        pass
    for fd in range(64):
        try: os.write(fd, b'["answer", ["mine", 0, "int"], [], ""]\\n["answer", 1, [], ""]\\n')
        except OSError: pass
    os._exit(0)
""",
    "sends a function to run": """
import os
def f(x):
    line = b'["answer", ["builtin", "bool"], [], ""]\\n'
    for fd in range(64):
        try: os.write(fd, line)
        except OSError: pass
    os._exit(0)
""",
    "asks the judge": """
import os
asks = [b'["ask", "name", ["passed"], {}, ["dict", []]]', b'["ask", "get", ["x", "__class__"], {}, ["dict", []]]',
        b'["ask", "set", [["yours", 0], "broken", true], {}, ["dict", []]]']
def f(x):
    for fd in range(64):
        for ask in asks:
            try: os.write(fd, ask + b"\\n")
            except OSError: pass
    return 0
""",
    "nests deeply": """
def f(x):
    v = E()
    for _ in range(90): v = [v]
    return v
""",
    "is endless": "def f(x):\n    v = []\n    v.append(v)\n    return v",
    "raises what ends loops": "def f(x): raise StopIteration",
    "raises its own": "class X(BaseException):\n    __eq__ = lambda s, o: True\ndef f(x): raise X(2)",
    "raises an exit": "def f(x): raise SystemExit(0)",
    "raises a keyboard's": "def f(x): raise KeyboardInterrupt",
    "exits while it loads": "import sys\nsys.exit(0)",
    "exits at once": "import os\nos._exit(0)",
    "exits in the call": "import os\ndef f(x): os._exit(0)",
    "ends at exit": "import atexit, os\natexit.register(os._exit, 0)\ndef f(x): return 0",
    "prints": "def f(x): print('{\"passed\": 0}')",
    "traces": "import sys\nsys.settrace(lambda fr, *a: fr.f_locals.clear())\ndef f(x): return 0",
    "kills the judge": """
import os, signal
def f(x):
    os.kill(os.getppid(), signal.SIGKILL)
    return 0
""",
    "stops the judge's clock": """
import resource, os
def f(x):
    for pid in range(1, os.getpid()):
        try: resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, 0))
        except OSError: pass
    return 0
""",
    "reads the judge": """
import os, re
def f(x):
    for pid in os.listdir("/proc"):
        for name in ("mem", "environ", "maps", "fd/3", "fd/0"):
            try:
                with open(f"/proc/{pid}/{name}", "r+b") as file: file.write(b'{"passed": 0}')
            except (OSError, ValueError): pass
    return 0
""",
    "plants modules": """
import os
for name in ("math", "json", "fractions", "unittest", "operator", "sitecustomize"):
    open(name + ".py", "w").write("isclose = eq = loads = Fraction = TestCase = lambda *a: True")
def f(x): return 0
""",
    "has no function": "x = 1",
    "is no Python": "def f(x) return",
}
