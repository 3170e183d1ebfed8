"""Print the exact packages of a service: ours, those of its extras and all they need, at the tested versions.

    python deploy/containers/requirements.py pipeline > requirements.txt

For images of your own, mirrors and bills of materials. What pyproject.toml asks for is walked through the
packages that are installed; each version is that of constraints.txt, and a package without one is an error.
"""

import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]

EXTRAS = {"pipeline": ("http",), "recorder": ("demo", "http"), "worker": ("http",)}
"""Service -> extras of lucid_events; `demo` brings ffmpeg, which records screens."""


def canonical(name: str) -> str:
    """Return a package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def wanted(texts: Iterable[str], extras: Iterable[str], seen: set[str]) -> Iterator[str]:
    """Yield the names of all that the requirements `texts` bring on this platform."""
    chosen = [*extras] or [""]
    for text in texts:
        asked = Requirement(text)
        if asked.marker and not any(asked.marker.evaluate({"extra": one}) for one in chosen):
            continue
        known = f"{canonical(asked.name)}{sorted(asked.extras)}"
        if known not in seen:
            seen.add(known)
            yield canonical(asked.name)
            yield from wanted(metadata.requires(asked.name) or (), asked.extras, seen)


def pinned(service: str) -> list[str]:
    """Return `name==version` of every package of `service`, sorted.

    Raises:
        SystemExit: a package is not installed, or has no version in constraints.txt.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    texts = [*project["dependencies"]]
    for extra in EXTRAS[service]:
        texts += project["optional-dependencies"][extra]
    try:
        names = sorted(set(wanted(texts, (), set())))
    except metadata.PackageNotFoundError as exc:
        extras = ",".join(EXTRAS[service])
        raise SystemExit(f"{exc.name} is not installed: pip install -e '.[{extras}]'") from exc
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    versions = {canonical(line.partition("==")[0]): line.partition("==")[2] for line in lines if "==" in line}
    if missing := [name for name in names if name not in versions]:
        raise SystemExit(f"constraints.txt has no version of {', '.join(missing)}: add them")
    return [f"{name}=={versions[name]}" for name in names]


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in EXTRAS:
        raise SystemExit(f"usage: {sys.argv[0]} {'|'.join(EXTRAS)}")
    print("\n".join(pinned(sys.argv[1])))
