"""What evidence is made of: messages as they stand in a stream."""

from collections.abc import Mapping
from datetime import datetime
from typing import Protocol


class StoredMessage(Protocol):
    """A message as it stands in the log."""

    @property
    def subject(self) -> str:
        """Where it was published."""
        ...

    @property
    def sequence(self) -> int:
        """Its place in the log."""
        ...

    @property
    def stored_at(self) -> datetime:
        """When the server stored it, in UTC."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """What its writer sent."""
        ...

    @property
    def data(self) -> bytes:
        """Its body."""
        ...
