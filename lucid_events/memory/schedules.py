"""A stream that delivers schedules when they are due, as the server's message scheduler does (ADR-51).

A schedule is a message with a `Nats-Schedule` header; storing another on its subject replaces it.
Nothing runs in the background: whoever looks at the stream first calls `refresh`.
"""

from datetime import datetime

from lucid_events.codec import parse_timestamp, timestamp
from lucid_events.memory.stream import MemoryStream, Outgoing, StoredMessage

SCHEDULE = "Nats-Schedule"
TARGET = "Nats-Schedule-Target"
SCHEDULER = "Nats-Scheduler"
NEXT = "Nats-Schedule-Next"


def schedule_headers(at: datetime, target: str) -> dict[str, str]:
    """Return the headers that make a message a schedule for `target` at `at`."""
    return {SCHEDULE: f"@at {timestamp(at)}", TARGET: target}


class ScheduledStream(MemoryStream):
    """A stream with schedules; a past-due one is delivered at once."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._schedules: dict[str, tuple[datetime, int]] = {}
        self.on_stored.append(self._note)

    def due(self) -> datetime | None:
        """Return when the next schedule is due."""
        return min((at for at, _ in self._schedules.values()), default=None)

    def refresh(self) -> None:
        """Deliver every schedule that is due by now, the earliest first."""
        now = self.clock.now()
        ready = sorted(
            (at, sequence, subject) for subject, (at, sequence) in self._schedules.items() if at <= now
        )
        for _, sequence, subject in ready:
            schedule = self.get(sequence)
            self.cancel(subject)
            if schedule is not None:
                headers = {SCHEDULER: subject, NEXT: "purge"}
                self.publish([Outgoing(schedule.headers[TARGET], schedule.data, headers)])

    def scheduled(self, subject: str) -> bool:
        """Return whether a schedule stands on `subject`."""
        return subject in self._schedules

    def cancel(self, subject: str) -> None:
        """Delete the schedule on `subject`, if there is one."""
        entry = self._schedules.pop(subject, None)
        if entry is not None:
            self.remove([entry[1]])

    def _note(self, message: StoredMessage) -> None:
        if SCHEDULE in message.headers:
            self.cancel(message.subject)
            at = parse_timestamp(message.headers[SCHEDULE].removeprefix("@at "), SCHEDULE)
            self._schedules[message.subject] = (at, message.sequence)
