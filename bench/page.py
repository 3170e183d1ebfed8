"""Puts rows of a table into a page, between its markers; rows of what was not measured stay."""

from collections.abc import Sequence
from pathlib import Path

from bench.measure import HEADINGS, aligned

BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"


def write(page: Path, rows: Sequence[list[str]]) -> None:
    """Replace the rows of `page` that have the same measure and rival as one of `rows`; new ones follow."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    shown, _, after = rest.partition(END)
    kept = {_key(row): row for row in _rows(shown)}
    kept |= {_key(row): row for row in rows}
    text = aligned([HEADINGS, *kept.values()])
    page.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


def _rows(shown: str) -> list[list[str]]:
    lines = [line for line in shown.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def _key(row: list[str]) -> tuple[str, str]:
    return row[0], row[2]
