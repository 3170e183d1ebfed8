"""How commands speak: data on standard output (tables, or JSON), everything else on standard error."""

import errno
import os
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

WIDE = 200
"""Columns of a table that goes into a file or a pipe: nobody's screen limits it."""


def _fill_closed() -> None:
    """Give a closed standard descriptor to the null device.

    The next file opened would get its number, and uvloop aborts the process when it closes one of
    the three. `sys.stdin` stays None, so that nobody takes the null device for input.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - as long as we run
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115


class _Console(Console):
    """A console that leaves it to the command what a reader who has gone means for its work."""

    def on_broken_pipe(self) -> None:
        """Raise what was raised, where rich would end the process."""
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


_fill_closed()
out = _Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else WIDE)
err = _Console(stderr=True, highlight=False, soft_wrap=True, width=None if sys.stderr.isatty() else WIDE)


def as_json(value: object) -> str:
    """Return `value` (structs included) as one line of JSON."""
    return msgspec.json.encode(value, enc_hook=str).decode()


def print_json(value: object) -> None:
    """Write `value` as one line of JSON, flushed, so that a pipe sees it at once."""
    sys.stdout.write(as_json(value) + "\n")
    sys.stdout.flush()


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Table:
    """Return a table whose numeric columns are aligned right."""
    kept = [list(row) for row in rows]
    made = Table(title=title or None, title_justify="left", header_style="bold")
    for number, name in enumerate(columns):
        right = bool(kept) and all(isinstance(row[number], int | float) for row in kept)
        made.add_column(name, justify="right" if right else "left", overflow="fold")
    for row in kept:
        made.add_row(*(shown(cell) for cell in row))
    return made


def shown(value: object) -> str:
    """Return a cell as people read it."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:,.2f}"
    if isinstance(value, datetime):
        return moment(value)
    return printable(str(value))


def printable(text: str) -> str:
    """Return `text` with control characters escaped: it may come from anyone, and goes to a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def moment(when: datetime | None) -> str:
    """Return a time in UTC to the millisecond."""
    if when is None:
        return "–"
    return when.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.") + f"{when.microsecond // 1000:03d}Z"


def counted(count: int, what: str) -> str:
    """Return `1 session`, `2 sessions`: a number with its noun, which takes an s."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def size(count: float) -> str:
    """Return bytes in binary units."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:,.0f} {unit}" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1024
    return f"{count:,.1f} TiB"
