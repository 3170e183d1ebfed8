"""Settings of the two HTTP services: where they listen, who may ask, what they tell.

Which port a service takes depends on whether it is alone in its process; that rule lives here.
"""

import ipaddress
from collections.abc import Sequence
from typing import Annotated, Literal

from msgspec import Meta

from lucid_events.config.declaring import Group, setting
from lucid_events.errors import ConfigError

Service = Literal["pipeline", "recorder"]
"""The two HTTP services: the pipeline manager and the session recorder."""

DEFAULT_NAMES: dict[Service, str] = {
    "pipeline": "lucid-pipeline-manager",
    "recorder": "lucid-session-recorder",
}


class HttpSettings(Group, frozen=True, kw_only=True):
    """What the HTTP services are told; `port_of` and `name_of` say what a service goes by."""

    service_name: Annotated[
        str, setting("SERVICE_NAME", "name in answers; unset: that of the service", max_length=100)
    ] = ""
    host: Annotated[
        str, setting("HOST", "address to listen on; beyond loopback only with access control")
    ] = "127.0.0.1"
    port: Annotated[
        Annotated[int, Meta(ge=1, le=65535)] | None,
        setting("PORT", "port of the one service of a process; an error with two", allowed=">= 1, <= 65535"),
    ] = None
    pipeline_port: Annotated[
        int, setting("PIPELINE_PORT", "port of the pipeline manager", ge=1, le=65535)
    ] = 8083
    recorder_port: Annotated[
        int, setting("RECORDER_PORT", "port of the session recorder", ge=1, le=65535)
    ] = 8084
    max_body_mib: Annotated[
        int,
        setting(
            "LUCID_MAX_BODY_MB", "most bytes one request may push; they are not held", "MiB", ge=1, le=10**6
        ),
    ] = 16384
    cors_origins: Annotated[
        tuple[str, ...],
        setting("CORS_ORIGINS", "origins a browser may ask from; unset: none", allowed="a,b,…, or *"),
    ] = ()
    metrics_enabled: Annotated[bool, setting("METRICS_ENABLED", "whether `/metrics` answers")] = True
    metrics_port: Annotated[
        Annotated[int, Meta(ge=1, le=65535)] | None,
        setting(
            "LUCID_METRICS_PORT",
            "where a process without HTTP services shows `/metrics` and `/health`; unset: nowhere",
            allowed=">= 1, <= 65535",
        ),
    ] = None
    health_check_interval_s: Annotated[
        float,
        setting("HEALTH_CHECK_INTERVAL", "oldest finding a health check answers with", "s", gt=0, le=3600),
    ] = 30.0
    access_file: Annotated[
        str, setting("LUCID_ACCESS_FILE", "tokens (hashed) and certificates, with their roles")
    ] = ""
    insecure: Annotated[bool, setting("LUCID_INSECURE", "listen beyond loopback without access control")] = (
        False
    )
    tls_cert: Annotated[str, setting("LUCID_TLS_CERT", "certificate chain of the services, PEM")] = ""
    tls_key: Annotated[str, setting("LUCID_TLS_KEY", "its private key, PEM; unset: in the same file")] = ""
    tls_client_ca: Annotated[
        str, setting("LUCID_TLS_CLIENT_CA", "authorities whose client certificates identify, PEM")
    ] = ""
    trusted_proxies: Annotated[
        tuple[str, ...],
        setting(
            "LUCID_TRUSTED_PROXIES",
            "peers whose `Lucid-Client-Subject` header stands for the certificate they checked",
            allowed="addresses or networks: a,b,…",
        ),
    ] = ()
    commands: Annotated[
        tuple[str, ...],
        setting(
            "LUCID_RECORDING_COMMANDS", "programs that `POST /recordings/start` may run", allowed="a,b,…"
        ),
    ] = ()

    def port_of(self, service: Service, *, alone: bool) -> int:
        """Return the port of `service`; `alone` says that it has the process for itself."""
        if alone and self.port is not None:
            return self.port
        return self.pipeline_port if service == "pipeline" else self.recorder_port

    def name_of(self, service: Service) -> str:
        """Return what `service` calls itself."""
        return self.service_name or DEFAULT_NAMES[service]

    @property
    def access_controlled(self) -> bool:
        """Whether anybody has to say who they are."""
        return bool(self.access_file)


def is_loopback(host: str) -> bool:
    """Return whether `host` is reached from this machine alone.

    >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, True, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False  # a name may lead anywhere


def http_problems(http: HttpSettings, services: Sequence[Service], given: frozenset[str]) -> list[str]:
    """Return what is wrong for a process that runs `services`; `given` names what was set at all."""
    found = []
    if len(services) > 1:
        if http.port is not None:
            found.append(
                f"PORT={http.port}: two services can't share a port, set PIPELINE_PORT and RECORDER_PORT"
            )
        if http.service_name:
            found.append(f"SERVICE_NAME={http.service_name}: two services can't share a name, unset it")
        if http.pipeline_port == http.recorder_port:
            found.append(
                f"PIPELINE_PORT={http.pipeline_port}, RECORDER_PORT={http.recorder_port}: must differ"
            )
    elif services and http.port is not None and f"http.{services[0]}_port" in given:
        own = f"{services[0].upper()}_PORT={http.port_of(services[0], alone=False)}"
        found.append(f"PORT={http.port}, {own}: both name the port of this service, unset one")
    found += _exposed(http) if services else []
    return found + _unfit_tls(http) + _unfit_proxies(http)


def refuse_exposed(host: str, http: HttpSettings) -> None:
    """Refuse to listen on `host` when that lets strangers in.

    Raises:
        ConfigError: it is not loopback, nobody has to say who they are, and `LUCID_INSECURE` is not set.
    """
    if problems := _exposed(http, host):
        raise ConfigError(problems[0])


def _exposed(http: HttpSettings, host: str | None = None) -> list[str]:
    where = http.host if host is None else host
    if is_loopback(where) or http.access_controlled or http.insecure:
        return []
    return [
        f"HOST={where}: everybody who reaches it could record and erase; set LUCID_ACCESS_FILE "
        "(make it with `lucid tokens add`), or LUCID_INSECURE=1 if something in front checks who asks"
    ]


def _unfit_tls(http: HttpSettings) -> list[str]:
    found = []
    if http.tls_key and not http.tls_cert:
        found.append(f"LUCID_TLS_KEY={http.tls_key}: a key without LUCID_TLS_CERT")
    if http.tls_client_ca and not http.tls_cert:
        found.append(f"LUCID_TLS_CLIENT_CA={http.tls_client_ca}: client certificates need LUCID_TLS_CERT")
    if http.tls_client_ca and not http.access_file:
        found.append(
            f"LUCID_TLS_CLIENT_CA={http.tls_client_ca}: certificates have roles only in LUCID_ACCESS_FILE"
        )
    return found


def _unfit_proxies(http: HttpSettings) -> list[str]:
    found = []
    for proxy in http.trusted_proxies:
        try:
            ipaddress.ip_network(proxy, strict=False)
        except ValueError:
            found.append(f"LUCID_TRUSTED_PROXIES: {proxy!r} is neither an address nor a network")
    if http.trusted_proxies and not http.access_file:
        found.append("LUCID_TRUSTED_PROXIES: subjects have roles only in LUCID_ACCESS_FILE")
    return found
