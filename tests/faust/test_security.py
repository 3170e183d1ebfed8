"""Servers that want to know who comes: TLS both ways, nkeys and credentials, by the broker URL alone."""

from __future__ import annotations

import asyncio
import base64
import random
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import faust
import msgspec
import nkeys
import pytest
import trustme

from lucid_events.faust_nats import create_app, running
from tests.faust.counting import Counting
from tests.faust.waiting import until
from tests.nats_server import NatsServer, running_server

EVENTS = 50


class Authority:
    """A certificate authority, with the files of a server and of a client."""

    def __init__(self, folder: Path) -> None:
        made = trustme.CA()
        self.ca, self.server, self.client, self.key = (
            folder / name for name in ("ca.pem", "server.pem", "client.pem", "client-key.pem")
        )
        made.cert_pem.write_to_path(str(self.ca))
        made.issue_cert("127.0.0.1", "localhost").private_key_and_cert_chain_pem.write_to_path(
            str(self.server)
        )
        client = made.issue_cert("worker@example.org")
        client.cert_chain_pems[0].write_to_path(str(self.client))
        client.private_key_pem.write_to_path(str(self.key))

    def settings(self, more: str = "") -> str:
        """The server's half of it, clients included."""
        files = f'cert_file: "{self.server}", key_file: "{self.server}", ca_file: "{self.ca}"'
        return f"tls {{ {files}, verify: true{more} }}"

    def query(self, **more: str) -> str:
        """The client's half of it."""
        return urlencode({"ca": str(self.ca), "cert": str(self.client), "key": str(self.key), **more})


async def _count(url: str, ident: str) -> None:
    """Count events from a topic into a table, and again after a restart: all that a worker does."""
    for total in (EVENTS, 2 * EVENTS):
        made = Counting(url, ident)
        async with running(made.app):
            for number in range(EVENTS):
                await made.numbers.send(key=f"k{number}", value=number)
            await until(lambda: sum(made.counts.values()) == total, f"{total} events")  # noqa: B023 - ends here


async def _start(url: str, ident: str) -> None:
    app = create_app(ident, url)
    app.topic("x")
    async with running(app):
        pass


def _secured(server: NatsServer) -> str:
    return server.url.replace("nats://", "tls://")


@pytest.mark.parametrize("first", [False, True], ids=["upgraded", "handshake first"])
def test_an_app_works_over_tls_with_a_certificate_of_its_own(tmp_path: Path, ident: str, first: bool) -> None:
    """The files of the URL are used both ways; without a certificate, or for a stranger's, nothing starts."""
    authority = Authority(tmp_path)
    more = ", handshake_first: true" if first else ""
    asked = {"tls_first": "true"} if first else {}
    with running_server(tmp_path / "nats", extra=authority.settings(more)) as server:
        asyncio.run(_count(f"{_secured(server)}/?{authority.query(**asked)}", ident))
        only_ca = urlencode({"ca": str(authority.ca), **asked})
        with pytest.raises(faust.exceptions.FaustError, match="no NATS server answers"):
            asyncio.run(_start(f"{_secured(server)}/?{only_ca}", f"{ident}-none"))
        stranger = urlencode({"cert": str(authority.client), "key": str(authority.key), **asked})
        with pytest.raises(faust.exceptions.FaustError, match="no NATS server answers"):
            asyncio.run(_start(f"{_secured(server)}/?{stranger}", f"{ident}-stranger"))


def test_files_that_are_missing_are_named(tmp_path: Path, ident: str) -> None:
    """A path that leads nowhere is told with the path, before anything connects."""
    missing = tmp_path / "nowhere.pem"
    with pytest.raises(faust.exceptions.FaustError, match=r"nowhere\.pem"):
        asyncio.run(_start(f"tls://127.0.0.1:1/?ca={missing}", ident))


def test_an_nkey_opens_the_server(tmp_path: Path, ident: str, rng: random.Random) -> None:
    """A seed works as it is and as a file; another one, and none, are refused."""
    ours, stranger = (_pair(rng, nkeys.PREFIX_BYTE_USER) for _ in range(2))
    seed = ours.seed.decode()
    file = tmp_path / "user.nk"
    file.write_text(seed)
    users = f"authorization {{ users: [ {{ nkey: {ours.public_key.decode()} }} ] }}"
    with running_server(tmp_path / "nats", extra=users) as server:
        asyncio.run(_count(f"{server.url}/?nkey={seed}", ident))
        asyncio.run(_count(f"{server.url}/?nkey={file}&prefix={ident}", ident))
        for query in (f"?nkey={stranger.seed.decode()}", ""):
            with pytest.raises(faust.exceptions.FaustError, match="no NATS server answers"):
                asyncio.run(_start(f"{server.url}/{query}", f"{ident}-stranger"))


def test_credentials_open_a_server_with_an_operator(tmp_path: Path, ident: str, rng: random.Random) -> None:
    """A file of credentials, as nsc writes it, lets its user in; one of another operator's does not."""
    ours, theirs = _Operator(rng), _Operator(rng)
    with running_server(tmp_path / "nats", extra=ours.settings()) as server:
        file = tmp_path / "user.creds"
        file.write_text(ours.credentials(rng))
        asyncio.run(_count(f"{server.url}/?creds={file}", ident))
        file.write_text(theirs.credentials(rng))
        with pytest.raises(faust.exceptions.FaustError, match="no NATS server answers"):
            asyncio.run(_start(f"{server.url}/?creds={file}", f"{ident}-stranger"))


class _Operator:
    """An operator with one account, and tokens for users of it (NATS ADR-14)."""

    def __init__(self, rng: random.Random) -> None:
        self._key = _pair(rng, nkeys.PREFIX_BYTE_OPERATOR)
        self._account, self._system = (_pair(rng, nkeys.PREFIX_BYTE_ACCOUNT) for _ in range(2))

    def settings(self) -> str:
        """What the server must know."""
        unlimited = ("subs", "data", "payload", "imports", "exports", "conn", "leaf")
        storage = ("mem_storage", "disk_storage", "streams", "consumer")
        limits = dict.fromkeys((*unlimited, *storage), -1) | {"wildcards": True}
        operator = _token(self._key, self._key, {"type": "operator"})
        account = _token(self._key, self._account, {"type": "account", "limits": limits})
        system = _token(self._key, self._system, {"type": "account"})
        name, its_name = (key.public_key.decode() for key in (self._account, self._system))
        preloaded = f"resolver_preload {{ {name}: {account}, {its_name}: {system} }}"
        return f"operator: {operator}\nsystem_account: {its_name}\nresolver: MEMORY\n{preloaded}"

    def credentials(self, rng: random.Random) -> str:
        """A new user's file."""
        user = _pair(rng, nkeys.PREFIX_BYTE_USER)
        token = _token(self._account, user, {"type": "user", "subs": -1, "data": -1, "payload": -1})
        return (
            f"-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{user.seed.decode()}\n------END USER NKEY SEED------\n"
        )


def _token(signer: Any, subject: Any, claims: dict[str, object]) -> str:
    body = {
        "jti": subject.public_key.decode(),
        "iat": int(time.time()),
        "iss": signer.public_key.decode(),
        "sub": subject.public_key.decode(),
        "name": "test",
        "nats": {**claims, "version": 2},
    }
    parts = [_encoded(msgspec.json.encode(part)) for part in ({"typ": "JWT", "alg": "ed25519-nkey"}, body)]
    return ".".join([*parts, _encoded(signer.sign(".".join(parts).encode()))])


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _pair(rng: random.Random, kind: int) -> Any:
    """A key pair of that kind."""
    return nkeys.from_seed(nkeys.encode_seed(rng.randbytes(32), kind))
