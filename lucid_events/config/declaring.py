"""How a setting is declared, and the list of all of them that documents, checks and masks are made from.

A setting is an annotated field of a frozen struct; groups of settings are structs in structs. Its
variable, unit and reason travel in the annotation, so nothing about a setting is written twice.
"""

from collections.abc import Iterator
from typing import Any, get_type_hints

import msgspec
from msgspec import Meta

MASK = "********"


class Group(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of a group of settings: a table of the file, an attribute of `Settings`."""


class Field(msgspec.Struct, frozen=True, kw_only=True):
    """One setting as documented.

    `name` is its path in a file (`http.port`), `env` its variable, `also` an older variable that
    is still read, `limits` what is allowed, in words, and `idle` why it has no effect, if it has none.
    """

    name: str
    env: str
    also: str = ""
    unit: str = ""
    default: object
    limits: str = ""
    why: str
    idle: str = ""
    secret: bool = False
    kind: Any

    def shown(self, value: object) -> str:
        """Return `value` as a problem or a table may show it."""
        if self.secret:
            return MASK
        if isinstance(value, bool):
            return str(value).lower()
        return ",".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def setting(
    env: str,
    why: str,
    unit: str = "",
    *,
    also: str = "",
    allowed: str = "",
    idle: str = "",
    secret: bool = False,
    **limits: Any,
) -> Meta:
    """Return the annotation of a setting; `limits` are those of `msgspec.Meta`, checked on load."""
    extra = {"env": env, "unit": unit, "also": also, "allowed": allowed, "idle": idle, "secret": secret}
    return Meta(description=why, extra=extra, **limits)


def fields_of(kind: type[msgspec.Struct], *, under: str = "") -> Iterator[Field]:
    """Yield every setting declared in `kind` and in its groups, in order."""
    hints = get_type_hints(kind, include_extras=True)
    for field in msgspec.structs.fields(kind):
        hint, path = hints[field.name], f"{under}{field.name}"
        if isinstance(field.default, Group):
            yield from fields_of(type(field.default), under=f"{path}.")
            continue
        meta = _meta(hint)
        extra = meta.extra or {}
        yield Field(
            name=path,
            env=extra["env"],
            also=extra["also"],
            unit=extra["unit"],
            default=field.default,
            limits=extra["allowed"]
            or _limits(meta)
            or ("true, false" if isinstance(field.default, bool) else ""),
            why=meta.description or "",
            idle=extra["idle"],
            secret=extra["secret"],
            kind=hint,
        )


def value_at(settings: msgspec.Struct, name: str) -> Any:
    """Return the value of the setting with that path."""
    value: Any = settings
    for part in name.split("."):
        value = getattr(value, part)
    return value


def _meta(hint: Any) -> Meta:
    return next(one for one in hint.__metadata__ if isinstance(one, Meta) and one.extra is not None)


def _limits(meta: Meta) -> str:
    limits = [f"> {meta.gt:g}"] if meta.gt is not None else []
    limits += [f">= {meta.ge:g}"] if meta.ge is not None else []
    limits += [f"<= {meta.le:g}"] if meta.le is not None else []
    return ", ".join(limits)
