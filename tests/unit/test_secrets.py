"""Secrets are masked wherever they may be shown or written."""

from __future__ import annotations

import base64
import html
import json
import urllib.parse
from collections.abc import Callable

import pytest

from drpo_cli import secrets

KEY = 'sk-a"b\\c/d+é&<12>'


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_KEY", KEY)
    secrets.keep(["THE_KEY"])


def in_base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


WAYS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "json": json.dumps,
    "json without ascii": lambda text: json.dumps(text, ensure_ascii=False),
    "json twice": lambda text: json.dumps(json.dumps(text)),
    "json of slashes": lambda text: json.dumps(text).replace("/", "\\/"),
    "every letter escaped": lambda text: "".join(f"\\u{ord(one):04X}" for one in text),
    "repr": repr,
    "ascii": ascii,
    "bytes": lambda text: repr(text.encode()),
    "repr of json": lambda text: repr(json.dumps(text)),
    "url": lambda text: urllib.parse.quote(text, safe=""),
    "url in lower case": lambda text: urllib.parse.quote(text, safe="").lower(),
    "form": urllib.parse.quote_plus,
    "html": html.escape,
    "base64": in_base64,
    "basic authentication": lambda text: in_base64(f"user:{text}"),
    "base64, moved by one": lambda text: in_base64(f"u:{text}!"),
    "base64, moved by two": lambda text: in_base64(f"me:{text}!"),
    "base64 for urls": lambda text: base64.urlsafe_b64encode(text.encode()).decode(),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_secret_is_masked_however_it_is_written(way: str) -> None:
    written = WAYS[way](KEY)
    masked = secrets.mask(f"before {written} after")
    assert masked.startswith("before ") and masked.endswith(" after")
    left = masked.removeprefix("before ").removesuffix(" after")
    assert secrets.MASK in left and len(left.replace(secrets.MASK, "")) <= 12
    assert not any(part in left for part in (KEY, KEY[:6], KEY[6:], written[4:-4]))


def test_a_masked_line_of_json_is_json() -> None:
    for text in (KEY, f'"{KEY}"', f"\\{KEY}\\", f"\n{KEY}\n", f'{{"{KEY}": "\\n"}}'):
        assert json.loads(secrets.mask(json.dumps({"a": text})))["a"].count(secrets.MASK) == 1


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("Bearer abcdefgh", "the key abcdefgh"),
        ("Basic " + in_base64("user:password"), "the password password"),
        ("abcdefgh\n", "the key abcdefgh"),
    ],
)
def test_what_follows_a_scheme_is_the_secret(
    value: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THE_KEY", value)
    assert secrets.mask(shown).endswith(f" {secrets.MASK}")
    assert secrets.mask("Bearer of good news, and Basic") == "Bearer of good news, and Basic"


def test_what_is_too_short_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_KEY", "12345")
    assert secrets.mask("12345 of 123456") == "12345 of 123456"


def test_a_longer_secret_comes_before_one_that_it_begins_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("THE_KEY", "abcdef")
    monkeypatch.setenv("OTHER_KEY", "abcdefgh")
    secrets.keep(["OTHER_KEY"])
    assert secrets.mask("abcdefgh abcdef") == f"{secrets.MASK} {secrets.MASK}"


@pytest.mark.parametrize("name", ["OPENAI_API_KEY", "HF_TOKEN", "WANDB_API_KEY"])
def test_keys_that_libraries_read_are_secret(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "hidden-value")
    assert secrets.mask("a hidden-value") == f"a {secrets.MASK}"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("see https://user:pass@host/x", "see https://***@host/x"),
        ("see postgresql+psycopg://u:p@host", "see postgresql+psycopg://***@host"),
        ("https://host/x?y=1&api_key=abc&z=2", "https://host/x?y=1&api_key=***&z=2"),
        ("https://host?X-Amz-Signature=abc#a", "https://host?X-Amz-Signature=***#a"),
        ("https://host/a@b?y=1", "https://host/a@b?y=1"),
        ("mail me@host, or a:b@c", "mail me@host, or a:b@c"),
    ],
)
def test_secrets_in_urls(text: str, shown: str) -> None:
    assert secrets.mask_urls(text) == shown
    assert secrets.in_url(text.removeprefix("see ")) == (text != shown)
