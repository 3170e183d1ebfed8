"""`jetstream.options` and `jetstream.contexts`: how to reach a server, without telling secrets."""

import json
from pathlib import Path

import pytest

from lucid_events.errors import ConfigError
from lucid_events.jetstream.contexts import load_context
from lucid_events.jetstream.options import NatsOptions, client_options


def write_context(folder: Path, name: str, **values: object) -> dict[str, str]:
    """Write a context as the `nats` tool does; returns the environment that finds it."""
    contexts = folder / "nats" / "context"
    contexts.mkdir(parents=True, exist_ok=True)
    (contexts / f"{name}.json").write_text(json.dumps(values))
    return {"XDG_CONFIG_HOME": str(folder)}


def test_secrets_are_masked() -> None:
    """Neither the repr nor the server's name in messages shows a secret."""
    options = NatsOptions(
        servers=("nats://user:url-secret@host:4222", "nats://other:4222"), user="u", password="secret"
    )
    assert options.server == "nats://host:4222, nats://other:4222"
    for shown in (repr(options), str(options)):
        assert "secret" not in shown.replace("url-secret", "")


def test_two_identities_are_refused() -> None:
    """Setting two ways to log in is an error, not a silent choice."""
    with pytest.raises(ConfigError, match="creds and token"):
        client_options(NatsOptions(creds="a.creds", token="t"))


def test_a_missing_identity_is_said_although_no_server_asks_for_it(tmp_path: Path) -> None:
    """A credentials or seed file that isn't there is an error at the start; a seed is never shown."""
    with pytest.raises(ConfigError, match=r"no-such\.creds: No such file"):
        client_options(NatsOptions(creds=str(tmp_path / "no-such.creds")))
    with pytest.raises(ConfigError, match="nkey seed") as caught:
        client_options(NatsOptions(nkey_seed="mistyped-seed"))
    assert "mistyped-seed" not in caught.value.message


def test_unreadable_tls_files_are_said() -> None:
    """A certificate that isn't there is named."""
    with pytest.raises(ConfigError, match=r"no-such\.pem"):
        client_options(NatsOptions(tls_ca="no-such.pem"))


def test_a_context_becomes_options(tmp_path: Path) -> None:
    """The keys of a context map to options; empty ones count as unset."""
    environment = write_context(
        tmp_path,
        "prod",
        url="nats://a:4222, nats://b:4222",
        creds="/keys/prod.creds",
        ca="/keys/ca.pem",
        inbox_prefix="_INBOX_me",
        jetstream_domain="hub",
        user="",
        token=None,
        description="ignored",
    )
    options = load_context("prod", environment)
    assert options.servers == ("nats://a:4222", "nats://b:4222")
    assert (options.creds, options.tls_ca) == ("/keys/prod.creds", "/keys/ca.pem")
    assert (options.inbox_prefix, options.api_prefix) == ("_INBOX_me", "$JS.hub.API")
    assert (options.user, options.token) == (None, None)


def test_a_context_that_is_not_there_or_not_ours(tmp_path: Path) -> None:
    """A missing context lists what there is; one that needs what we lack says so; paths are no names."""
    environment = write_context(tmp_path, "one", url="nats://a:4222", nsc="nsc://x")
    with pytest.raises(ConfigError, match="one"):
        load_context("two", environment)
    with pytest.raises(ConfigError, match="nsc"):
        load_context("one", environment)
    with pytest.raises(ConfigError, match="not a name"):
        load_context("../one", environment)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("[]", "Expected `object`, got `array`"),
        ('{"url": 4222}', r"at `\$\.url`"),
        ('{"tls_first": "yes"}', r"at `\$\.tls_first`"),
        ('{"password": ["hunter2"]}', r"at `\$\.password`"),
        ("{", "truncated"),
        ("\xff", "malformed"),
    ],
)
def test_a_context_that_is_broken_is_said(tmp_path: Path, written: str, said: str) -> None:
    """What does not fit is an error that names file and field, and shows no value."""
    environment = write_context(tmp_path, "prod")
    file = tmp_path / "nats" / "context" / "prod.json"
    file.write_bytes(written.encode("latin-1"))
    with pytest.raises(ConfigError, match=said) as caught:
        load_context("prod", environment)
    assert str(file) in caught.value.message
    assert "hunter2" not in caught.value.message
