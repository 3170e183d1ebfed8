"""How to reach a NATS server, and what the client library is told about it."""

import ssl
from typing import Any

import msgspec

from lucid_events.errors import ConfigError

DEFAULT_SERVER = "nats://127.0.0.1:4222"

SCHEMES = ("nats", "tls", "ws", "wss")

PENDING_BYTES = 64 * 1024 * 1024
"""Bytes that may wait for the socket. A recorder pipelines up to two 10 MiB chunks per session and a
chunk handler writes several objects at once; the client's own 2 MB would stop after one capture
message. Twice as much only delays the moment a slow server is noticed, half throttles three sessions."""

PING_INTERVAL_S = 15.0
"""A dead peer is noticed after at most three of these; the client's default of 120 s would leave
recorders writing into the void for minutes."""

RECONNECT_WAIT_S = 0.25
"""Pause before the same server is tried again; twice as long shows in every restart of the server."""

REQUEST_TIMEOUT_S = 5.0
CONNECT_TIMEOUT_S = 5.0

_SECRET = ("password", "token", "nkey_seed")


class NatsOptions(msgspec.Struct, frozen=True, kw_only=True, repr_omit_defaults=True):
    """Where the server is, who we are, and how long to wait; secrets are masked in its repr.

    At most one of `creds`, `nkey_seed`, `token` and `user` says who we are. `creds` is a path,
    `nkey_seed` the seed itself or a path to it; both are read again at every connect, so a renewed
    file is picked up.
    """

    servers: tuple[str, ...] = (DEFAULT_SERVER,)
    name: str = "lucid_events"
    creds: str | None = None
    nkey_seed: str | None = None
    user: str | None = None
    password: str | None = None
    token: str | None = None
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    tls_hostname: str | None = None
    tls_first: bool = False
    inbox_prefix: str = "_INBOX"
    api_prefix: str = "$JS.API"
    """`$JS.<domain>.API` for a JetStream domain, another prefix for an import."""
    connect_timeout_s: float = CONNECT_TIMEOUT_S
    request_timeout_s: float = REQUEST_TIMEOUT_S
    ping_interval_s: float = PING_INTERVAL_S
    pending_bytes: int = PENDING_BYTES

    def __repr__(self) -> str:
        shown = []
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if value is not None:
                shown.append(f"{name}={'***' if name in _SECRET else repr(value)}")
        return f"NatsOptions({', '.join(shown)})"

    @property
    def server(self) -> str:
        """The servers as messages name them, without the credentials a URL may carry."""
        return ", ".join(_without_secret(url) for url in self.servers)


def domain_prefix(domain: str) -> str:
    """Return the API prefix of a JetStream domain."""
    return f"$JS.{domain}.API"


def client_options(options: NatsOptions) -> dict[str, Any]:
    """Return the keyword arguments for the client's `connect`.

    Raises:
        ConfigError: a certificate, a key or an identity's file cannot be read, or two identities are given.
    """
    identities = [n for n in ("creds", "nkey_seed", "token", "user") if getattr(options, n) is not None]
    if len(identities) > 1:
        raise ConfigError(f"two ways to log in are set ({' and '.join(identities)}): keep one")
    _check_identity_file("credentials", options.creds)
    if options.nkey_seed is not None and not _is_seed(options.nkey_seed):
        _check_identity_file("nkey seed", options.nkey_seed)
    for url in options.servers:
        if (scheme := url.partition("://")[0]) not in SCHEMES and "://" in url:
            raise ConfigError(
                f"{_without_secret(url)} is no NATS server: {scheme}:// is another protocol, use "
                f"nats://HOST:PORT (or {', '.join(f'{one}://' for one in SCHEMES[1:])})"
            )
    known: dict[str, Any] = {
        "servers": list(options.servers),
        "name": options.name,
        "inbox_prefix": options.inbox_prefix,
        "pending_size": options.pending_bytes,
        "ping_interval": options.ping_interval_s,
        "max_outstanding_pings": 2,
        "max_reconnect_attempts": -1,
        "reconnect_time_wait": RECONNECT_WAIT_S,
        "connect_timeout": options.connect_timeout_s,
        "flush_timeout": 2 * options.request_timeout_s,
        "tls": _tls(options),
        "tls_hostname": options.tls_hostname,
        "tls_handshake_first": options.tls_first,
        "user": options.user,
        "password": options.password,
        "token": options.token,
        "user_credentials": options.creds,
    }
    if options.nkey_seed is not None:
        known["nkeys_seed_str" if _is_seed(options.nkey_seed) else "nkeys_seed"] = options.nkey_seed
    return {name: value for name, value in known.items() if value is not None}


def _is_seed(text: str) -> bool:
    """Whether it is a seed; everything else is the path of a file that holds one."""
    return text.startswith("SU") and "/" not in text


def _check_identity_file(what: str, path: str | None) -> None:
    """Refuse a file that can't be read: the client opens it only when the server asks who we are."""
    if path is None:
        return
    try:
        with open(path, "rb"):
            pass
    except OSError as exc:
        shown = path if what == "credentials" else "the file named"  # a mistyped seed is no path, but secret
        raise ConfigError(
            f"the {what} file can't be read: {shown}: {exc.strerror}; it is given by NATS_CREDS, "
            "NATS_NKEY_SEED or the context"
        ) from exc


def _tls(options: NatsOptions) -> ssl.SSLContext | None:
    wanted = options.tls_ca or options.tls_cert or options.tls_first
    if not wanted and not any(url.startswith(("tls://", "wss://")) for url in options.servers):
        return None
    try:
        context = ssl.create_default_context(cafile=options.tls_ca)
        if options.tls_cert:
            context.load_cert_chain(options.tls_cert, options.tls_key)
    except (OSError, ssl.SSLError) as exc:
        files = f"ca={options.tls_ca}, cert={options.tls_cert}, key={options.tls_key}"
        raise ConfigError(f"TLS files cannot be used ({files}): {exc}") from exc
    return context


def _without_secret(url: str) -> str:
    scheme, separator, rest = url.rpartition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"
