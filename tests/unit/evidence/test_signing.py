import base64

import nkeys
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lucid_events.errors import ConfigError
from lucid_events.evidence.framing import framed
from lucid_events.evidence.signing import (
    KEY_CHARACTERS,
    SEED_CHARACTERS,
    SIGNATURE_CHARACTERS,
    Signer,
    check_key,
    generate_seed,
    verify,
)

SEED = nkeys.encode_seed(bytes(range(32)), nkeys.PREFIX_BYTE_ACCOUNT).decode()
KEY = "AAB2CB576PHBBPQ5ODORRZ2LYCMWPZGWGCN2KDK7DXOIMZASKUY3QPZV"
PINNED = "WDSpNer32RuwvGVrU_qumx-Cqj4OmHO5MfHG0j6SLADpEoRd_WjrPB8GRqxFShF2pMEZPfHjX_Bme-Nb87lEDg"


def test_keys_are_those_of_the_nkeys_package() -> None:
    """A seed stands for the same key and makes the same signature here and in the nkeys package."""
    seed = generate_seed()
    pair = nkeys.from_seed(seed.encode())
    signer = Signer(seed)
    assert signer.key == pair.public_key.decode()
    assert base64.urlsafe_b64decode(signer.sign(b"m") + "==") == pair.sign(b"m")
    assert (len(seed), len(signer.key), len(signer.sign(b""))) == (
        SEED_CHARACTERS,
        KEY_CHARACTERS,
        SIGNATURE_CHARACTERS,
    )


def test_a_signature_stands() -> None:
    """A signature is pinned: what was signed once verifies for ever."""
    signer = Signer(SEED)
    assert signer.key == KEY
    assert verify(KEY, PINNED, framed("lucid_events/test", "message"))
    assert signer.sign(framed("lucid_events/test", "message")) == PINNED


@given(st.binary(max_size=40), st.integers(0, 10_000))
def test_any_other_message_or_signature_is_refused(message: bytes, place: int) -> None:
    """One changed bit of message or signature, or another key, does not verify."""
    signer = Signer(SEED)
    signature = signer.sign(message)
    assert verify(signer.key, signature, message)
    assert not verify(signer.key, signature, message + b"\0")
    assert not verify(Signer(generate_seed()).key, signature, message)
    raw = bytearray(base64.urlsafe_b64decode(signature + "=="))
    raw[place % 64] ^= 1 << place % 8
    assert not verify(signer.key, base64.urlsafe_b64encode(raw).decode().rstrip("="), message)


@pytest.mark.parametrize(
    "spoil", [lambda s: s + "==", lambda s: s[:-1] + "B", lambda s: s[:-2], lambda s: "é"]
)
def test_a_signature_has_one_spelling(spoil) -> None:  # type: ignore[no-untyped-def] # a lambda of the table
    """Padding, spare bits, a cut and foreign characters are no signature."""
    signer = Signer(SEED)
    signature = signer.sign(b"m")
    assert spoil(signature) == signature or not verify(signer.key, spoil(signature), b"m")


def test_a_seed_is_never_shown() -> None:
    """Neither the repr of a signer nor the errors of wrong seeds quote a seed."""
    assert SEED not in repr(Signer(SEED))
    wrong = [SEED[:-1] + ("A" if SEED[-1] != "A" else "B"), SEED[:-3], "SU" + SEED[2:], SEED.lower(), ""]
    for seed in wrong:
        with pytest.raises(ConfigError) as caught:
            Signer(seed)
        chain = [caught.value, caught.value.__cause__, caught.value.__context__]
        assert not seed or not any(seed in str(error) for error in chain[:2])


def test_a_connecting_key_does_not_sign() -> None:
    """A user's seed is refused: servers choose what such keys sign."""
    seed = nkeys.encode_seed(bytes(32), nkeys.PREFIX_BYTE_USER).decode()
    with pytest.raises(ConfigError, match="account"):
        Signer(seed)


@pytest.mark.parametrize(
    "key", ["", "A", KEY[:-1], KEY + "A", "B" + KEY[1:], KEY[:9] + "Z" + KEY[10:], "é" * 56]
)
def test_a_mistyped_key_is_named(key: str) -> None:
    """A key that is cut, changed or of another role is a ConfigError, not a failed check."""
    with pytest.raises(ConfigError):
        check_key(key)
    assert check_key(KEY) == KEY
