"""Finds plugins: the folder is the registry.

`type = "drpo"` is `drpo_cli/objectives/drpo.py`; `type = "my_pkg.my_mod"` or
`"my_pkg.my_mod:name"` is installed code, and so is a name that an installed package registers as an
entry point of the group `drpo.<kind>`; `type = "./rewards.py:name"` is a file beside the spec.
A plugin has a `Config` (or takes its kind's base settings) and one entry, named in `KINDS`.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import pkgutil
import sys
import sysconfig
import traceback
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

from drpo_cli import settings
from drpo_cli.errors import UserError


class Kind(NamedTuple):
    """A kind of plugin: what one is called, its entry, and the base of its `Config`."""

    noun: str
    entry: str
    base: type[settings.Settings]


KINDS = {
    "data": Kind("data source", "load", settings.SourceSettings),
    "rollout": Kind("rollout engine", "Engine", settings.RolloutSettings),
    "rewards": Kind("reward", "reward", settings.RewardSettings),
    "advantages": Kind("advantage", "advantages", settings.AdvantageSettings),
    "objectives": Kind("objective", "loss", settings.ObjectiveSettings),
    "trackers": Kind("tracker", "Tracker", settings.TrackerSettings),
}


TRAITS = {
    "MIN_GROUP": 1,
    "TOKEN_LEVEL": False,
    "SEQUENCE_LEVEL": False,
    "INLINE": False,
    "IMPORTS": (),
    "regime": None,
}
"""What a plugin may say of itself, with what it is when it does not.

MIN_GROUP       (advantage) the smallest group it has anything to say of
TOKEN_LEVEL     (advantage) gives every token an advantage of its own, from a critic's values
SEQUENCE_LEVEL  (objective) looks at a whole response, so it needs one advantage for all of it
INLINE          (reward) so quick and so sure to end that it needs no process of its own
IMPORTS         (reward) modules it imports when called, imported once before its processes start
regime          (objective) function of its options: a sentence for `drpo check` on what becomes of
                a token whose probability moved
"""

NOT_THE_USERS = (
    __file__,
    *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
)
"""Where the code lies whose frames say little of a mistake in the user's."""


@dataclass(frozen=True)
class Selected:
    """A plugin as a spec selects it: its kind and type, and its validated options."""

    kind: str
    type: str
    config: settings.Settings

    @property
    def module(self) -> Any:
        """The plugin itself: an object with `Config` and the kind's entry."""
        return load(self.kind, self.type)


def available(kind: str) -> list[str]:
    """Names of the built-in plugins of a kind, without importing them."""
    folder = Path(__file__).parent / kind
    return sorted(
        m.name for m in pkgutil.iter_modules([str(folder)]) if not m.ispkg and m.name[0] != "_"
    )


def installed(kind: str) -> dict[str, str]:
    """Plugins of a kind that installed packages bring, as name → `package.module:name`."""
    return {entry.name: entry.value for entry in metadata.entry_points(group=f"drpo.{kind}")}


def names(kind: str) -> list[str]:
    """Names that select a plugin of a kind: the built-in ones, then those of installed packages."""
    return list(dict.fromkeys([*available(kind), *installed(kind)]))


def load(kind: str, type: str, folder: Path | None = None) -> Any:
    """The plugin called `type`: an object with `Config` and the kind's entry.

    `folder` is what a relative file in `type` counts from (the spec's folder).
    Raises UserError when there is no such plugin or the user's own code does not import.
    """
    if type in available(kind):
        return importlib.import_module(f"drpo_cli.{kind}.{type}")
    registered = installed(kind).get(type)
    where, _, name = (registered or type).partition(":")
    if where.endswith(".py"):
        module = _load_file(kind, type, (folder or Path.cwd()) / where)
    elif registered or "." in where:
        module = _load_module(kind, type, where)
    else:
        raise UserError(_unknown(kind, type))
    return _as_plugin(kind, type, module, name)


def absolute(type: str, folder: Path) -> str:
    """`type` with a relative file made absolute, so that it means the same from anywhere."""
    where, colon, name = type.partition(":")
    return f"{(folder / where).resolve()}{colon}{name}" if where.endswith(".py") else type


def short_name(type: str) -> str:
    """`./rewards.py:tidy` → tidy, `my_package.judge` → judge, `exact_match` → exact_match."""
    where, _, name = type.partition(":")
    return name or (Path(where).stem if where.endswith(".py") else where.rpartition(".")[2])


def _unknown(kind: str, type: str) -> str:
    noun, known = KINDS[kind].noun, names(kind)
    close = difflib.get_close_matches(type, known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return (
        f"there is no {noun} {type!r}; {hint}there are: {', '.join(known)}; "
        f"your own: './file.py:name' or 'package.module'"
    )


def _load_file(kind: str, type: str, path: Path) -> ModuleType:
    if not path.is_file():
        raise UserError(f"{KINDS[kind].noun} {type!r}: there is no file {path}")
    # the same in every process, so that what a class of it made can go from one to the other
    digest = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]
    name = f"drpo_user_{path.stem}_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs: its dataclasses look themselves up there
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the user's code may raise anything
        del sys.modules[name]
        raise UserError(f"{KINDS[kind].noun} {type!r}: {where_it_broke(error)}") from error
    return module


def _load_module(kind: str, type: str, where: str) -> ModuleType:
    try:
        return importlib.import_module(where)
    except Exception as error:  # the user's code may raise anything
        raise UserError(
            f"{KINDS[kind].noun} {type!r}: module {where!r} does not import: "
            f"{where_it_broke(error)}; is it installed in {sys.prefix}?"
        ) from error


def where_it_broke(error: BaseException, frames: int = 3, most: int = 2000) -> str:
    """What an error says, at `most` so many characters, and where in the user's code it arose.

    Frames of libraries are told only when there are no others; the innermost ones are.
    """
    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno}: {error.msg}"
    stack = [f for f in traceback.extract_tb(error.__traceback__) if f.filename[:7] != "<frozen"]
    own = [f for f in stack if not f.filename.startswith(NOT_THE_USERS)] or stack
    trail = " → ".join(f"{f.filename}:{f.lineno} in {f.name}" for f in own[-frames:])
    words = str(error)
    words = words if len(words) <= most else f"{words[: most - 1]}…"
    return f"{error.__class__.__name__}: {words} ({trail})"


def _as_plugin(kind: str, type: str, module: ModuleType, name: str) -> Any:
    noun, entry, base = KINDS[kind]
    wanted = name or entry
    if not hasattr(module, wanted):
        raise UserError(
            f"{noun} {type!r}: {module.__file__} has no {wanted!r}; "
            f"name the function after a colon, or call it {entry!r}"
        )
    found = getattr(module, wanted)
    return SimpleNamespace(
        Config=getattr(found, "Config", getattr(module, "Config", base)),
        EXAMPLES=getattr(module, "EXAMPLES", ()),
        __doc__=getattr(found, "__doc__", None) or module.__doc__,
        **{trait: getattr(module, trait, default) for trait, default in TRAITS.items()},
        **{entry: found},
    )
