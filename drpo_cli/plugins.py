"""Finds plugins: the folder is the registry.

`type = "drpo"` is `drpo_cli/objectives/drpo.py`; `type = "my_pkg.my_mod"` or
`"my_pkg.my_mod:name"` is installed code, and so is a name that an installed package registers as an
entry point of the group `drpo.<kind>`; `type = "./rewards.py:name"` is a file relative to the spec.
A plugin has one entry, named in `KINDS`, and may have a `Config`: the class of its options.
"""

from __future__ import annotations

import builtins
import difflib
import hashlib
import importlib
import importlib.util
import inspect
import pkgutil
import re
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, NamedTuple, TypeVar

from drpo_cli import secrets, settings
from drpo_cli.errors import UserError


class Kind(NamedTuple):
    """A kind of plugin: its noun, the name of its entry, and the base class of its `Config`."""

    noun: str
    entry: str
    base: type[settings.Settings]

    @property
    def a_noun(self) -> str:
        """The noun after its article: `an objective`."""
        return f"{'an' if self.noun[0] in 'aeiou' else 'a'} {self.noun}"


KINDS = {
    "data": Kind("data source", "load", settings.SourceSettings),
    "rollout": Kind("rollout engine", "Engine", settings.RolloutSettings),
    "environments": Kind("environment", "Environment", settings.EnvironmentSettings),
    "rewards": Kind("reward", "reward", settings.RewardSettings),
    "advantages": Kind("advantage", "advantages", settings.AdvantageSettings),
    "objectives": Kind("objective", "loss", settings.ObjectiveSettings),
    "trackers": Kind("tracker", "Tracker", settings.TrackerSettings),
}

_user_folders: list[str] = []
"""Folders of users' plugin files, at the end of sys.path; the last one loaded comes first."""

S_co = TypeVar("S_co", bound=settings.Settings, covariant=True)


@dataclass(frozen=True)
class Plugin(Generic[S_co]):
    """A loaded plugin, built in or the user's own.

    entry           its function or class, e.g. the `loss` of an objective (`KINDS` has the names)
    Config          the class of its options; the base class of its kind if it has none
    doc             its docstring

    A plugin may declare more, in constants of the same names in capitals (`INLINE = True`), and
    `regime` and `needs_answer` in functions:

    examples        inputs with their results; the tests run the examples of built-in plugins
    needs           what has to run before the plugin can be tried, in words
    imports         modules that it imports when it is called; those of a reward are imported once,
                    before its processes start
    min_group       advantage: the smallest group that it can compare
    token_level     advantage: computes one advantage per token, from the values of a critic
    sees_turns      advantage: has an argument `turns_PG`, and gets the turns of every episode in it
    sequence_level  objective: looks at all tokens of a response for each of them, so it needs one
                    advantage for all of them
    inline          reward: fast and sure to return, so it needs no process of its own
    needs_answer    reward: maps its options to whether it fails on a row without an answer
    client          tracker: the package that it sends with; the drpo extra has the same name
    regime          objective: maps its options to a sentence for `drpo check` on what happens to a
                    token whose probability moved
    """

    kind: str
    name: str
    entry: Callable[..., Any]
    Config: type[S_co]
    doc: str = ""
    examples: tuple[Any, ...] = ()
    needs: str = ""
    imports: tuple[str, ...] = ()
    min_group: int = 1
    token_level: bool = False
    sees_turns: bool = False
    sequence_level: bool = False
    inline: bool = False
    needs_answer: Callable[[Any], bool] | None = None
    client: str | None = None
    regime: Callable[[Any], str] | None = None


NOT_THE_USERS = (
    __file__,
    *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
)
"""Folders of library code: their frames say little about a mistake in the user's code."""


@dataclass(frozen=True)
class Selected(Generic[S_co]):
    """A plugin as a spec selects it: its kind and type, and its validated options."""

    kind: str
    type: str
    config: S_co

    @property
    def plugin(self) -> Plugin[S_co]:
        """The plugin itself. Raises AbsentKeyError in a spec whose `type` is wrong."""
        if not self.type:
            raise settings.AbsentKeyError("type")
        return load(self.kind, self.type)

    def describe(self) -> str:
        """Its type and options; those that all plugins of its kind have, where they are changed."""
        shared = KINDS[self.kind].base().model_dump(mode="json").items()
        given = self.config.model_dump(mode="json", exclude_none=True).items()
        options = ", ".join(f"{key} {value}" for key, value in given if (key, value) not in shared)
        return f"{self.type} ({options})" if options else self.type


def available(kind: str) -> list[str]:
    """Names of the built-in plugins of a kind, without importing them."""
    folder = Path(__file__).parent / kind
    return sorted(
        m.name for m in pkgutil.iter_modules([str(folder)]) if not m.ispkg and m.name[0] != "_"
    )


def installed(kind: str) -> dict[str, str]:
    """Plugins of a kind in installed packages, as name → `package.module:name`."""
    return {entry.name: entry.value for entry in metadata.entry_points(group=f"drpo.{kind}")}


def names(kind: str) -> list[str]:
    """Names of the plugins of a kind: the built-in ones, then those of installed packages."""
    return list(dict.fromkeys([*available(kind), *installed(kind)]))


def load(kind: str, type: str, folder: Path | None = None) -> Plugin[Any]:
    """Imports the plugin called `type`.

    `folder` is the folder that a relative file in `type` counts from (the spec's folder).
    Raises UserError when there is no such plugin, or the user's own code does not import or is
    not a plugin of this kind.
    """
    if type in available(kind):
        module = importlib.import_module(f"drpo_cli.{kind}.{type}")
        return _plugin(kind, type, module, getattr(module, KINDS[kind].entry), module.__doc__)
    registered = installed(kind).get(type)
    where, name = split_type(registered or type)
    if where.endswith(".py"):
        module = _load_file(KINDS[kind].noun, type, (folder or Path.cwd()) / where)
    elif registered or "." in where:
        module = _load_module(KINDS[kind].noun, type, where)
    else:
        raise UserError(_unknown(kind, type))
    noun, entry = KINDS[kind].noun, KINDS[kind].entry
    if not hasattr(module, name or entry):
        what = "class" if entry[0].isupper() else "function"
        raise UserError(
            f"{noun} {type!r}: {module.__file__} has no {name or entry!r}",
            f"name the {what} after a colon, or call it {entry!r}",
        )
    found = getattr(module, name or entry)
    return _plugin(kind, type, module, found, found.__doc__ or module.__doc__)


def find(noun: str, type: str, folder: Path) -> Any:
    """What `./file.py:name` or `package.module:name` names, which need not be a plugin.

    `noun` says in messages what it should be. Raises UserError where there is no such thing, or the
    user's own code does not import.
    """
    where, name = split_type(type)
    if not name:
        write = f"{type}:name"
        raise UserError(f"{noun} {type!r} has no name", f"write it after a colon: {write!r}")
    if where.endswith(".py"):
        module = _load_file(noun, type, folder / where)
    else:
        module = _load_module(noun, type, where)
    if not hasattr(module, name):
        close = difflib.get_close_matches(name, vars(module), n=1)
        hint = f"did you mean {close[0]!r}?" if close else "define it there, or correct the name"
        raise UserError(f"{noun} {type!r}: {module.__file__} has no {name!r}", hint)
    return getattr(module, name)


def split_type(type: str) -> tuple[str, str]:
    """`./file.py:name` → file and name, `package.module:name` → module and name; "" for no name.

    Folders may hold colons: a file ends at the last `.py`.
    """
    file = re.fullmatch(r"(.*\.py)(?::([^/]*))?", type, re.DOTALL)
    if file:
        return file[1], file[2] or ""
    where, _, name = type.partition(":")
    return where, name


def absolute(type: str, folder: Path) -> str:
    """`type` with an absolute path where it names a file, so that it is valid in any folder."""
    where, name = split_type(type)
    if not where.endswith(".py"):
        return type
    return f"{(folder / where).resolve()}{name and ':'}{name}"


def short_name(type: str) -> str:
    """`./rewards.py:tidy` → tidy, `my_package.judge` → judge, `exact_match` → exact_match."""
    where, name = split_type(type)
    return name or (Path(where).stem if where.endswith(".py") else where.rpartition(".")[2])


def _unknown(kind: str, type: str) -> str:
    noun, known = KINDS[kind].noun, names(kind)
    close = difflib.get_close_matches(type, known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    listed = f"there are: {', '.join(known)}; or " if known else ""
    return (
        f"there is no {noun} {type!r}; {hint}{listed}"
        "write your own: './file.py:name' or 'package.module'"
    )


def _load_file(noun: str, type: str, path: Path) -> ModuleType:
    if not path.is_file():
        raise UserError(f"{noun} {type!r}: there is no file {path}")
    # The name is the same in every process, so that its objects can be pickled between them.
    digest = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]
    name = f"drpo_user_{re.sub(r'[^0-9A-Za-z_]', '_', path.stem)}_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs, because dataclasses look up their module
    try:
        with _neighbours(path.resolve().parent):
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        del sys.modules[name]
        raise UserError(f"{noun} {type!r}: {where_it_broke(error)}") from error
    return module


@contextmanager
def _neighbours(folder: Path) -> Iterator[None]:
    """Lets a user's file import its neighbours; what is installed comes before them.

    Otherwise a user's `math_verify.py` would replace the library of that name for us too. Inside,
    names that the folder shares with those of other users' files are imported again: every file
    gets its own neighbours. What a function imports later is searched in all these folders.
    """
    own = str(folder)
    if own in sys.path and own not in _user_folders:
        yield  # the user's own choice, with PYTHONPATH or by an installation
        return
    sys.path[:] = [place for place in sys.path if place not in _user_folders]
    others = [other for other in _user_folders if other != own]
    for top in [name for name in sys.modules if "." not in name]:
        if not ((folder / f"{top}.py").is_file() or (folder / top).is_dir()):
            continue
        module = sys.modules[top]
        places = [*getattr(module, "__path__", ()), getattr(module, "__file__", None) or ""]
        if str(Path(places[0]).parent) in others:
            for name in [one for one in sys.modules if one.partition(".")[0] == top]:
                del sys.modules[name]
    _user_folders[:] = [own, *others]
    sys.path.append(own)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path += others


def _load_module(noun: str, type: str, where: str) -> ModuleType:
    try:
        return importlib.import_module(where)
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        raise UserError(
            f"{noun} {type!r}: module {where!r} does not import: "
            f"{where_it_broke(error)}; is it installed in {sys.prefix}?"
        ) from error


def where_it_broke(error: BaseException, frames: int = 3, most: int = 2000) -> str:
    """The message of an error, cut to `most` characters, and its place in the user's code.

    The place is the innermost `frames` of the user's code, or of libraries if there are no others.
    """
    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno}: {error.msg}"
    stack = [f for f in traceback.extract_tb(error.__traceback__) if f.filename[:7] != "<frozen"]
    own = [f for f in stack if not f.filename.startswith(NOT_THE_USERS)] or stack
    trail = " → ".join(f"{f.filename}:{f.lineno} in {f.name}" for f in own[-frames:])
    words = secrets.mask(str(error))  # before it is cut, or half a secret would be left
    words = words if len(words) <= most else f"{words[: most - 1]}…"
    return f"{error.__class__.__name__}: {words} ({trail})"


def _plugin(kind: str, type: str, module: ModuleType, entry: Any, doc: str | None) -> Plugin[Any]:
    """Builds a Plugin from what a module declares; an entry may have its own `Config`."""
    base = KINDS[kind].base
    config = getattr(entry, "Config", getattr(module, "Config", base))
    if not (isinstance(config, builtins.type) and issubclass(config, base)):
        what = f"{KINDS[kind].noun} {type!r}: its Config must extend drpo_cli.settings."
        raise UserError(f"{what}{base.__name__}")
    declared = vars(module)
    return Plugin(
        kind=kind,
        name=type,
        entry=entry,
        Config=config,
        doc=inspect.cleandoc(doc or ""),
        examples=tuple(declared.get("EXAMPLES", ())),
        needs=declared.get("NEEDS", ""),
        imports=tuple(declared.get("IMPORTS", ())),
        min_group=declared.get("MIN_GROUP", 1),
        token_level=declared.get("TOKEN_LEVEL", False),
        sees_turns=kind == "advantages" and "turns_PG" in _arguments(entry),
        sequence_level=declared.get("SEQUENCE_LEVEL", False),
        inline=declared.get("INLINE", False),
        needs_answer=declared.get("needs_answer"),
        client=declared.get("CLIENT"),
        regime=declared.get("regime"),
    )


def _arguments(entry: Any) -> frozenset[str]:
    """The names of a function's arguments; none where it does not tell."""
    try:
        return frozenset(inspect.signature(entry).parameters)
    except (TypeError, ValueError):
        return frozenset()
