"""`lucid serve`: the REST services beside a pipeline that is up, or one of them alone."""

from enum import StrEnum
from types import ModuleType
from typing import Annotated

import typer

from lucid_events.cli.collecting import collect_rarely
from lucid_events.cli.operations import stop_event
from lucid_events.cli.output import err, print_json
from lucid_events.cli.running import Json, Server, run, settings
from lucid_events.config import Service
from lucid_events.errors import ConfigError


class Which(StrEnum):
    """Which services a process runs."""

    PIPELINE = "pipeline"
    RECORDER = "recorder"
    ALL = "all"

    @property
    def services(self) -> tuple[Service, ...]:
        """Their names."""
        both: tuple[Service, ...] = ("pipeline", "recorder")
        return both if self is Which.ALL else tuple(one for one in both if one == self.value)


Host = Annotated[str | None, typer.Option("--host", help="Address to listen on, instead of HOST.")]
Port = Annotated[
    int | None, typer.Option("--port", min=0, max=65535, help="Port of one service; 0 takes a free one.")
]


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(serve)


def serve(
    which: Annotated[Which, typer.Argument(help="The service to run, or both.")] = Which.ALL,
    host: Host = None,
    port: Port = None,
    server: Server = None,
    json: Json = False,
) -> None:
    """Serve the REST services on a pipeline that is up elsewhere."""

    async def work() -> None:
        made = settings(service=True, http=which.services, nats_url=server, **{"http.host": host})
        stop = stop_event()
        ports = dict.fromkeys(which.services, port) if port is not None else None
        async with gateway().serving(made, which.services, ports=ports) as gateways:
            collect_rarely()
            if json:
                print_json({"http": gateways.urls})
            else:
                for service, url in gateways.urls.items():
                    err.print(f"[green]serving[/] {service}: [bold]{url}[/] ({url}/schema)")
            await stop.wait()
            if not json:
                err.print("stopping: finishing what is in hand …")

    run(work, json=json)


def gateway() -> ModuleType:
    """Return the package of the REST services; only who serves needs what it is built on.

    Raises:
        ConfigError: that is not installed.
    """
    try:
        import lucid_events.gateway as package
    except ModuleNotFoundError as exc:
        raise ConfigError(
            f"serving HTTP needs {exc.name}: run pip install -e '.[http]' in the checkout"
        ) from exc
    return package
