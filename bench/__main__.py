"""Measure what the product promises to be, each against its rival in the same run.

    python -m bench [--only NAME …] [--runs 5] [--quick] [--json] [--write docs/performance.md]

Names: record, script, objects, commands, latency, replay, verify, http, faust. Fails on nothing but lost
bytes: figures of a shared machine are no test. `--write` puts the rows into the page's table, between its
markers, and leaves the rest as it is.
"""

import argparse
import asyncio
import json
import sys
from pathlib import Path

import uvloop

from bench import commands, faust, http_load, objects, recordings, replays, verify
from bench.measure import Outcome, table
from bench.page import write

NAMES = ("record", "script", "objects", "commands", "latency", "replay", "verify", "http", "faust")


async def measure(names: list[str], *, runs: int, quick: bool) -> list[Outcome]:
    """Run the named measures, one after another."""
    found: list[Outcome] = []
    if {"record", "script"} & set(names):
        found += await recordings.measure(names, runs=runs, mib=64 if quick else 512)
    if "objects" in names:
        found += await objects.measure(runs=runs, objects=2 if quick else 10)
    if {"commands", "latency"} & set(names):
        found += await commands.measure(names, runs=runs, each=10 if quick else 40, asks=50 if quick else 200)
    if "replay" in names:
        found += await replays.measure(runs=runs, events=10_000 if quick else 100_000)
    if "verify" in names:
        found += await verify.measure(runs=runs, mib=64 if quick else 1024)
    if "http" in names:
        found += await http_load.measure(runs=runs, quick=quick)
    if "faust" in names:
        found += await faust.measure(runs=runs, quick=quick)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--only", action="append", choices=NAMES, help="measure this; may be repeated")
    parser.add_argument("--runs", type=int, default=5, help="runs of each side (default 5)")
    parser.add_argument("--quick", action="store_true", help="small sizes: to see that it works")
    parser.add_argument("--json", action="store_true", help="print every time as JSON")
    parser.add_argument("--write", type=Path, help="page to put the table into")
    asked = parser.parse_args()
    names = asked.only or list(NAMES)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found = runner.run(measure(names, runs=asked.runs, quick=asked.quick))
    if asked.json:
        json.dump([outcome.data() for outcome in found], sys.stdout, indent=1)
        print()
    else:
        print(table(found))
    if asked.write:
        write(asked.write, [outcome.row() for outcome in found])


if __name__ == "__main__":
    main()
