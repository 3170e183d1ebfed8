from datetime import UTC, datetime, timedelta

import pytest

from lucid_events.errors import ConfigError
from lucid_events.evidence.keys import KeyList, read_keys, write_keys
from lucid_events.evidence.signing import Signer, generate_seed

T0 = datetime(2026, 1, 1, tzinfo=UTC)
KEY = Signer(generate_seed()).key


def test_a_list_is_read_as_it_was_written() -> None:
    """Writing and reading keeps every key, its time, its note and their order."""
    keys = KeyList().add(KEY, at=T0, note="desk").add(Signer(generate_seed()).key, at=T0)
    keys = keys.retire(KEY, until=T0 + timedelta(days=1))
    assert read_keys(write_keys(keys), "keys.json") == keys


def test_a_retired_key_is_good_for_its_time() -> None:
    """From the moment it is added to the moment it is retired, both included, and no longer."""
    keys = KeyList().add(KEY, at=T0).retire(KEY, until=T0 + timedelta(days=1))
    known = keys.find(KEY)
    assert known is not None
    assert known.retired
    moment = timedelta(microseconds=1)
    judged = [known.valid_at(T0 + at) for at in (-moment, 0 * moment, timedelta(days=1))]
    assert judged == [False, True, True]
    assert not known.valid_at(T0 + timedelta(days=1) + moment)


def test_what_makes_no_sense_is_refused() -> None:
    """A key is added once, and retired when it is there and not retired before."""
    keys = KeyList().add(KEY, at=T0)
    with pytest.raises(ConfigError, match="already"):
        keys.add(KEY, at=T0)
    with pytest.raises(ConfigError, match="not in the list"):
        KeyList().retire(KEY, until=T0)
    with pytest.raises(ConfigError, match="retired already"):
        keys.retire(KEY, until=T0).retire(KEY, until=T0 + timedelta(days=1))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not a list"),
        ("[]", "not a list"),
        ('{"keys": [], "more": 1}', "not a list"),
        ('{"keys": [{"key": "A", "valid_from": "2026-01-01T00:00:00Z"}]}', "not a signing key"),
        (f'{{"keys": [{{"key": "{KEY}", "valid_from": "2026-01-01T00:00:00"}}]}}', "not a list"),
        (
            f'{{"keys": [{{"key": "{KEY}", "valid_from": "2026-01-01T00:00:00Z", "retired": true}}]}}',
            "no valid_until",
        ),
        (
            f'{{"keys": [{{"key": "{KEY}", "valid_from": "2026-01-01T00:00:00Z", '
            '"valid_until": "2025-01-01T00:00:00Z"}]}',
            "ends before",
        ),
        (
            f'{{"keys": [{{"key": "{KEY}", "valid_from": "2026-01-01T00:00:00Z"}}, '
            f'{{"key": "{KEY}", "valid_from": "2026-02-01T00:00:00Z"}}]}}',
            "twice",
        ),
    ],
)
def test_a_wrong_list_is_refused_by_name(text: str, said: str) -> None:
    """Whatever does not fit names the file and what is wrong: nobody is believed by accident."""
    with pytest.raises(ConfigError, match=said) as caught:
        read_keys(text.encode(), "keys.json")
    assert "keys.json" in caught.value.message
