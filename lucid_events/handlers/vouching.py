"""A gateway's word for who sent a command, in a form that only holders of the same key can give.

Whoever may publish commands could write any name into `Lucid-Actor`. A gateway that has checked an
identity adds a proof (HMAC-SHA256) over everything the command is; the service that decides it checks
the proof with the key of the same access file. Without one the name is stored as a claim.

    lucid.vouched.v1 | subject | ce-id | ce-time | Lucid-Actor | Lucid-If-Version | SHA-256(body)

each part preceded by its length (8 bytes, big-endian), so that no two commands give the same text.
"""

import hashlib
import hmac
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from lucid_events import codec
from lucid_events.config import Settings
from lucid_events.credentials import Credentials
from lucid_events.errors import ConfigError

PROOF: Final = "Lucid-Actor-Proof"
_DOMAIN: Final = b"lucid.vouched.v1"
_COVERED: Final = (codec.ID, codec.TIME, codec.ACTOR, codec.IF_VERSION)

_log = logging.getLogger(__name__)


class Voucher:
    """Gives and checks proofs with the key of `credentials`, as it is at the moment."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials

    def vouch(self, subject: str, headers: Mapping[str, str], body: bytes) -> Mapping[str, str]:
        """Return the headers that prove the actor of this command.

        Raises:
            ConfigError: the file of credentials can't be read.
        """
        return {PROOF: self._proof(subject, headers, body)}

    def identify(self, subject: str, headers: Mapping[str, str], body: bytes) -> str | None:
        """Return the actor of a command when a proof says who it is, else None."""
        given = headers.get(PROOF)
        if given is None:
            return None
        try:
            expected = self._proof(subject, headers, body)
        except ConfigError as exc:
            _log.error("a proof can't be checked", extra={"subject": subject, "reason": exc.message})
            return None
        if not hmac.compare_digest(given.encode(), expected.encode()):
            _log.warning("a proof of somebody's identity is wrong", extra={"subject": subject})
            return None
        return unquote(headers.get(codec.ACTOR, ""))

    def _proof(self, subject: str, headers: Mapping[str, str], body: bytes) -> str:
        parts = [_DOMAIN, subject.encode(), *(headers.get(name, "").encode() for name in _COVERED)]
        parts.append(hashlib.sha256(body).digest())
        text = b"".join(len(part).to_bytes(8) + part for part in parts)
        return hmac.new(self._credentials.identity_key(), text, hashlib.sha256).hexdigest()


def voucher_of(settings: Settings) -> Voucher | None:
    """Return the voucher of the access file, None where nobody's identity is checked."""
    file = settings.http.access_file
    return Voucher(Credentials(Path(file))) if file else None
