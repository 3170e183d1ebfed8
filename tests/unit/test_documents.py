"""The documents say what the code does: tables, names, links, commands and snippets are compared with it."""

import ast
import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer

from lucid_events import config, subjects
from lucid_events.cli import app
from lucid_events.cli.exits import EXIT_CODES
from lucid_events.domain.commands import COMMANDS
from lucid_events.domain.transitions import TRANSITIONS

ROOT = Path(__file__).resolve().parents[2]
README, DESIGN, OPERATIONS = ROOT / "README.md", ROOT / "docs" / "design.md", ROOT / "docs" / "operations.md"
ADRS = sorted((ROOT / "docs" / "adr").glob("*.md"))
PAGES = [
    README,
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *ADRS,
    ROOT / "deploy" / "nats" / "README.md",
    ROOT / "schemas" / "README.md",
]
CHECK_S = 30

MADE = {"nats-server.conf", "chunk.ready.v1.2.json", "bundle.json", "manifest.json", "kept.json"}
"""Named as what a running server, a later version or an export writes; not there before."""

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
NAMED_FILE = re.compile(
    r"`((?:[\w.-]+/)*[\w.-]+\.(?:py|md|json|conf|toml|txt|mjs)|(?:lucid_events|deploy|tests|docs|schemas)/[\w/.-]*/)`"
)
NAMED_TEST = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")
NAMED_COMMAND = re.compile(r"`(lucid(?: [^`]+)?)`")
MAKE_TARGET = re.compile(r"(?:^|`)make ([a-z-]+)", re.MULTILINE)
_OURS = "LUCID|NATS|RECORDER|CHUNK|COMPRESSOR|ENCRYPTOR|MERKLE|STORAGE|LOG"
VARIABLE = re.compile(rf"`?\b((?:{_OURS})_[A-Z_]+[A-Z])\b")


class Block(NamedTuple):
    """One fenced block."""

    language: str
    text: str


def _page(path: Path) -> str:
    return path.name if path.parent == ROOT else str(path.relative_to(ROOT))


def _blocks(path: Path, *languages: str) -> list[Block]:
    found = [Block(*match.groups()) for match in FENCE.finditer(path.read_text(encoding="utf-8"))]
    return [block for block in found if not languages or block.language in languages]


def _prose(path: Path) -> str:
    return FENCE.sub("", path.read_text(encoding="utf-8"))


def _table(path: Path, header: str) -> list[list[str]]:
    """Rows of the table whose header line is `header`, cells without code marks."""
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines.count(header) == 1, f"{_page(path)} has not exactly one table {header}"
    rows = []
    for line in lines[lines.index(header) + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return rows


def _plain(cell: str) -> str:
    return cell.strip("`")


def _shell_lines(path: Path) -> Iterator[str]:
    """Every command line that the page tells its reader to type."""
    for block in _blocks(path, "sh"):
        yield from (line for line in block.text.splitlines() if line.strip())
    for block in _blocks(path, "console"):
        yield from (line[2:] for line in block.text.splitlines() if line.startswith("$ "))


pages = pytest.mark.parametrize("path", PAGES, ids=_page)


def test_the_settings_table_is_that_of_the_code() -> None:
    """`docs/operations.md` shows every setting with default, unit, limits and reason, and no other."""
    expected = []
    for field in config.fields():
        why = field.why + (" (secret)" if field.secret else "")
        default = "unset" if field.default in ("", None, ()) else f"`{field.shown(field.default)}`"
        names = ", ".join(f"`{name}`" for name in (field.env, field.also) if name)
        row = [names, f"`{field.name}`", default, field.unit or "–", field.limits or "–", why]
        expected.append(row)
    assert _table(OPERATIONS, "| variable | in a file | default | unit | allowed | for |") == expected


def test_the_exit_table_is_that_of_the_code() -> None:
    """`docs/operations.md` shows the exit status of every error."""
    found = _table(OPERATIONS, "| error | code on the wire | exit status |")
    expected = [[f"`{kind.__name__}`", f"`{kind.code}`", str(status)] for kind, status in EXIT_CODES.items()]
    assert found == expected


def test_the_transition_table_is_that_of_the_code() -> None:
    """`docs/design.md` shows every transition of a session, and no other."""
    found = _table(DESIGN, "| from | trigger | to |")
    assert found == [
        [str(state or "–"), str(trigger), str(to)] for (state, trigger), to in TRANSITIONS.items()
    ]


def test_the_stream_table_is_that_of_the_definitions() -> None:
    """`docs/design.md` shows every stream with its subjects and what the promises rest on."""
    header = "| stream | subjects | retention | discard | kept for | at most | forbids | allows |"
    allowed = {
        "direct get": "allow_direct",
        "atomic batch": "allow_atomic",
        "roll-up": "allow_rollup_hdrs",
        "TTL": "allow_msg_ttl",
        "schedules": "allow_msg_schedules",
    }
    expected = []
    for one in _definitions("streams"):
        forbids = [name for name in ("delete", "purge") if one[f"deny_{name}"]]
        allows = [name for name, key in allowed.items() if one.get(key)]
        expected.append(
            [
                f"`{one['name']}`",
                "<br>".join(f"`{subject}`" for subject in one["subjects"]),
                one["retention"],
                one["discard"],
                _duration(one["max_age"]),
                _bytes(one["max_bytes"]),
                ", ".join(forbids) or "–",
                ", ".join(allows) or "–",
            ]
        )
    assert _table(DESIGN, header) == expected


def test_the_consumer_table_is_that_of_the_definitions() -> None:
    """`docs/design.md` shows every consumer with its stream, filters and bounds."""
    expected = []
    for one in _definitions("consumers"):
        made = one["config"]
        filters = made.get("filter_subjects") or [made[key] for key in ("filter_subject",) if key in made]
        expected.append(
            [
                f"`{made['durable_name']}`",
                f"`{one['stream_name']}`",
                "<br>".join(f"`{subject}`" for subject in filters) or "all",
                _duration(made["ack_wait"]),
                _SET_BY.get(made["max_ack_pending"], str(made["max_ack_pending"])),
            ]
        )
    assert _table(DESIGN, "| consumer | stream | filter | ack wait | in flight at most |") == expected


def test_the_subjects_are_those_the_code_builds() -> None:
    """Each subject that `docs/design.md` lists is one that `subjects.py` builds, and none is left out."""
    made = subjects.Subjects()
    built = {
        made.command("S", "V"),
        made.queued_command("S", "V"),
        made.outcome("S", "C"),
        made.event("S", "N.F.v1"),
        made.live(made.event("S", "N.F.v1")),
        made.capture("S", 1, 2),
        made.fence("S", 1, 3),
        made.ballast[3],
        made.ballast[3],
        made.beat("S", 1),
        made.timer("S", "T"),
        made.due("S", "T"),
        made.dead_letter("K"),
        made.checkpoint,
    }
    filled = {
        "<sid>": "S",
        "<verb>": "V",
        "<command id>": "C",
        "<noun>": "N",
        "<fact>": "F",
        "<epoch>": "1",
        "<n>": "2",
        "<k>": "3",
        "<name>": "T",
        "<consumer>": "K",
    }
    named = set()
    for row in _table(DESIGN, "| subject | carried by | written by | meaning |"):
        subject = _plain(row[0])
        for placeholder, value in filled.items():
            subject = subject.replace(placeholder, value)
        named.add(subject)
    assert named == built


def test_every_verb_has_a_command_or_is_a_recorders() -> None:
    """The README names the command line of every verb that an operator may send."""
    named = {words.split()[1] for words in NAMED_COMMAND.findall(_prose(README)) if " " in words}
    known = {command for group in (_click(),) for command in group.commands}
    assert {verb for verb in COMMANDS if verb in known} <= named
    assert known <= named, f"not in the README: {sorted(known - named)}"


@pages
def test_links_resolve(path: Path) -> None:
    """Every link inside the project leads to a file, and to a heading that is there."""
    for target in LINK.findall(_prose(path)):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        found = (path.parent / name).resolve() if name else path
        assert found.exists(), f"{_page(path)}: {target} leads nowhere"
        if anchor:
            assert anchor in _anchors(found), f"{_page(path)}: {target} names no heading"


@pages
def test_every_file_named_exists(path: Path) -> None:
    """A file that a page names is in the project, under that path or that name in the folder meant."""
    for name in NAMED_FILE.findall(_prose(path)):
        places = [ROOT / name, path.parent / name, ROOT / "lucid_events" / name]
        if "/" not in name:
            places += [*path.parent.glob(f"*/{name}"), *(ROOT / "lucid_events").glob(f"*/{name}")]
        assert name in MADE or any(place.exists() for place in places), f"{_page(path)} names {name}"


@pages
def test_every_test_named_exists(path: Path) -> None:
    """A test that holds a promise is there under the name that the page gives."""
    for file, test in NAMED_TEST.findall(_prose(path)):
        assert (ROOT / file).exists(), f"{_page(path)} names {file}"
        if test:
            tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
            names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
            assert test in names, f"{_page(path)} names {file}::{test}"


@pages
def test_every_variable_named_is_a_setting(path: Path) -> None:
    """A variable that a page names is a setting, a stream, or one of the tests' own."""
    made = subjects.Subjects()
    known = {name for field in config.fields() for name in (field.env, field.also)} | set(config.NOT_USED)
    known |= {name for attribute, name in vars(made).items() if attribute.endswith("_stream")}
    known |= {"LUCID_TEST_SEED"}
    for asking in [*(ROOT / "deploy").rglob("*.conf"), *(ROOT / "deploy").rglob("*.yaml")]:
        known |= set(re.findall(r"\$\{?([A-Z][A-Z_]+)", asking.read_text(encoding="utf-8")))
    unknown = {name for name in VARIABLE.findall(path.read_text(encoding="utf-8")) if name not in known}
    assert not unknown, f"{_page(path)} names {sorted(unknown)}"


@pages
def test_every_command_named_parses(path: Path) -> None:
    """A command of ours in a page, inline or to be typed, has the subcommands and options it uses."""
    lines = [line for line in _shell_lines(path) if re.match(r"lucid( |$)", line)]
    for words in [*NAMED_COMMAND.findall(_prose(path)), *lines]:
        _parse(shlex.split(words.replace("…", "")))


@pages
def test_every_make_target_named_exists(path: Path) -> None:
    """`make x` in a page is a target of the Makefile."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    text = "\n".join([_prose(path), *_shell_lines(path)])
    assert set(MAKE_TARGET.findall(text)) <= targets


@pages
def test_shell_snippets_are_shell(path: Path) -> None:
    """What a reader is told to type is accepted by a shell's parser."""
    for line in _shell_lines(path):
        done = subprocess.run(
            ["sh", "-n"], input=line, text=True, capture_output=True, timeout=CHECK_S, check=False
        )
        assert done.returncode == 0, f"{_page(path)}: {line}: {done.stderr}"


@pages
def test_python_snippets_compile(path: Path) -> None:
    """Python in a page compiles."""
    for number, block in enumerate(_blocks(path, "python"), 1):
        compile(block.text, f"{_page(path)}, Python block {number}", "exec")


@pages
def test_blocks_say_their_language(path: Path) -> None:
    """Every fenced block says what it is, so that none escapes the checks here."""
    known = {"sh", "console", "text", "python", "javascript", "json"}
    assert {block.language for block in _blocks(path)} <= known


def test_decisions_have_the_house_format() -> None:
    """Decisions are numbered without a hole, and each has its five parts in order, on about one page."""
    assert [int(path.name[:4]) for path in ADRS] == list(range(1, len(ADRS) + 1))
    for path in ADRS:
        text = path.read_text(encoding="utf-8")
        assert text.startswith(f"# {path.name[:4]}. "), path.name
        parts = re.findall(r"^## (.+)$", text, re.MULTILINE)
        assert parts == ["Status", "Context", "Decision", "Alternatives", "Consequences"], path.name
        assert len(text.splitlines()) <= 60, f"{path.name} is longer than a page"


def test_the_glossary_has_one_line_for_each_word() -> None:
    """A word is explained once."""
    words = [row[0] for row in _table(ROOT / "docs" / "glossary.md", "| word | meaning |")]
    assert len(words) == len(set(words))


def test_a_wrong_option_is_noticed() -> None:
    """The check of commands bites: an option or a subcommand that is not there fails it."""
    for words in (["lucid", "play", "s", "--no-such"], ["lucid", "nothing"], ["lucid", "dlq", "burn", "1"]):
        with pytest.raises(AssertionError):
            _parse(words)


def _definitions(folder: str) -> list[dict[str, Any]]:
    found = sorted((ROOT / "deploy" / "nats" / folder).glob("*.json"))
    return [json.loads(path.read_text(encoding="utf-8")) for path in found]


_SET_BY = {
    "{chunks_ack_wait}": "`COMPRESSOR_TIMEOUT`",
    "{chunks_pending}": "`COMPRESSOR_BUFFER_SIZE`",
    "{finaliser_ack_wait}": "`MERKLE_TIMEOUT`",
    "{finaliser_pending}": "`MERKLE_BUFFER_SIZE`",
}
"""Placeholder of a definition -> the setting that fills it."""


def _duration(nanoseconds: int | str) -> str:
    if isinstance(nanoseconds, str):
        return _SET_BY[nanoseconds]
    for unit, span in (("d", timedelta(days=1)), ("h", timedelta(hours=1)), ("s", timedelta(seconds=1))):
        count = nanoseconds / 1e9 / span.total_seconds()
        if count >= 1 and count == int(count):
            return f"{count:g} {unit}"
    return "–"


def _bytes(limit: int | str) -> str:
    if isinstance(limit, str):
        assert limit == "{capture_max_bytes}"
        return "`LUCID_CAPTURE_MAX_MB`"
    return "–" if limit < 0 else f"{limit // 1024**2} MiB"


def _anchors(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", _prose(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _click() -> Any:
    """The command line as the parser's own objects."""
    return typer.main.get_command(app)


def _parse(words: list[str]) -> None:
    """Follow `words` down the tree of commands; every option must be one of the command it stands at."""
    command, rest = _click(), words[1:]
    taken = ["lucid"]
    while rest:
        word, *rest = rest
        if word == "--":
            return
        if word.startswith("-") and len(word) > 1:
            options = {name for one in command.params for name in (*one.opts, *one.secondary_opts)}
            known = options | {"--help"}
            assert word.partition("=")[0] in known, f"{' '.join(taken)} has no option {word}"
        elif getattr(command, "commands", None) and taken[-1] in ("lucid", *command.commands, command.name):
            if word in command.commands:
                command = command.commands[word]
                taken.append(word)
            elif not _is_value(command, words, word):
                assert command.name == "chunks", f"{' '.join(taken)} has no command {word}"
                return


def _is_value(command: Any, words: list[str], word: str) -> bool:
    """Whether `word` is the value of the option before it."""
    before = words[words.index(word) - 1]
    return any(before in one.opts and not getattr(one, "is_flag", False) for one in command.params)
