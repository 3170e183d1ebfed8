"""A nats-server as an operator starts it: on a configuration of `deploy/nats`."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.nats_server import NatsServer

DEPLOY = Path(__file__).parents[1] / "deploy" / "nats"


class ConfiguredServer(NatsServer):
    """A server on `config`; its ports are free ones of loopback, its store is in `folder`.

    Args:
        folder: store and log.
        config: what it is started on, unchanged.
        env: variables that the configuration asks for.
        flags: further flags of the command line, which go before the configuration.
    """

    def __init__(
        self, folder: Path, config: Path, *, env: Mapping[str, str] | None = None, flags: Sequence[str] = ()
    ) -> None:
        super().__init__(folder)
        self.config, self.env, self.flags = config, dict(env or {}), list(flags)

    def _flags(self) -> list[str]:
        ports = ["-a", "127.0.0.1", "-p", str(self.port), "-m", "-1", "-P", str(self.folder / "pid")]
        return ["-c", str(self.config), *ports, *self.flags]

    def _env(self) -> dict[str, str]:
        return {**os.environ, "NATS_STORE_DIR": str(self.folder / "store"), **self.env}


@contextmanager
def configured_server(
    folder: Path, config: Path, *, env: Mapping[str, str] | None = None, flags: Sequence[str] = ()
) -> Iterator[ConfiguredServer]:
    """Run a server on `config` for the time of the context."""
    server = ConfiguredServer(folder, config, env=env, flags=flags)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def including(folder: Path, *names: str, text: str = "") -> Path:
    """Write a configuration of an operator's own that includes files of `deploy/nats`; returns its path.

    The server takes an included path as relative to the file that includes it, even an absolute one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f'include "{os.path.relpath(DEPLOY / name, folder)}"' for name in names]
    path = folder / "nats.conf"
    path.write_text("\n".join([text, *lines]) + "\n")
    return path
