"""The corpus of broken specs: tests/corpus/specs/README.md says how a case is written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "corpus" / "specs"
REWARDS = "def good(completion): ...\ndef asks(reply): ...\nNUMBER = 3\n"
Mark = tuple[int | None, int, int | None]
"""Line (None on the command line), column, and end column (None where it is on another line)."""


@dataclass
class Case:
    """A wrong spec, the messages for it with their places, and the same spec fixed."""

    title: str
    old: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)
    fixed: list[str] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
    options: list[str] = field(default_factory=list)

    def write(self, folder: Path, fixed: bool = False) -> tuple[Path, list[str], list[Mark]]:
        """Writes the spec and its files; returns its path, its overrides, and its marks."""
        (folder / "rewards.py").write_text(REWARDS)
        base = (FOLDER / "base.toml").read_text(encoding="utf-8")
        old = "".join(f"{line}\n" for line in self.old)
        assert base.count(old) >= 1, f"{self.title}: not in base.toml: {old}"
        lines = (self.fixed or self.old) if fixed else self.new
        text = base.replace(old, "".join(f"{line}\n" for line in lines).replace("\\t", "\t"), 1)
        overrides = []
        for option in self.options:
            name, _, value = option.partition(" ")
            if name == "file":
                file, _, content = value.partition(" = ")
                (folder / file).write_text(content)
            elif name == "set" and not fixed:
                overrides.append(value)
        found = [*marks(text), *((None, *m[1:]) for o in overrides for m in marks(f"--set {o}"))]
        text = text.replace("«", "").replace("»", "")
        text = text.replace("\n", "\r\n") if "crlf" in self.options else text
        path = folder / "run.toml"
        path.write_bytes(text.encode("utf-8-sig" if "bom" in self.options else "utf-8"))
        return path, [one.replace("«", "").replace("»", "") for one in overrides], found


def cases() -> Iterator[Case]:
    """Every case of every file."""
    for path in sorted(FOLDER.glob("*.md")):
        if path.name == "README.md":
            continue
        case = None
        for line in path.read_text(encoding="utf-8").splitlines():
            kind, text = line[:1], line[2:]
            if line.startswith("## "):
                if case is not None:
                    yield case
                case = Case(f"{path.stem}: {line[3:]}")
            elif case is not None and kind in "-!+>%" and line:
                parts = {
                    "-": case.old,
                    "!": case.new,
                    "+": case.fixed,
                    ">": case.messages,
                    "%": case.options,
                }
                parts[kind].append(text)
        assert case is not None
        yield case


def marks(text: str) -> list[Mark]:
    """The marked spans of a text, as if the marks were not there."""
    found: list[Mark] = []
    for number, line in enumerate(text.split("\n"), 1):
        column, start = 1, None
        for character in line:
            if character == "«":
                start = column
            elif character == "»":
                if start is not None:
                    found.append((number, start, column))
                start = None
            else:
                column += 1
        if start is not None:
            found.append((number, start, None))
    return found
