import json
import os
import traceback
from pathlib import Path

import pytest

from lucid_events.domain.ids import SessionId
from lucid_events.domain.values import Manifest
from lucid_events.errors import ConfigError
from lucid_events.evidence.keys import KeyList
from lucid_events.evidence.manifests import Signature, check_signature
from lucid_events.evidence.signing import Signer, generate_seed
from lucid_events.service.keys import is_seed, load_keys, load_signer, save_keys, write_seed
from lucid_events.service.signing import ManifestSigner

SID = SessionId("s1")
MANIFEST = Manifest(
    version=1,
    chunks=0,
    raw_bytes=0,
    stored_bytes=0,
    end_offset=0,
    merkle_root="ab" * 32,
    chain_head="cd" * 32,
    events=1,
)


def test_a_seed_is_written_for_its_owner_alone(tmp_path: Path) -> None:
    """The file of a seed has mode 0600 whatever the umask, and reads back as the same key."""
    seed, path = generate_seed(), tmp_path / "seed"
    before = os.umask(0)
    try:
        write_seed(path, seed)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_signer(str(path)).key == Signer(seed).key == load_signer(seed).key
    assert [file.name for file in tmp_path.iterdir()] == ["seed"]


def test_a_seed_is_not_overwritten(tmp_path: Path) -> None:
    """A file that is there stays, unless replacing it is what was asked for."""
    path = tmp_path / "seed"
    write_seed(path, generate_seed())
    key = load_signer(str(path)).key
    with pytest.raises(ConfigError, match="exists already"):
        write_seed(path, generate_seed())
    assert load_signer(str(path)).key == key
    write_seed(path, generate_seed(), replace=True)
    assert load_signer(str(path)).key != key


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o610])
def test_a_seed_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    """A seed with any right for anybody else is not used, and the error says how to mend it."""
    path = tmp_path / "seed"
    seed = generate_seed()
    write_seed(path, seed)
    path.chmod(mode)
    with pytest.raises(ConfigError, match="chmod 600") as caught:
        load_signer(str(path))
    assert seed not in str(caught.value)


def test_what_is_no_seed_is_not_quoted(tmp_path: Path) -> None:
    """Neither a missing file, a folder, nor a file with something else in it shows what it holds."""
    path = tmp_path / "seed"
    with pytest.raises(ConfigError, match="can't be read"):
        load_signer(str(path))
    with pytest.raises(ConfigError, match="not a file"):
        load_signer(str(tmp_path))
    path.write_text("hunter2 hunter2")
    path.chmod(0o600)
    with pytest.raises(ConfigError) as caught:
        load_signer(str(path))
    assert "hunter2" not in str(caught.value)


def test_a_list_of_keys_is_written_whole(tmp_path: Path) -> None:
    """A list reads back as it was saved, and one that can't be read is an error that names the file."""
    path = tmp_path / "keys.json"
    save_keys(path, KeyList())
    assert load_keys(path) == KeyList()
    with pytest.raises(ConfigError, match="nowhere"):
        load_keys(tmp_path / "nowhere")


def test_a_rotated_seed_signs_at_once_and_a_lost_one_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Manifests are signed by the seed in the file now; when it can't be read, by the last one, loudly."""
    path = tmp_path / "seed"
    write_seed(path, generate_seed())
    signer = ManifestSigner(str(path))
    first = signer(SID, MANIFEST)
    write_seed(path, generate_seed(), replace=True)
    second = signer(SID, MANIFEST)
    assert first.key != second.key
    assert check_signature(SID, first) is check_signature(SID, second) is Signature.GOOD
    path.unlink()
    assert signer(SID, MANIFEST) == second
    assert "can't be read any more" in caplog.text


def test_without_a_seed_nothing_starts(tmp_path: Path) -> None:
    """A signer that has no seed to begin with is an error at once, not at the first stop."""
    with pytest.raises(ConfigError):
        ManifestSigner(str(tmp_path / "seed"))


GOOD = generate_seed()


@pytest.mark.parametrize(
    "given",
    [f"{GOOD}\n", f" {GOOD}", f'"{GOOD}"', f"'{GOOD}'\n", f'\t"{GOOD}" '],
    ids=["newline", "space", "quotes", "single quotes", "all of them"],
)
def test_a_seed_is_taken_without_what_stands_around_it(given: str) -> None:
    """Whitespace and quotes that a secret store leaves around a seed are not part of it."""
    assert is_seed(given)
    assert load_signer(given).key == Signer(GOOD).key


@pytest.mark.parametrize(
    "given",
    [
        GOOD[:-1],
        GOOD + "A",
        GOOD.lower(),
        f"«{GOOD.lower()}»\n",
        "/" + GOOD[:-1],
        GOOD[:30] + "0" + GOOD[31:],
        GOOD[:30] + "-" + GOOD[31:],
        GOOD[:30] + "-" + GOOD[32:],
        GOOD[:30] + "\n" + GOOD[30:],
        f"LUCID_SIGNING_SEED={GOOD}",
        f"/run/{GOOD}/seed",
    ],
    # A new seed each time: as a part of the test's name, pytest-xdist would see other tests in each process.
    ids=[
        "too short",
        "too long",
        "lower case",
        "in other quotes",
        "behind a slash",
        "a wrong letter",
        "a dash in it",
        "a dash instead of letters",
        "broken in two",
        "with its name",
        "in a path",
    ],
)
def test_what_may_be_a_seed_is_never_shown(
    given: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A seed that is mistyped, or stands where a name belongs, is an error that does not quote it."""
    path = tmp_path / "seed"
    write_seed(path, GOOD)
    manifests = ManifestSigner(str(path))
    manifests._given = given
    manifests(SID, MANIFEST)
    with pytest.raises(ConfigError) as signer:
        load_signer(given)
    with pytest.raises(ConfigError) as keys:
        load_keys(Path(given))
    said = [caplog.text, *(str(vars(record)) for record in caplog.records)]
    for caught in (signer, keys):
        said += ["".join(traceback.format_exception(caught.value))]
    for text in said:
        assert not any(part in text.upper() for part in (GOOD[:25], GOOD[-25:]))


def test_a_seed_is_no_name_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A seed given for the file to write it to is refused unseen, and no file of that name is made."""
    monkeypatch.chdir(tmp_path)
    for replace in (False, True):
        with pytest.raises(ConfigError) as caught:
            write_seed(Path(GOOD), GOOD, replace=replace)
        assert GOOD not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_seed_in_the_list_of_keys_is_not_shown(tmp_path: Path) -> None:
    """A list with a seed where the public key belongs is refused, and the seed is not quoted."""
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({"keys": [{"key": GOOD, "valid_from": "2026-01-31T12:00:00Z"}]}))
    with pytest.raises(ConfigError, match="not a signing key") as caught:
        load_keys(path)
    assert GOOD not in "".join(traceback.format_exception(caught.value))
