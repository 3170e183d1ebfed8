"""A gateway's word for who sent a command: believed with the key, for this command, and never else."""

from pathlib import Path

import pytest

from lucid_events import codec
from lucid_events.credentials import Credentials, Role
from lucid_events.handlers.vouching import PROOF, Voucher

SUBJECT, BODY = "lucid.cmd.s-1.stop", b'{"reason": "done"}'
HEADERS = {codec.ID: "id-1", codec.TIME: "2026-01-01T00:00:00.000000Z", codec.ACTOR: "Zo%C3%AB"}


def voucher(folder: Path) -> Voucher:
    """A voucher with a key of its own."""
    file = Credentials(folder / "access.json")
    file.add("somebody", frozenset({Role.VIEWER}))
    return Voucher(file)


def test_what_is_vouched_for_is_believed(tmp_path: Path) -> None:
    """Another process with the same file learns the name from the proof."""
    proven = {**HEADERS, **voucher(tmp_path).vouch(SUBJECT, HEADERS, BODY)}
    other = Voucher(Credentials(tmp_path / "access.json"))
    assert other.identify(SUBJECT, proven, BODY) == "Zoë"


@pytest.mark.parametrize(
    "changed",
    [
        {codec.ACTOR: "root"},
        {codec.ID: "id-2"},
        {codec.TIME: "2027-01-01T00:00:00.000000Z"},
        {codec.IF_VERSION: "7"},
        {PROOF: "0" * 64},
        {PROOF: ""},
        {PROOF: "ä"},
    ],
)
def test_a_proof_is_of_one_command_alone(changed: dict[str, str], tmp_path: Path) -> None:
    """Put onto another command, name, id or time it proves nothing."""
    one = voucher(tmp_path)
    proven = {**HEADERS, **one.vouch(SUBJECT, HEADERS, BODY)}
    assert one.identify(SUBJECT, {**proven, **changed}, BODY) is None
    assert one.identify("lucid.cmd.s-1.cleanup", proven, BODY) is None
    assert one.identify("lucid.cmd.s-2.stop", proven, BODY) is None
    assert one.identify(SUBJECT, proven, BODY + b" ") is None
    assert one.identify(SUBJECT, HEADERS, BODY) is None


def test_another_key_proves_nothing(tmp_path: Path) -> None:
    """Who has a key of their own is not believed; a file that can't be read makes everybody a claim."""
    ours, theirs = voucher(tmp_path / "ours"), voucher(tmp_path / "theirs")
    proven = {**HEADERS, **theirs.vouch(SUBJECT, HEADERS, BODY)}
    assert ours.identify(SUBJECT, proven, BODY) is None
    proven = {**HEADERS, **ours.vouch(SUBJECT, HEADERS, BODY)}
    (tmp_path / "ours" / "access.json").chmod(0o644)
    assert ours.identify(SUBJECT, proven, BODY) is None
