"""From defaults, file, environment and flags to `Settings`, or to everything that is wrong with them.

Nothing else in the package reads the environment. A wrong value is never replaced by a default: the
start ends, with every problem at once.
"""

import os
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from lucid_events.config.declaring import MASK, Field, value_at
from lucid_events.config.http import HttpSettings, Service, http_problems
from lucid_events.config.retention import retention_problems
from lucid_events.config.screen import screen_problems
from lucid_events.config.settings import Settings, fields
from lucid_events.config.stages import stage_problems
from lucid_events.domain.codecs import check_level
from lucid_events.errors import ConfigError

_VARIABLE = re.compile(r"\b[A-Z][A-Z_]+\b")

NOT_USED = ("MONGODB_URL", "REDIS_URL")
"""Accepted and reported as not used: the event log and its views took their place (ADR-0001)."""


class _Given(msgspec.Struct, frozen=True):
    """One value as it was given: by which name, from where."""

    value: object
    name: str
    source: str

    def problem(self, field: Field, what: str) -> str:
        shown = MASK if field.secret else repr(self.value)
        allowed = f" (allowed: {field.limits})" if field.limits else ""
        return f"{self.name}={shown} from {self.source}: {what}{allowed}"


def load_settings(
    environ: Mapping[str, str],
    *,
    file: Path | None = None,
    flags: Mapping[str, object] | None = None,
    options: Mapping[str, str] | None = None,
    services: Sequence[Service] = (),
) -> Settings:
    """Return the settings, later sources over earlier ones: defaults, `file`, `environ`, `flags`.

    Args:
        environ: variables; an empty one counts as unset.
        file: TOML; groups are tables.
        flags: path of a setting (`nats_url`, `http.host`) -> value; None counts as not given.
        options: path of a setting -> the option of the command line that sets it; `--` and the last part
            of the path where none is named.
        services: HTTP services that this process is about to run; what they can't run with is
            refused as well.

    Raises:
        ConfigError: with every problem at once: the name, the value, its source, what is allowed.
    """
    problems: list[str] = []
    given = _collect(environ, file, flags or {}, problems, options)
    values: dict[str, Any] = {}
    for field in fields():
        if (one := given.get(field.name)) is not None:
            try:
                values[field.name] = _converted(one.value, field)
            except msgspec.ValidationError as exc:
                problems.append(one.problem(field, str(exc)))
    settings = _built(values)
    problems += _problems(settings, services, frozenset(values), given)
    if problems:
        raise ConfigError("settings are wrong:\n  " + "\n  ".join(problems), problems=problems)
    return settings


def given(environ: Mapping[str, str], file: Path | None, name: str) -> bool:
    """Return whether `name` was set by `environ` or `file`, rather than left at its default."""
    return name in _collect(environ, file, {}, [])


def masked(settings: Settings) -> dict[str, object]:
    """Return the settings fit to be shown, groups as objects: secrets and passwords in URLs are masked."""
    shown: dict[str, object] = {}
    for field in fields():
        *groups, name = field.name.split(".")
        place = shown
        for group in groups:
            place = place.setdefault(group, {})  # type: ignore[assignment]  # a group is an object
        place[name] = masked_value(field, value_at(settings, field.name))
    return shown


def masked_value(field: Field, value: object) -> object:
    """Return the value of one setting fit to be shown."""
    if field.secret and value:
        return MASK
    return ",".join(map(_without_password, value.split(","))) if field.env == "NATS_URL" else value  # type: ignore[attr-defined]  # text


def idle_settings(environ: Mapping[str, str], file: Path | None) -> list[str]:
    """Return what was set and has no effect, with the reason; a service says it at its start."""
    set_ones = _collect(environ, file, {}, [])
    found = [
        f"{set_ones[field.name].name}: {field.idle}"
        for field in fields()
        if field.idle and field.name in set_ones
    ]
    # The name alone: such a URL carries a password.
    return found + [f"{name}: the event log took its place" for name in NOT_USED if environ.get(name)]


def _collect(
    environ: Mapping[str, str],
    file: Path | None,
    flags: Mapping[str, object],
    problems: list[str],
    options: Mapping[str, str] | None = None,
) -> dict[str, _Given]:
    known = fields()
    names = {field.name for field in known}
    found: dict[str, _Given] = {}
    for path, value in _flattened(_from_file(file, problems) if file else {}, names):
        found[path] = _Given(value, path, str(file))
    for field in known:
        texts = [(name, environ.get(name, "")) for name in (field.env, field.also) if name]
        texts = [(name, text) for name, text in texts if text]
        if len({text for _, text in texts}) > 1:
            said = ", ".join(f"{name}={field.shown(text)}" for name, text in texts)
            problems.append(f"{said} from the environment: one setting under two names, unset one")
        for name, text in texts[:1]:
            found[field.name] = _Given(text, name, "the environment")
    for path, value in flags.items():
        if value is not None:
            found[path] = _Given(value, (options or {}).get(path, _option(path)), "the command line")
    problems += [
        f"{one.name}: no such setting in {one.source}" for path, one in found.items() if path not in names
    ]
    return found


def _flattened(table: Mapping[str, object], names: set[str], under: str = "") -> Iterable[tuple[str, object]]:
    for key, value in table.items():
        path = f"{under}{key}"
        if isinstance(value, Mapping) and any(name.startswith(f"{path}.") for name in names):
            yield from _flattened(value, names, f"{path}.")
        else:
            yield path, value


def _option(path: str) -> str:
    return "--" + path.rpartition(".")[2].replace("_", "-")


def _converted(value: object, field: Field) -> object:
    given = value
    if isinstance(field.default, tuple):
        given = value.split(",") if isinstance(value, str) else value
        if isinstance(given, list | tuple):
            given = [one.strip() if isinstance(one, str) else one for one in given]
            given = [one for one in given if one != ""]
    return msgspec.convert(given, field.kind, strict=not isinstance(value, str))


def _built(values: Mapping[str, Any]) -> Settings:
    """Return settings with `values` at their paths and defaults everywhere else."""

    def build(default: Any, under: str) -> Any:
        changes = {}
        for name in default.__struct_fields__:
            path, current = f"{under}{name}", getattr(default, name)
            if path in values:
                changes[name] = values[path]
            elif isinstance(current, msgspec.Struct):
                changes[name] = build(current, f"{path}.")
        return msgspec.structs.replace(default, **changes)

    return build(Settings(), "")  # type: ignore[no-any-return]  # what goes in comes out


def _problems(
    settings: Settings, services: Sequence[Service], set_ones: frozenset[str], given: Mapping[str, _Given]
) -> list[str]:
    """Return what is wrong between settings that are each fit alone."""
    found = []
    try:
        check_level(settings.codec, settings.level)
    except ConfigError as exc:
        found.append(f"LUCID_COMPRESSION, LUCID_COMPRESSION_LEVEL: {exc}")
    found += stage_problems(settings.stage_names)
    found += retention_problems(settings.retention)
    found += screen_problems(settings.screen)
    found += http_problems(settings.http, services, set_ones)
    if services:
        found += _unreadable(settings.http)
        found += _unwritable("LUCID_RECORDING_PATH", settings.spool)
        found += _unwritable("LUCID_CHUNK_OUTPUT_PATH", settings.chunk_output)
    return [_with_sources(problem, given) for problem in found]


def _with_sources(problem: str, given: Mapping[str, _Given]) -> str:
    """Say after `problem` where the settings that it begins with were given."""
    named = _VARIABLE.findall(problem.partition(": ")[0])
    ones = [given[field.name] for field in fields() if field.env in named and field.name in given]
    if not ones:
        return problem
    where = ", ".join(dict.fromkeys(f"{one.name} from {one.source}" for one in ones))
    return f"{problem} ({where})"


def _unreadable(http: HttpSettings) -> list[str]:
    named = {
        "LUCID_ACCESS_FILE": http.access_file,
        "LUCID_TLS_CERT": http.tls_cert,
        "LUCID_TLS_KEY": http.tls_key,
        "LUCID_TLS_CLIENT_CA": http.tls_client_ca,
    }
    return [
        f"{name}={path}: there is no such file, or it can't be read"
        for name, path in named.items()
        if path and not (Path(path).is_file() and os.access(path, os.R_OK))
    ]


def _unwritable(name: str, folder: str) -> list[str]:
    if not folder:
        return []
    there = Path(folder).absolute()
    while not there.exists():
        there = there.parent
    if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
        return []
    return [f"{name}={folder}: {there} is no directory that can be written to"]


def _without_password(url: str) -> str:
    scheme, found, rest = url.strip().partition("://")
    user, at, host = rest.rpartition("@")
    return f"{scheme}{found}{MASK}@{host}" if at and user else url.strip()


def _from_file(file: Path, problems: list[str]) -> Mapping[str, object]:
    try:
        with file.open("rb") as opened:
            return tomllib.load(opened)
    except OSError as exc:
        problems.append(f"{file}: {exc.strerror}")
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        problems.append(f"{file}: not TOML: {exc}")
    return {}
