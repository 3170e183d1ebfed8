"""What a caller who knows the digest of an object may rely on."""

import pytest

from lucid_events.errors import IntegrityError
from tests.contract.bundle import Ports, Run, sha256

NAME = "s1/00000000-0123456789abcdef"
DATA = bytes(range(256)) * 12_000


def test_a_digest_that_is_known_is_stored_as_it_is(run: Run) -> None:
    """A digest handed in with the bytes, of a new object or a replaced one, is the object's."""

    @run
    async def _(ports: Ports) -> None:
        info, _ = await ports.blobs.put(NAME, DATA, metadata={}, digest=sha256(DATA))
        assert info.digest == sha256(DATA)
        assert await ports.blobs.get(NAME) == DATA
        other = DATA[::-1]
        made = await ports.blobs.replace(NAME, other, metadata={}, damaged=info, digest=sha256(other))
        assert made.digest == sha256(other)
        assert await ports.blobs.get(NAME) == other


def test_a_wrong_digest_makes_an_object_nobody_accepts(run: Run) -> None:
    """Bytes stored under another digest than theirs are refused to every reader."""

    @run
    async def _(ports: Ports) -> None:
        await ports.blobs.put(NAME, DATA, metadata={}, digest=sha256(b"others"))
        with pytest.raises(IntegrityError):
            await ports.blobs.get(NAME)
