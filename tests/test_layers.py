"""The rings of the package: what may import what.

The rules themselves are in `.importlinter`; here they are run, shown to bite, and shown to be complete.
"""

from __future__ import annotations

import configparser
import re
import subprocess
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CONTRACTS = ROOT / ".importlinter"
LAYOUT = ROOT / "docs" / "layout.md"
PACKAGE = ROOT / "lucid_events"
LINT_TIMEOUT_S = 60


def _contracts() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(CONTRACTS, encoding="utf-8")
    return parser


def _rings() -> list[set[str]]:
    """The rings as written, outermost first."""
    lines = _contracts()["importlinter:contract:rings"]["layers"].split("\n")
    return [{name.strip(" ()") for name in line.split("|")} for line in lines if line]


def _modules(package: Path) -> set[str]:
    """Names directly under `package` that can be imported, whether or not they have an __init__.py."""
    files = {path.stem for path in package.glob("*.py")} - {"__init__"}
    folders = {path.parent.relative_to(package).parts[0] for path in package.glob("*/**/*.py")}
    return files | folders


def _lint(tree: Path) -> subprocess.CompletedProcess[str]:
    """Check the `lucid_events` found in `tree`.

    In a process of its own, because import-linter reconfigures logging and the import path.
    """
    program = Path(sysconfig.get_path("scripts")) / "lint-imports"
    return subprocess.run(
        [program, "--config", CONTRACTS, "--no-cache", "--no-logo"],
        cwd=tree,
        capture_output=True,
        text=True,
        timeout=LINT_TIMEOUT_S,
        check=False,
    )


def test_imports_point_inward() -> None:
    """The package keeps every contract on its imports."""
    result = _lint(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_module_is_in_exactly_one_ring() -> None:
    """A new top-level module must be given a ring before it can land."""
    rings = _rings()
    placed = [name for ring in rings for name in ring]
    assert len(placed) == len(set(placed)), "a module is in two rings"
    homeless = _modules(PACKAGE) - set(placed)
    assert not homeless, f"in no ring of {CONTRACTS.name}: {', '.join(sorted(homeless))}"


def test_the_map_of_the_package_is_that_of_the_rings() -> None:
    """`docs/layout.md` has every module in its ring, outermost first, and names no other."""
    shown: dict[int, set[str]] = {}
    for ring, path in re.findall(
        r"^\| (\d+) \| `lucid_events/([^`]+)` \|", LAYOUT.read_text(encoding="utf-8"), re.M
    ):
        shown.setdefault(int(ring), set()).add(path.rstrip("/").removesuffix(".py"))
        assert (PACKAGE / path).is_dir() if path.endswith("/") else (PACKAGE / path).is_file(), path
    assert list(shown) == sorted(shown)
    assert list(shown.values()) == _rings()


def test_every_ring_but_its_own_guards_the_faust_driver() -> None:
    """The contract that isolates the Faust driver names the same modules as the rings."""
    contract = _contracts()["importlinter:contract:faust-driver"]["layers"]
    named = {name.strip(" ()") for line in contract.split("\n") if line for name in line.split(" : ")}
    assert named == set().union(*_rings())


def test_the_root_package_does_not_load_the_client() -> None:
    """Importing `lucid_events.domain` does not import nats by way of the root module."""
    source = (PACKAGE / "__init__.py").read_text(encoding="utf-8")
    imports = [line for line in source.splitlines() if line.lstrip().startswith(("import ", "from "))]
    assert not [line for line in imports if "nats" in line or "jetstream" in line]


@pytest.mark.parametrize(
    ("files", "contract"),
    [
        ({"domain/state.py": "import lucid_events.ports"}, "Imports point inward only"),
        ({"errors.py": "import lucid_events.domain"}, "Imports point inward only"),
        ({"memory.py": "from lucid_events import handlers"}, "Imports point inward only"),
        ({"ports.py": "import lucid_events.codec"}, "Imports point inward only"),
        ({"faust_nats/__init__.py": "import lucid_events.errors"}, "Imports point inward only"),
        ({"gateway/__init__.py": "import lucid_events.cli"}, "Imports point inward only"),
        ({"surprise.py": ""}, "Imports point inward only"),
        ({"domain/state.py": "import time"}, "The domain is pure"),
        ({"domain/state.py": "from os import environ"}, "The domain is pure"),
        ({"service.py": "import nats.js"}, "Only jetstream imports nats"),
        ({"gateway/__init__.py": "import lucid_events.jetstream.store"}, "Only service imports jetstream"),
        ({"cli/__init__.py": "from lucid_events import jetstream"}, "Only service imports jetstream"),
        ({"projections/status.py": "import faust"}, "Only faust_nats and projections.analytics import faust"),
        ({"projections/status.py": "import lucid_events.faust_nats"}, "faust_nats stands alone"),
    ],
    ids=lambda value: "; ".join(f"{k}: {v}" for k, v in value.items()) if isinstance(value, dict) else value,
)
def test_a_forbidden_import_is_found(tmp_path: Path, files: dict[str, str], contract: str) -> None:
    """Each contract breaks, by name, when one import against it is added to a package that keeps them all."""
    result = _lint(_scratch_package(tmp_path, files))
    broken = [line for line in result.stdout.splitlines() if line.startswith(contract) and " BROKEN" in line]
    assert result.returncode != 0
    assert broken, result.stdout + result.stderr


def test_the_allowed_imports_pass(tmp_path: Path) -> None:
    """The contracts leave room for the imports the design is built on."""
    result = _lint(_scratch_package(tmp_path, {}))
    assert result.returncode == 0, result.stdout + result.stderr


def _scratch_package(tree: Path, changes: dict[str, str]) -> Path:
    """Write a package of the design's shape into `tree`, with `changes` in place of files it has."""
    files = {
        "__init__.py": "",
        "cli/__init__.py": "import lucid_events.gateway, lucid_events.service",
        "gateway/__init__.py": "import lucid_events.service",
        "service.py": "import lucid_events.jetstream.store, lucid_events.handlers",
        "handlers/__init__.py": "import lucid_events.ports",
        "projections/__init__.py": "import lucid_events.ports",
        "projections/analytics.py": "import faust, lucid_events.faust_nats",
        "jetstream/__init__.py": "",
        "jetstream/store.py": "import nats, lucid_events.ports",
        "memory.py": "import lucid_events.ports",
        "ports.py": "import lucid_events.domain",
        "codec.py": "import lucid_events.errors",
        "faust_nats/__init__.py": "import faust, nats",
        "domain/__init__.py": "import lucid_events.errors, msgspec",
        "errors.py": "",
    }
    for name, text in (files | changes).items():
        path = tree / "lucid_events" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n", encoding="utf-8")
    return tree
