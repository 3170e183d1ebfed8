"""Contexts of the `nats` command-line tool: named ways to reach a server, kept in files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from lucid_events.errors import ConfigError
from lucid_events.jetstream.options import NatsOptions, domain_prefix

_same_name = ("user", "password", "token", "creds", "inbox_prefix")
_unsupported = ("nsc", "user_jwt", "socks_proxy", "windows_cert_store")


class _Context(msgspec.Struct, frozen=True, kw_only=True):
    """What we read of a context's file, as the tool names it; empty counts as unset."""

    url: str | None = None
    user: str | None = None
    password: str | None = None
    token: str | None = None
    creds: str | None = None
    nkey: str | None = None
    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    tls_first: bool | None = None
    inbox_prefix: str | None = None
    jetstream_domain: str | None = None
    jetstream_api_prefix: str | None = None
    nsc: str | None = None
    user_jwt: str | None = None
    socks_proxy: str | None = None
    windows_cert_store: str | None = None


_decode = msgspec.json.Decoder(_Context).decode


def context_folder(environment: Mapping[str, str]) -> Path:
    """Return where contexts are kept, as the tool decides it."""
    base = environment.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path("~/.config").expanduser()) / "nats"


def load_context(name: str, environment: Mapping[str, str]) -> NatsOptions:
    """Return the options a context stands for; paths in it may begin with `~`.

    Raises:
        ConfigError: there is no such context, it is broken, or it uses what we don't support.
    """
    folder = context_folder(environment) / "context"
    if Path(name).name != name:
        raise ConfigError(f"context {name!r} is not a name: use one of those `nats context ls` shows")
    file = folder / f"{name}.json"
    try:
        read = _decode(file.read_bytes())
    except FileNotFoundError:
        there = sorted(path.stem for path in folder.glob("*.json"))
        raise ConfigError(
            f"there is no NATS context {name!r}: use one of {', '.join(there) or '(none)'}"
        ) from None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise ConfigError(
            f"NATS context {name!r} can't be read from {file}: {exc}; mend it with `nats context edit {name}`"
        ) from exc
    for key in _unsupported:
        if getattr(read, key):
            raise ConfigError(
                f"NATS context {name!r} uses {key!r}, which is not supported: use creds or nkey"
            )
    return _options(read)


def _options(read: _Context) -> NatsOptions:
    values: dict[str, Any] = {key: value for key in _same_name if (value := getattr(read, key))}
    if read.url:
        values["servers"] = tuple(url.strip() for url in read.url.split(","))
    files = {"creds": read.creds, "tls_ca": read.ca, "tls_cert": read.cert, "tls_key": read.key}
    for ours, path in {**files, "nkey_seed": read.nkey}.items():
        if path:
            values[ours] = str(Path(path).expanduser())
    if read.tls_first:
        values["tls_first"] = True
    if read.jetstream_api_prefix:
        values["api_prefix"] = read.jetstream_api_prefix
    elif read.jetstream_domain:
        values["api_prefix"] = domain_prefix(read.jetstream_domain)
    return NatsOptions(**values)
