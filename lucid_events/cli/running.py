"""From a command line to a running coroutine and back to an exit status.

Settings are built once, here; errors of the package become one line on standard error, or one JSON
object with `--json`, and the status of `exits.py`. Everything else is a bug and shows its traceback.
"""

import asyncio
import logging
import os
import sys
from collections.abc import Callable, Coroutine, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn, TypeVar, cast

import typer

from lucid_events import config, logs
from lucid_events.cli.exits import INTERRUPTED, exit_code
from lucid_events.cli.output import err, print_json
from lucid_events.domain.values import MAX_CHUNK_BYTES, MIN_CHUNK_BYTES
from lucid_events.errors import LucidError

T = TypeVar("T")

_log = logging.getLogger(__name__)

Server = Annotated[
    str | None,
    typer.Option(
        "--server", "-s", help="NATS server to use, instead of NATS_URL.", rich_help_panel="Connection"
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print data as JSON, one object a line.")]
SessionArgument = Annotated[
    str, typer.Argument(metavar="SID", help="Session id: A-Z a-z 0-9 _ -, up to 100.")
]

PayloadDays = Annotated[
    float | None,
    typer.Option(help="Days the bytes are kept behind the end, when it is created; see `lucid retention`."),
]
ChunkBytes = Annotated[
    int | None,
    typer.Option(
        min=MIN_CHUNK_BYTES, max=MAX_CHUNK_BYTES, help="Raw bytes a chunk is cut at, when it is created."
    ),
]

OPTIONS: Final = {"nats_url": "--server", "sweep_grace_s": "--grace"}
"""Options that are called otherwise than the setting they set."""

COMMANDS: Final = {"start_complete": "record", "error": "fail"}
"""What a person calls a trigger that has another name on the wire."""

_config_file: Path | None = None


def use_config_file(path: Path | None) -> None:
    """Remember the file given before the command, for `settings`."""
    global _config_file  # noqa: PLW0603 - one process, one command line
    _config_file = path


def settings(
    *, service: bool = False, http: Sequence[config.Service] = (), **flags: object
) -> config.Settings:
    """Return the settings from defaults, file, environment and flags, and set logging up by them.

    A command that is no service says nothing below WARNING, unless a log level was asked for. A
    service names the settings it was given and has no use for.

    Args:
        service: the process goes on until it is stopped.
        http: the HTTP services it will run, whose settings have to fit together.
        flags: path of a setting -> value of an option, None when it was not given.
    """
    made = config.load_settings(os.environ, file=_config_file, flags=flags, options=OPTIONS, services=http)
    given = config.given(os.environ, _config_file, "log_level")
    quiet = "DEBUG" if made.debug else made.log_level if service else "WARNING"
    logs.set_up(made.log_level if given else quiet, as_json=made.log_json)
    for reason in config.idle_settings(os.environ, _config_file) if service else ():
        _log.warning("a setting is not used", extra={"reason": reason})
    return made


def run(
    work: Callable[[], Coroutine[Any, Any, T]], *, json: bool = False, reader_may_leave: bool = True
) -> T:
    """Run `work` on uvloop and return what it returns; an error ends the process with its status.

    Args:
        reader_may_leave: a broken pipe is the reader of our output who has enough (`| head`), and no
            error. Not so where work is done beside the output: that did not succeed.
    """
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(work())
    except (KeyboardInterrupt, asyncio.CancelledError):  # the latter: a second signal, told so by `record`
        raise typer.Exit(INTERRUPTED) from None
    except LucidError as exc:
        fail(exc, json=json)
    except BaseExceptionGroup as group:
        known, others = first_of(group, LucidError), group.split(LucidError)[1]
        if known is None or others is not None:
            raise  # a bug among them is told with its traceback; so is what it may have brought about
        fail(known, json=json)
    except BrokenPipeError:
        if not reader_may_leave:
            fail(LucidError("a pipe broke off, and the work is not known to be done: look, then repeat it"))
        forget_reader()
        raise typer.Exit(0) from None


def forget_reader() -> None:
    """Let go of a standard output nobody reads: the interpreter would complain about its flush at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def first_of(group: BaseExceptionGroup[BaseException], kind: type[LucidError]) -> LucidError | None:
    """Return the first error of `kind` anywhere in `group`."""
    for exc in group.exceptions:
        found = first_of(exc, kind) if isinstance(exc, BaseExceptionGroup) else exc
        if isinstance(found, kind):
            return found
    return None


def fail(error: LucidError, *, json: bool = False) -> NoReturn:
    """Say what is wrong and what to do, and end with the error's status, whether or not anybody hears it."""
    try:
        _tell(error, json=json)
    except OSError:
        forget_reader()
    raise typer.Exit(exit_code(error))


def _tell(error: LucidError, *, json: bool) -> None:
    allowed = cast("Iterable[object]", error.fields.get("allowed") or ())
    again = error.fields.get("again")
    if json:
        said = {"code": error.code, "message": error.message, "allowed": allowed, "retry": error.retry}
        more = {name: error.fields[name] for name in ("safe_offset", "again") if name in error.fields}
        print_json({"error": {**said, **more}})
        return
    err.print(f"[bold red]error[/] ({error.code}): ", end="")
    err.print(error.message, markup=False)
    if verbs := commands_of(allowed):
        err.print(f"allowed now: {', '.join(verbs)}", markup=False)
    if again:
        err.print(f"go on with: {again}", markup=False)


def commands_of(triggers: Iterable[object]) -> list[str]:
    """Return the commands of `lucid` that pull `triggers`; what the pipeline completes by itself has none."""
    named = (COMMANDS.get(str(trigger), str(trigger)) for trigger in triggers)
    return [name for name in named if not name.endswith("_complete")]


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # Windows has none; the standard loop does the same, slower
        return None
    return uvloop.new_event_loop
