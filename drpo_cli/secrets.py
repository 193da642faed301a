"""Masks secrets in messages, tracebacks, prints and records.

A secret is the value of an environment variable that an option `*_env` names, or of one that a
client library reads by itself. Values of fewer than `SHORTEST` characters are left alone: they
would occur in ordinary text, and masking them would garble it and say what they are.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import sys
import traceback
from collections.abc import Iterable, Iterator
from functools import lru_cache
from types import TracebackType
from typing import Any, TextIO

MASK = "***"
SHORTEST = 6
_SCHEMES = ("bearer", "basic", "token", "apikey", "api-key", "key")
_names = {
    "AWS_SECRET_ACCESS_KEY",
    "HF_TOKEN",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "OPENAI_API_KEY",
    "WANDB_API_KEY",
}
_URL = re.compile(r"(?i)[a-z][a-z0-9+.-]*://\S+")
_IN_URL = re.compile(
    r"""(?ix) (?<=://) [^\s/?\#@"'<>]+ (?=@)
      | ( [?&] (?: [\w.-]* [_.-] )? (?: api | access | auth )?
          (?: key | token | secret | password | passwd | pwd | signature | sig | auth ) = )
        [^&\s\#"'<>]+"""
)


def keep(names: Iterable[str]) -> None:
    """Masks the values of these environment variables from now on, here and in forks."""
    _names.update(names)


def mask(text: str) -> str:
    """The text with each secret replaced, also where it is escaped or encoded."""
    values = frozenset(os.environ[name] for name in _names if name in os.environ)
    plain, escaped = _patterns(values)
    if plain is None or escaped is None:
        return text
    text = plain.sub(MASK, text)
    return escaped.sub(MASK, text) if any(sign in text for sign in "\\%&") else text


def mask_urls(text: str, whole: bool = False) -> str:
    """The text with user, password and keys in its URLs replaced; `whole` keeps its length."""

    def masked(found: re.Match[str]) -> str:
        kept = found[1] or ""
        return kept + ("*" * (len(found[0]) - len(kept)) if whole else MASK)

    return _IN_URL.sub(masked, text)


def is_secret(text: str) -> bool:
    """Whether the text is a secret, whole."""
    return mask(text) == MASK != text


def in_url(text: str) -> bool:
    """Whether the text is a URL that holds a user, a password or a key."""
    return bool(_URL.fullmatch(text.strip()) and _IN_URL.search(text))


def guard_streams() -> None:
    """Masks what this process prints from now on, tracebacks included, if Python prints it."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, _MaskedStream):
            setattr(sys, name, _MaskedStream(stream))


def print_exception(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Prints a masked traceback: to be `sys.excepthook`."""
    sys.stderr.write(mask("".join(traceback.format_exception(kind, error, trace))))


class _MaskedStream:
    """A text stream that masks what is written to it; one write holds a secret whole."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Writes the text, masked."""
        self._stream.write(mask(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Writes the lines, masked."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@lru_cache(maxsize=8)
def _patterns(values: frozenset[str]) -> tuple[re.Pattern[str] | None, re.Pattern[str] | None]:
    """What finds the secrets as they are and in base64, and what finds them escaped."""
    found = {form for value in values for form in _forms(value) if len(form) >= SHORTEST}
    if not found:
        return None, None
    secrets = sorted(found, key=len, reverse=True)  # one may begin with another
    plain = [re.escape(form) for one in secrets for form in (one, *_in_base64(one))]
    escaped = ["".join(map(_escapes, one)) for one in secrets]
    return re.compile("|".join(plain)), re.compile("|".join(escaped))


def _forms(value: str) -> Iterator[str]:
    """The value, what follows the scheme in it, and what that encodes: `Basic dXNlcjpwYXNz`."""
    value = value.strip()
    yield value
    scheme, _, rest = value.partition(" ")
    if scheme.lower() not in _SCHEMES:
        return
    yield rest.strip()
    if scheme.lower() == "basic":
        try:
            pair = base64.b64decode(rest, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            return
        yield pair
        yield pair.partition(":")[2]


def _in_base64(secret: str) -> Iterator[str]:
    """What every base64 text has in common that holds the secret, whatever stands around it."""
    data = secret.encode(errors="surrogateescape")
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + data)
        inside = encoded[(before * 8 + 5) // 6 : (before + len(data)) * 8 // 6].decode()
        yield inside
        yield inside.translate({ord("+"): "-", ord("/"): "_"})


def _escapes(character: str) -> str:
    """A pattern of a character as URLs, JSON, Python's `repr` and HTML may write it."""
    if character.isascii() and character.isalnum():
        ways = [character]
    else:  # a quote or a backslash may have backslashes before it
        ways = [rf"\\*{re.escape(character)}"]
    units = character.encode("utf-16-be", "surrogatepass")
    pairs = [units[i : i + 2].hex() for i in range(0, len(units), 2)]
    ways.append("".join(rf"\\+u(?i:{unit})" for unit in pairs))
    octets = character.encode("utf-8", "surrogatepass")
    ways.append("".join(f"%(?i:{octet:02x})" for octet in octets))
    ways.append("".join(rf"\\+x(?i:{octet:02x})" for octet in octets))
    if ord(character) < 256:
        ways.append(rf"\\+x(?i:{ord(character):02x})")
    ways.append(f"&#(?:0*{ord(character)}|(?i:x0*{ord(character):x}));")
    ways += {
        "&": ["&amp;"],
        "<": ["&lt;"],
        ">": ["&gt;"],
        '"': ["&quot;"],
        " ": [r"\+"],
        "\n": [r"\\+n"],
        "\t": [r"\\+t"],
        "\r": [r"\\+r"],
    }.get(character, [])
    return f"(?:{'|'.join(ways)})"
