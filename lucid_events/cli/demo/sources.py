"""What the demo records: a video, a terminal, a file, each with its own copy to compare with."""

import hashlib
import os
import random
from pathlib import Path

from lucid_events.recorder import Source

FILE_BYTES = 64 * 1024 * 1024

SHELL_SCRIPT = """
echo "a terminal session, recorded while it happens"
uname -srm; date -u
for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
  printf 'line %s: ' "$i"; ls -la / | head -n $((i % 5 + 2)) | tail -n 1
  printf '\\033[3%smcolour %s\\033[0m ünïcode ✓\\n' $((i % 7 + 1)) "$i"
  sleep 0.4
done
read -r _  # until the session is stopped
"""
"""Real commands under a pseudo-terminal for eight seconds, then a shell that waits to be stopped."""


class Tapped:
    """A source that also writes every byte it hands out to `copy`, before anyone else sees it."""

    def __init__(self, source: Source, copy: Path) -> None:
        self._source, self._copy = source, copy.open("wb")
        self.name, self.content_type, self.resumable = source.name, source.content_type, source.resumable

    @property
    def exit_code(self) -> int | None:
        """What the program ended with."""
        return self._source.exit_code

    async def start(self) -> None:
        """Begin."""
        await self._source.start()

    async def read(self) -> bytes:
        """Return the next bytes, written to the copy already."""
        data = await self._source.read()
        self._copy.write(data)
        return data

    async def seek(self, offset: int) -> None:
        """Go where the session's bytes end."""
        await self._source.seek(offset)

    async def pause(self) -> None:
        """Take nothing in."""
        await self._source.pause()

    async def resume(self) -> None:
        """Take in again."""
        await self._source.resume()

    async def stop(self) -> None:
        """Ask the program to end."""
        await self._source.stop()

    async def close(self) -> None:
        """Close both."""
        await self._source.close()
        self._copy.close()


def make_file(path: Path, size: int = FILE_BYTES) -> None:
    """Write `size` bytes, text and noise in turn."""
    words = random.Random(1)
    block = 1024 * 1024
    with path.open("wb") as file:
        for number in range(size // block):
            if number % 2:
                file.write(os.urandom(block))
            else:
                text = "".join(
                    f"{words.random():.6f} GET /item/{words.randrange(1000)} 200\n" for _ in range(40_000)
                )
                file.write(text.encode()[:block].ljust(block))
        file.write(os.urandom(size % block))


def sha256(path: Path) -> str:
    """Return the digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
