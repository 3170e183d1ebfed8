"""Every configuration in `deploy/nats` starts a real server that the pipeline has nothing to say against."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import trustme

from tests.configured_server import DEPLOY, configured_server
from tests.end_to_end.processes import ROOT, lucid
from tests.integration.roles import role_keys
from tests.nats_server import nats_server

CLI_S = 60.0
"""Bound of one command; each is over in a second or two."""


def lucid_at(url: str, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the installed command against `url`, to its end."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("LUCID_", "NATS_"))}
    return subprocess.run(
        [*lucid(), *words],
        env={**clean, "LUCID_CAPTURE_MAX_MB": "64", "NATS_URL": url, **env},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=CLI_S,
        check=False,
    )


def examined(url: str, **env: str) -> set[str]:
    """Deploy on the server and examine it; returns the levels of what was found."""
    said = ""
    for words in (["deploy"], ["deploy", "--check"], ["doctor", "--json"]):
        done = lucid_at(url, *words, **env)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        said = done.stdout
    return {json.loads(line)["level"] for line in said.splitlines()}


def checked(config: Path, folder: Path, without: str = "") -> subprocess.CompletedProcess[str]:
    """Let the server judge `config`, with every variable that the configurations ask for but one."""
    env = {
        **role_keys(folder / "keys"),
        **tls_files(folder),
        "LUCID_NODE": "n1",
        "NATS_STORE_DIR": "/nowhere",
    }
    words = [nats_server(), "-c", str(config), "-t"]
    given = {name: value for name, value in env.items() if name != without}
    return subprocess.run(words, env=given, capture_output=True, text=True, timeout=CLI_S, check=False)


def tls_files(folder: Path) -> dict[str, str]:
    """Make an authority and a certificate for this machine; returns variable -> path."""
    authority = trustme.CA()
    made = authority.issue_cert("localhost", "127.0.0.1")
    files = {"NATS_TLS_CA": "ca.pem", "NATS_TLS_CERT": "server.pem", "NATS_TLS_KEY": "server-key.pem"}
    paths = {name: folder / file for name, file in files.items()}
    authority.cert_pem.write_to_path(str(paths["NATS_TLS_CA"]))
    made.cert_chain_pems[0].write_to_path(str(paths["NATS_TLS_CERT"]))
    made.private_key_pem.write_to_path(str(paths["NATS_TLS_KEY"]))
    return {name: str(path) for name, path in paths.items()}


@pytest.mark.parametrize("name", ["single.conf", "cluster.conf", "tls.conf"])
def test_the_server_takes_each_configuration(tmp_path: Path, name: str) -> None:
    """`nats-server -t` accepts it, unchanged, with the variables that it asks for."""
    done = checked(DEPLOY / name, tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"{name} is valid" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("name", "missing"),
    [("single.conf", "NATS_STORE_DIR"), ("cluster.conf", "LUCID_NODE"), ("tls.conf", "LUCID_OPERATOR_NKEY")],
)
def test_a_variable_that_is_not_set_is_named(tmp_path: Path, name: str, missing: str) -> None:
    """Without a variable there is no server with a default nobody chose, but an error that names it."""
    done = checked(DEPLOY / name, tmp_path, without=missing)
    assert done.returncode != 0
    assert missing in done.stdout + done.stderr


def test_a_single_server_suits_and_keeps_what_it_has(tmp_path: Path) -> None:
    """single.conf as it stands: the doctor finds no fault, nor after a kill -9 of the server."""
    with configured_server(tmp_path / "server", DEPLOY / "single.conf") as server:
        refused = lucid_at(server.url, "deploy", LUCID_REPLICAS="3")
        assert refused.returncode == 2
        assert "lower LUCID_REPLICAS" in refused.stderr
        assert examined(server.url) == {"info"}
        server.restart()
        assert lucid_at(server.url, "deploy", "--check").returncode == 0
        assert examined(server.url) == {"info"}


def test_an_operator_comes_in_by_tls_and_with_a_key(tmp_path: Path) -> None:
    """tls.conf as it stands: who trusts the authority and has a role's key gets in, nobody else."""
    keys, files = role_keys(tmp_path / "keys"), tls_files(tmp_path)
    with configured_server(tmp_path / "server", DEPLOY / "tls.conf", env={**keys, **files}) as server:
        url = f"tls://localhost:{server.port}"
        key = {"NATS_NKEY_SEED": str(tmp_path / "keys" / "operator.nk")}
        trust = {"NATS_CA": files["NATS_TLS_CA"]}
        assert examined(url, **key, **trust) == {"info"}
        distrusted = lucid_at(url, "doctor", **key)
        assert distrusted.returncode != 0
        assert "CERTIFICATE_VERIFY_FAILED" in distrusted.stderr
        stranger = lucid_at(url, "doctor", **trust)
        assert stranger.returncode == 2
        assert "refuses our credentials" in stranger.stderr
        viewer = {
            "NATS_NKEY_SEED": str(tmp_path / "keys" / "viewer.nk"),
            "NATS_INBOX_PREFIX": "_INBOX_viewer",
            "NATS_JS_API_PREFIX": "JS.lucid.API",
        }
        nothing = lucid_at(url, "status", "nosuch", **viewer, **trust)
        assert "there is no session nosuch" in nothing.stderr
