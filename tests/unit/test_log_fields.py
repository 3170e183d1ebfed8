"""What log lines carry: a field under another name would be left out without a word."""

import ast
from pathlib import Path

import lucid_events
from lucid_events.logs import FIELDS

PACKAGE = Path(lucid_events.__file__).parent


def test_every_field_of_a_log_line_is_written() -> None:
    """Each key given as `extra`, anywhere in the package, is one of `FIELDS`."""
    found = {
        key.value
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.keyword) and node.arg == "extra" and isinstance(node.value, ast.Dict)
        for key in node.value.keys
        if isinstance(key, ast.Constant)
    }
    assert found - set(FIELDS) == set()
    assert len(found) > 10, "no log lines were found"
