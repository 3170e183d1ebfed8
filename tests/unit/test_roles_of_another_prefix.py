"""The command of `deploy/nats/README.md` that makes the roles of another prefix."""

import re
import shlex
import subprocess
from pathlib import Path

from lucid_events.subjects import Subjects

NATS = Path(__file__).parents[2] / "deploy" / "nats"


def test_the_roles_of_another_prefix_name_what_it_names() -> None:
    """The documented command leaves nothing of the default prefix, and touches neither accounts nor keys."""
    command = next(x for x in (NATS / "README.md").read_text().splitlines() if x.startswith("sed "))
    words, _, _ = command.partition(" > ")
    made = subprocess.run(shlex.split(words), cwd=NATS, check=True, capture_output=True, text=True).stdout
    before, after = _said((NATS / "roles.conf").read_text()), _said(made)
    assert len(after) == len(before)
    assert "lucid" not in "".join(after)
    acme, lucid = Subjects("acme"), Subjects("lucid")
    for name in ("events_stream", "capture_stream", "chunks_bucket", "meta_bucket"):
        wanted = "".join(before).count(getattr(lucid, name))
        assert "".join(after).count(getattr(acme, name)) == wanted > 0, name
    for one in (r"\$LUCID_[A-Z_]+", r"\bLUCID\b(?!_)"):
        assert re.findall(one, "".join(after)) == re.findall(one, "".join(before)) != [], one


def _said(conf: str) -> list[str]:
    return [line for line in conf.splitlines() if not line.lstrip().startswith("#")]
