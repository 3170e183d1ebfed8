"""`lucid tokens add|list|revoke`: who may ask over HTTP, and as what."""

from pathlib import Path
from typing import Annotated

import typer

from lucid_events.cli.output import err, out, print_json, table
from lucid_events.cli.running import Json, settings
from lucid_events.credentials import Credential, Credentials, Role
from lucid_events.errors import ConfigError

tokens_app = typer.Typer(
    help="Who may ask over HTTP: bearer tokens and client certificates, with their roles.",
    no_args_is_help=True,
)

File = Annotated[
    Path | None, typer.Option("--file", "-f", help="File of credentials, instead of LUCID_ACCESS_FILE.")
]


@tokens_app.command("add")
def add(
    name: Annotated[str, typer.Argument(help="Who it is; stands in the history as the actor.")],
    role: Annotated[list[Role], typer.Option("--role", "-r", help="What they are; may be given again.")],
    subject: Annotated[
        str,
        typer.Option(
            "--subject", help="Of a client certificate, as `openssl x509 -subject -nameopt RFC2253` shows it."
        ),
    ] = "",
    file: File = None,
    json: Json = False,
) -> None:
    """Add a token and print it: once, it is kept nowhere. With --subject, add a certificate instead."""
    made, token = _opened(file).add(name, frozenset(role), subject=subject)
    if json:
        print_json({**_shown(made), **({"token": token} if token else {})})
        return
    if token:
        out.print(token, markup=False)
    err.print(f"{made.id}: {name} is {', '.join(sorted(made.roles))}", markup=False)


@tokens_app.command("list")
def list_tokens(file: File = None, json: Json = False) -> None:
    """List the credentials; the tokens themselves nobody has."""
    found = _opened(file).all()
    if json:
        for one in found:
            print_json(_shown(one))
        return
    rows = [
        (one.id, one.name, ", ".join(sorted(one.roles)), one.subject or "token", one.created_at)
        for one in found
    ]
    out.print(table("", ("id", "name", "roles", "by", "since"), rows))


@tokens_app.command("revoke")
def revoke(
    id: Annotated[str, typer.Argument(metavar="ID", help="As `lucid tokens list` shows it.")],
    file: File = None,
    json: Json = False,
) -> None:
    """Take a credential out; running services refuse it from their next request on."""
    credentials = _opened(file)
    gone = credentials.revoke(id)
    if json:
        print_json(_shown(gone))
        return
    left = [one.id for one in credentials.all() if one.name == gone.name]
    rest = f"{gone.name} still has {', '.join(left)}" if left else f"{gone.name} has no other"
    err.print(f"{gone.id} of {gone.name} is revoked; {rest}", markup=False)


def _opened(file: Path | None) -> Credentials:
    path = str(file) if file else settings().http.access_file
    if not path:
        raise ConfigError("which file? set LUCID_ACCESS_FILE, or give --file")
    return Credentials(Path(path))


def _shown(one: Credential) -> dict[str, object]:
    return {
        "id": one.id,
        "name": one.name,
        "roles": sorted(one.roles),
        "subject": one.subject,
        "created_at": one.created_at,
    }
