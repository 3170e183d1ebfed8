"""Where the parts of a process tell what their work took."""

from typing import Literal, Protocol

Ending = Literal["done", "failed", "given back"]
"""What became of one piece of work."""


class Measures(Protocol):
    """Where the parts of a process tell what their work took; telling never fails and never waits.

    Names are of a small fixed set each: never a session's, a person's or a message's.
    """

    def begun(self, stage: str) -> None:
        """Count one more in flight in `stage`; exactly one `ended` follows."""
        ...

    def ended(self, stage: str, outcome: Ending, *, seconds: float = 0.0, size: int = 0) -> None:
        """Count one less in flight: `size` raw bytes took `seconds` of work, waiting excluded.

        What is given back (cancelled, or the server is away) is neither done nor a failure.
        """
        ...

    def took(self, step: str, seconds: float) -> None:
        """Note one step of storing a chunk."""
        ...

    def answered(self, verb: str, outcome: str, seconds: float) -> None:
        """Note one command: `outcome` is `accepted` or an error's code."""
        ...

    def served(self, service: str, method: str, route: str, status: int, seconds: float) -> None:
        """Note one HTTP request; `route` is the template, not the path."""
        ...
