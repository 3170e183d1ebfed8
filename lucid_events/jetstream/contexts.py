"""Contexts of the `nats` command-line tool: named ways to reach a server, kept in files."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lucid_events.errors import ConfigError
from lucid_events.jetstream.options import NatsOptions, domain_prefix

_same_name = ("user", "password", "token", "creds", "inbox_prefix")
_unsupported = ("nsc", "user_jwt", "socks_proxy", "windows_cert_store")


def context_folder(environment: Mapping[str, str]) -> Path:
    """Return where contexts are kept, as the tool decides it."""
    base = environment.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path("~/.config").expanduser()) / "nats"


def selected_context(environment: Mapping[str, str]) -> str | None:
    """Return the name of the context that `nats context select` chose, None when there is none."""
    try:
        return (context_folder(environment) / "context.txt").read_text().strip() or None
    except OSError:
        return None


def load_context(name: str, environment: Mapping[str, str]) -> NatsOptions:
    """Return the options a context stands for; paths in it may begin with `~`.

    Raises:
        ConfigError: there is no such context, it is broken, or it uses what we don't support.
    """
    folder = context_folder(environment) / "context"
    if Path(name).name != name:
        raise ConfigError(f"context {name!r} is not a name: use one of those `nats context ls` shows")
    try:
        read: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
    except FileNotFoundError:
        there = sorted(path.stem for path in folder.glob("*.json"))
        raise ConfigError(
            f"there is no NATS context {name!r}: use one of {', '.join(there) or '(none)'}"
        ) from None
    except (OSError, ValueError) as exc:
        raise ConfigError(f"NATS context {name!r} can't be read: {exc}") from exc
    for key in _unsupported:
        if read.get(key):
            raise ConfigError(
                f"NATS context {name!r} uses {key!r}, which is not supported: use creds or nkey"
            )
    return _options({key: value for key, value in read.items() if value not in ("", None)})


def _options(read: Mapping[str, Any]) -> NatsOptions:
    values: dict[str, Any] = {key: read[key] for key in _same_name if key in read}
    if "url" in read:
        values["servers"] = tuple(url.strip() for url in read["url"].split(","))
    for ours, theirs in (("tls_ca", "ca"), ("tls_cert", "cert"), ("tls_key", "key"), ("nkey_seed", "nkey")):
        if theirs in read:
            values[ours] = _path(read[theirs])
    if "creds" in values:
        values["creds"] = _path(values["creds"])
    if read.get("tls_first"):
        values["tls_first"] = True
    if "jetstream_api_prefix" in read:
        values["api_prefix"] = read["jetstream_api_prefix"]
    elif "jetstream_domain" in read:
        values["api_prefix"] = domain_prefix(read["jetstream_domain"])
    return NatsOptions(**values)


def _path(text: str) -> str:
    return str(Path(text).expanduser())
