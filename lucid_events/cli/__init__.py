"""The `lucid` command: one module per group of commands, one table of exit statuses."""

from pathlib import Path
from typing import Annotated

import typer

from lucid_events import __version__
from lucid_events.cli import (
    analytics,
    audit_bundles,
    audit_checkpoints,
    audit_reconciling,
    demo,
    history,
    operations,
    playing,
    projections,
    recording,
    replaying,
    running,
    serving,
    sessions,
    verbs,
)
from lucid_events.cli.audit import audit_app
from lucid_events.cli.backup import backup_app
from lucid_events.cli.keys import keys_app
from lucid_events.cli.letters import dlq_app
from lucid_events.cli.retention import retention_app
from lucid_events.cli.sessions import chunks_app
from lucid_events.cli.tokens import tokens_app
from lucid_events.errors import LucidError

app = typer.Typer(
    name="lucid",
    help="Record sessions durably, replay and prove them.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"lucid_events {__version__}")
        raise typer.Exit


@app.callback()
def lucid(
    config: Annotated[Path | None, typer.Option("--config", "-c", help="TOML file of settings.")] = None,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Record sessions durably, replay and prove them."""
    running.use_config_file(config)


operations.register(app)
projections.register(app)
serving.register(app)
demo.register(app)
recording.register(app)
playing.register(app)
sessions.register(app)
verbs.register(app)
history.register(app)
replaying.register(app)
analytics.register(app)
app.add_typer(backup_app, name="backup")
app.add_typer(chunks_app, name="chunks")
app.add_typer(dlq_app, name="dlq")
app.add_typer(tokens_app, name="tokens")
audit_bundles.register(audit_app)
audit_checkpoints.register(audit_app)
audit_reconciling.register(audit_app)
app.add_typer(audit_app, name="audit")
app.add_typer(keys_app, name="keys")
app.add_typer(retention_app, name="retention")


def main() -> None:
    """Run the command line; an error of ours that no command caught still gets its own status."""
    try:
        app()
    except LucidError as exc:
        try:
            running.fail(exc)
        except typer.Exit as status:
            raise SystemExit(status.exit_code) from None
