"""Retired event shapes -> the next one, so that a stored event decodes for ever.

An upcaster takes the decoded body of its version and returns (wire name of the next version,
body of that version); `codec.py` applies them until it reaches a current type. None is retired
yet; a retired version keeps its schema and golden sample in `schemas/`.
"""

from collections.abc import Callable, Mapping

Body = dict[str, object]
Upcaster = Callable[[Body], tuple[str, Body]]

UPCASTERS: Mapping[str, Upcaster] = {}
