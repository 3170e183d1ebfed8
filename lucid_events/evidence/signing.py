"""Ed25519 signatures under nkeys: the key pairs, and their text form, that NATS operators know.

    seed        SA… 58 characters   base32( 0x90 | role >> 5, (role & 31) << 3, 32 seed bytes, crc )
    key         A…  56 characters   base32( role, 32 bytes of the public key, crc )
    signature       86 characters   base64url without padding of the 64 bytes of RFC 8032
    crc         CRC-16/XMODEM of everything before it, 2 bytes, little endian

The key is its own id: whoever knows it can check, and nobody has to look anything up. Only account
seeds (`SA…`) sign: a user's key signs whatever a server asks for when it connects, so evidence
signed by one would prove nothing. What is signed is for `manifests.py` and its neighbours to say;
every message begins with a tag of its own, so no signature stands for two things.
"""

import base64
import binascii
import os
import re
import string

import nkeys
from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey
from nacl.utils import random as random_bytes

from lucid_events.errors import ConfigError

SEED_CHARACTERS = 58
KEY_CHARACTERS = 56
SIGNATURE_CHARACTERS = 86

_ROLE = nkeys.PREFIX_BYTE_ACCOUNT

_SEED = re.compile(r"\W*(S[A-Z0-9]{40,})\W*", re.IGNORECASE)
"""A seed as people paste it: quoted, in lower case, a character short, an O typed as a 0."""
_UNSHOWN = 40
"""Characters of a text without a folder in it from which on it may be what is left of a seed."""
_SEED_IN = re.compile(r"S[A-Z2-7]{40,}", re.IGNORECASE)


class Signer:
    """Signs under one seed, which it never shows: not in its repr, not in an error.

    Raises:
        ConfigError: `seed` is not the seed of an account nkey.
    """

    def __init__(self, seed: str) -> None:
        self._signing = SigningKey(_raw_seed(seed.strip()))
        self.key = _encode_key(bytes(self._signing.verify_key))
        """The public key, under which others verify."""

    def sign(self, message: bytes) -> str:
        """Return the signature of `message`; the same message always gets the same one."""
        return _encode_signature(self._signing.sign(message).signature)

    def __repr__(self) -> str:
        return f"Signer({self.key})"


def verify(key: str, signature: str, message: bytes) -> bool:
    """Return whether `signature` is that of `message` by `key`.

    False for anything that is not exactly a signature, and for another spelling of a good one.

    Raises:
        ConfigError: `key` is not the public key of an account nkey.
    """
    raw = _raw_signature(signature)
    if raw is None:
        return False
    try:
        VerifyKey(_raw_key(key)).verify(message, raw)
    except BadSignatureError:
        return False
    return True


def generate_seed() -> str:
    """Return the seed of a new key pair, made of the operating system's random bytes."""
    return str(nkeys.encode_seed(random_bytes(32), _ROLE).decode())


def seed_in(text: str) -> str | None:
    """Return the seed that `text` is, good or mistyped, without what stands around it; None: none."""
    bare = text.strip(f"{string.whitespace}'\"`")
    if found := _SEED.fullmatch(bare):
        return found[1]
    return bare if len(bare) == SEED_CHARACTERS and bare[0] == "S" and os.sep not in bare else None


def may_be_seed(text: str) -> bool:
    """Return whether `text` may hold a seed and is not to be shown; so may a long name."""
    bare = "".join(text.split())
    return _SEED_IN.search(bare) is not None or (os.sep not in bare and len(bare) >= _UNSHOWN)


def check_key(key: str) -> str:
    """Return `key` if it is the public key of an account nkey.

    Raises:
        ConfigError: it is not; the message says why.
    """
    _raw_key(key)
    return key


def _raw_seed(seed: str) -> bytes:
    try:
        role, raw = nkeys.decode_seed(seed.encode("ascii"))
        # The package does not look at the checksum, so a mistyped seed would be another key.
        intact = nkeys.encode_seed(bytes(raw), role).decode() == seed
    except (nkeys.NkeysError, ValueError, IndexError):
        raise ConfigError(
            "the signing seed is not an nkey seed: it is 58 characters and begins with SA; "
            "make one with `lucid keys generate`"
        ) from None  # the cause may quote the seed
    if not intact:
        raise ConfigError("the signing seed is mistyped: its checksum does not fit")
    if role != _ROLE:
        raise ConfigError(
            "the signing seed is not an account's (SA…): a key that connects to servers signs what they "
            "ask for, so it can't vouch for evidence; make one with `lucid keys generate`"
        )
    return bytes(raw)


def _raw_key(key: str) -> bytes:
    try:
        raw = base64.b32decode(key.encode("ascii"))
    except (binascii.Error, ValueError):
        raw = b""
    if len(key) != KEY_CHARACTERS or len(raw) != 35 or raw[0] != _ROLE:
        what = (
            "what stands there" if seed_in(key) or _SEED_IN.search("".join(key.split())) else repr(key[:80])
        )
        raise ConfigError(f"{what} is not a signing key: it is 56 characters and begins with A")
    if _crc(raw[:-2]) != raw[-2:]:
        raise ConfigError(f"signing key {key} is mistyped: its checksum does not fit")
    return raw[1:-2]


def _encode_key(raw: bytes) -> str:
    body = bytes([_ROLE]) + raw
    return base64.b32encode(body + _crc(body)).decode()


def _crc(data: bytes) -> bytes:
    return binascii.crc_hqx(data, 0).to_bytes(2, "little")


def _encode_signature(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _raw_signature(signature: str) -> bytes | None:
    try:
        raw = base64.urlsafe_b64decode(signature + "==")
    except (binascii.Error, ValueError):
        return None
    # Base64 has several spellings of the same bytes: only ours is the signature.
    return raw if len(raw) == 64 and _encode_signature(raw) == signature else None
