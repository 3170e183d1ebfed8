"""The role model of `deploy/nats/roles.conf`, with keys made for one run, and logins of every role."""

import asyncio
import importlib.util
import json
import os
import subprocess
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

from lucid_events.jetstream.connection import Connection, connect
from lucid_events.jetstream.options import NatsOptions
from tests.configured_server import DEPLOY, ConfiguredServer, configured_server, including
from tests.end_to_end.processes import ROOT, Running, lucid

OUTSIDE = ("recorder", "recorder-demo", "integrator", "viewer", "auditor")
"""Roles that live in other accounts than the pipeline."""
API = "JS.lucid.API"
CLI_S = 60.0
"""Bound of one command; each is over in a second or two."""


def role_keys(folder: Path) -> Mapping[str, str]:
    """Make the keys as the operator does, by the script beside the configuration."""
    spec = importlib.util.spec_from_file_location("role_keys", DEPLOY / "role_keys.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    made: Mapping[str, str] = script.role_keys(folder)
    return made


class RoleServer:
    """A server with the roles, and how each of them logs in; made by `role_server`."""

    def __init__(self, server: ConfiguredServer, keys: Path, contexts: Path) -> None:
        self.server, self.keys, self._contexts = server, keys, contexts

    def options(self, role: str) -> NatsOptions:
        """Return how `role` connects."""
        place = {"api_prefix": API, "inbox_prefix": _inbox(role)} if role in OUTSIDE else {}
        seed = str(self.keys / f"{role}.nk")
        return NatsOptions(name=role, servers=(self.server.url,), nkey_seed=seed, **place)  # type: ignore[arg-type]  # text alone

    @asynccontextmanager
    async def login(self, role: str) -> AsyncIterator[Connection]:
        """Connect as `role`."""
        async with connect(self.options(role)) as connection:
            yield connection

    def env(self, role: str) -> dict[str, str]:
        """Return the environment in which the installed command works as `role`."""
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("LUCID_", "NATS_"))}
        place = {"XDG_CONFIG_HOME": str(self._contexts), "NATS_CONTEXT": role}
        return {**clean, **place, "LUCID_CAPTURE_MAX_MB": "64"}

    def write_contexts(self) -> None:
        """Keep a context of the `nats` tool for every role."""
        folder = self._contexts / "nats" / "context"
        folder.mkdir(parents=True)
        for seed in self.keys.glob("*.nk"):
            role = seed.stem
            context = {"url": self.server.url, "nkey": str(seed)}
            if role in OUTSIDE:
                context |= {"jetstream_api_prefix": API, "inbox_prefix": _inbox(role)}
            (folder / f"{role}.json").write_text(json.dumps(context))


def _inbox(role: str) -> str:
    return f"_INBOX_{role.partition('-')[0]}"


@contextmanager
def role_server(folder: Path) -> Iterator[RoleServer]:
    """Run a server with the roles for the time of the context; nothing is deployed on it yet."""
    keys = folder / "keys"
    public = role_keys(keys)
    config = including(folder / "conf", "pipeline.conf", "roles.conf")
    with configured_server(folder / "server", config, env=public) as server:
        made = RoleServer(server, keys, folder / "contexts")
        made.write_contexts()
        yield made


@contextmanager
def roles_at_work(folder: Path) -> Iterator[RoleServer]:
    """Run a server with the roles, the definitions on it, and a worker that runs as `service`."""
    with ExitStack() as stack:
        made = stack.enter_context(role_server(folder))
        assert cli(made, "operator", "deploy").returncode == 0
        asyncio.run(_add_consumer(made))
        env = {**made.env("service"), "LUCID_LEASE": "5", "LUCID_BEAT_INTERVAL": "1"}
        worker = Running([*lucid(), "worker", "--json"], folder / "worker", env, None)
        stack.callback(worker.kill9)
        worker.says('"parts"')
        yield made


def cli(roles: RoleServer, role: str, *args: str) -> subprocess.CompletedProcess[bytes]:
    """Run the installed command as `role`, to its end."""
    return subprocess.run(
        [*lucid(), *args], env=roles.env(role), cwd=ROOT, capture_output=True, timeout=CLI_S, check=False
    )


async def _add_consumer(roles: RoleServer) -> None:
    async with roles.login("operator") as connection:
        config = {
            "durable_name": "integrator",
            "ack_policy": "explicit",
            "filter_subject": "lucid.evt.*.chunk.ready",
        }
        body = {"stream_name": "LUCID_EVENTS", "config": config}
        await connection.api("CONSUMER.CREATE.LUCID_EVENTS.integrator.lucid.evt.*.chunk.ready", body)
