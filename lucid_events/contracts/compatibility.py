"""Whether a schema may take the place of one that has landed.

The rule is the same for events, commands and replies, and strict, because readers and writers of
several ages share the wire: a version may only gain optional fields. Everything else (a field gone,
of another type, newly required, with other limits or another default) is a new version.
"""

from collections.abc import Iterator
from typing import Any

from lucid_events.contracts.schemas import Document

_SAYS_NOTHING = frozenset({"title", "description", "$schema", "$defs", "examples"})


def breaks(landed: Document, now: Document) -> list[str]:
    """Return what makes `now` incompatible with `landed`, one sentence each; nothing when it is fine.

    >>> text, number = {"type": "string"}, {"type": "integer"}
    >>> breaks({"properties": {"a": text}}, {"properties": {"a": number, "b": text}})
    ["a.type was 'string' and is 'integer'"]
    """
    return list(_breaks(_resolved(landed, landed), _resolved(now, now), ""))


def _breaks(landed: Any, now: Any, at: str) -> Iterator[str]:
    if not (isinstance(landed, dict) and isinstance(now, dict)):
        if landed != now:
            yield f"{at or 'it'} was {landed!r} and is {now!r}"
        return
    for key in sorted({*landed, *now} - _SAYS_NOTHING):
        where = f"{at}.{key}" if at else key
        if key == "properties":
            yield from _fields(landed.get(key, {}), now.get(key, {}), at)
        elif key == "required":
            yield from _required(landed.get(key, []), now.get(key, []), at)
        elif isinstance(landed.get(key), list) and isinstance(now.get(key), list):
            yield from _items(landed[key], now[key], where)
        else:
            yield from _breaks(landed.get(key), now.get(key), where)


def _fields(landed: Document, now: Document, at: str) -> Iterator[str]:
    for name, schema in landed.items():
        where = f"{at}.{name}" if at else name
        if name not in now:
            yield f"{where} is gone"
        else:
            yield from _breaks(schema, now[name], where)


def _required(landed: list[str], now: list[str], at: str) -> Iterator[str]:
    for name in sorted(set(landed) ^ set(now)):
        where = f"{at}.{name}" if at else name
        yield f"{where} is newly required" if name in now else f"{where} is no longer always there"


def _items(landed: list[Any], now: list[Any], at: str) -> Iterator[str]:
    if len(landed) != len(now):
        yield f"{at} was {landed!r} and is {now!r}"
        return
    for number, (old, new) in enumerate(zip(landed, now, strict=True)):
        yield from _breaks(old, new, f"{at}[{number}]")


def _resolved(value: Any, root: Document) -> Any:
    """Return `value` with every reference replaced by what it refers to; structs don't recur."""
    if isinstance(value, list):
        return [_resolved(item, root) for item in value]
    if not isinstance(value, dict):
        return value
    reference = value.get("$ref")
    if isinstance(reference, str) and reference.startswith("#/$defs/"):
        return _resolved(root["$defs"][reference.removeprefix("#/$defs/")], root)
    return {key: _resolved(item, root) for key, item in value.items() if key != "$defs"}
