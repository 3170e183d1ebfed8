"""Signs manifests for the finaliser, with the seed as it stands at that moment.

A rotated seed is taken up without a restart; one that can't be read any more is told loudly, and the
key that was read last goes on signing: evidence without a signature is the worse of the two.
"""

import logging

from lucid_events.domain.ids import SessionId
from lucid_events.domain.values import Manifest
from lucid_events.errors import ConfigError
from lucid_events.evidence.manifests import sign_manifest
from lucid_events.service.keys import load_signer

_log = logging.getLogger(__name__)


class ManifestSigner:
    """Signs under the seed that `given` is, or that the file it names holds.

    Raises:
        ConfigError: there is no seed to begin with.
    """

    def __init__(self, given: str) -> None:
        self._given = given
        self.signer = load_signer(given)

    def __call__(self, session: SessionId, manifest: Manifest) -> Manifest:
        """Return the manifest, signed."""
        try:
            signer = load_signer(self._given)
        except ConfigError as exc:
            _log.error(
                "the signing seed can't be read any more: the key read last signs",
                extra={"session": session, "reason": exc.message},
            )
        else:
            if signer.key != self.signer.key:
                _log.info("another key signs from now on", extra={"reason": signer.key})
            self.signer = signer
        return sign_manifest(self.signer, session, manifest)
