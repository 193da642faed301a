"""Writes tables of `compare.json` files into Markdown pages, between markers.

A page says `<!-- compare: PATH.json TABLE -->` and `<!-- /compare -->`; the path counts from the
folder of the page. `python -m drpo_cli.tools.compare.pages PAGE.md…` writes what belongs between
them; with `--check` it writes nothing, and fails when a page is not up to date.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from drpo_cli.errors import EXIT_RUN_FAILED, EXIT_USER_ERROR, UserError
from drpo_cli.tools.compare.report import Report, read_report
from drpo_cli.tools.compare.tables import make_page_tables, table_to_markdown

END = "<!-- /compare -->"
PLACE = re.compile(r"(<!-- compare: (\S+) (\w+) -->\n)(.*?)^" + re.escape(END), re.S | re.M)


def fill(page: Path) -> str:
    """The page's text with its tables written again.

    Raises UserError for a file without a report, a table that it lacks, and a marker without end.
    """
    text = page.read_text(encoding="utf-8")
    begun, places = text.count("<!-- compare: "), len(PLACE.findall(text))
    if begun != places:
        raise UserError(
            f"{page}: has {begun} markers `<!-- compare: PATH TABLE -->` and {places} with an end",
            f"write {END} on a line after each",
        )

    def write(place: re.Match[str]) -> str:
        path = (page.parent / place[2]).resolve()
        tables = {table.name: table for table in make_page_tables(_read(path))}
        if place[3] not in tables:
            what = f"{page}: {place[2]} has no table {place[3]}"
            raise UserError(what, f"name one of {', '.join(tables)}")
        return f"{place[1]}\n{table_to_markdown(tables[place[3]])}\n\n{END}"

    return PLACE.sub(write, text)


def main(arguments: Sequence[str]) -> int:
    """Fills or checks the pages of a command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("pages", nargs="+", type=Path)
    parser.add_argument("--check", action="store_true", help="Only fail if a page is out of date.")
    given = parser.parse_args(arguments)
    code = 0
    try:
        for page in given.pages:
            filled = fill(page)
            if filled == page.read_text(encoding="utf-8"):
                continue
            if given.check:
                sys.stderr.write(f"{page}: is not what its compare.json files give\n")
                code = EXIT_RUN_FAILED
            else:
                page.write_text(filled, encoding="utf-8")
    except (UserError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_USER_ERROR
    return code


@cache
def _read(path: Path) -> Report:
    return read_report(path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
