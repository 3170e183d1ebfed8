"""The commands of `docs/http.md`, copied from the page and run by a shell with curl."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.end_to_end.http import Http

PAGE = Path(__file__).resolve().parents[3] / "docs" / "http.md"
BLOCK = re.compile(r"(?:^    \S.*\n)+", re.MULTILINE)
SHELL_S = 60
MIB = 1024 * 1024

PIPELINES, RECORDINGS = "http://127.0.0.1:8083", "http://127.0.0.1:8084"
"""Where the page has the services."""
FAILING = 'set -eu\ncurl() { command curl -sS --fail-with-body -m 30 "$@"; echo; }\n'
"""A refusal ends the script; curl itself calls any answer a success."""


def _block(holding: str) -> str:
    """Return the one block of commands that has `holding` in it."""
    (found,) = (block for block in BLOCK.findall(PAGE.read_text(encoding="utf-8")) if holding in block)
    return str(found)


def _run(http: Http, sid: str, folder: Path, commands: str) -> str:
    """Run what the page says, on these services and this session, and return what was answered."""
    here = str(http.pipelines.base_url).rstrip("/"), str(http.recordings.base_url).rstrip("/")
    moved = commands.replace(PIPELINES, here[0]).replace(RECORDINGS, here[1]).replace("s1", sid)
    done = subprocess.run(
        ["bash", "-c", FAILING + moved],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "P": here[0], "R": here[1]},
        capture_output=True,
        text=True,
        timeout=SHELL_S,
        check=False,
    )
    assert done.returncode == 0, f"{moved}\n{done.stdout}{done.stderr}"
    return done.stdout


def test_a_recording_by_hand(http: Http, sid: str, tmp_path: Path) -> None:
    """The walk of the page records two parts and plays the first hundred bytes of them."""
    (tmp_path / "part1").write_bytes(b"1" * 60)
    (tmp_path / "part2").write_bytes(b"2" * 60)
    said = _run(http, sid, tmp_path, _block("part1"))
    assert "1" * 60 + "2" * 40 in said
    assert http.media(sid) == b"1" * 60 + b"2" * 60


@pytest.mark.parametrize("ended", [False, True], ids=["its gateway is there", "it is in error"])
def test_going_on_after_anything_went_wrong(http: Http, sid: str, tmp_path: Path, ended: bool) -> None:
    """Asking for the offset leads on; of a session that was given up, once it is recovered and started."""
    http.active(sid)
    assert http.pipelines.post(f"/pipelines/{sid}/chunks", content=b"a" * MIB).status_code == 202
    (tmp_path / "rest").write_bytes(b"the rest")
    if ended:
        http.pipelines.post(f"/pipelines/{sid}/fail")
        assert f"upload-offset: {MIB}" in _run(http, sid, tmp_path, _block("/recover")).lower()
    _run(http, sid, tmp_path, _block("@rest"))
    http.stop(sid)
    assert http.media(sid) == b"a" * MIB + b"the rest"
