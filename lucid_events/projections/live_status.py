"""The status of a session as of this moment: its view, and a gauge of what is on its way into it.

The gauge is read from capture whenever somebody looks. It is in no view: a view is what the history
adds up to, and equal to the one rebuilt from it.
"""

from datetime import datetime

from lucid_events.domain.values import Fact
from lucid_events.ports import CaptureEnd
from lucid_events.projections.status_view import StatusView


class Captured(Fact, frozen=True, kw_only=True):
    """How far capture has got: every byte up to `offset` was acknowledged, the newest at `at`.

    Of these `unsealed_bytes` are not in a chunk yet, and `unstored_bytes` not in a ready one; what
    is captured is durable all the same.
    """

    offset: int
    unsealed_bytes: int
    unstored_bytes: int
    at: datetime | None = None


class LiveStatus(StatusView, frozen=True, kw_only=True):
    """A view with the gauge; `captured` is None when capture can't be read from here."""

    captured: Captured | None = None


def live_status(view: StatusView, end: CaptureEnd | None) -> LiveStatus:
    """Return `view` with the gauge `end`, None when capture holds nothing of the session's recorder."""
    # What is sealed was captured, wherever it has gone since.
    offset = max(view.sealed_offset, end.offset if end else 0)
    captured = Captured(
        offset=offset,
        unsealed_bytes=offset - view.sealed_offset,
        unstored_bytes=offset - view.ready_offset,
        at=end.stored_at if end else None,
    )
    return without_gauge(view, captured)


def without_gauge(view: StatusView, captured: Captured | None = None) -> LiveStatus:
    """Return `view` as it is, for whom the gauge can't be read."""
    fields = {name: getattr(view, name) for name in view.__struct_fields__}
    return LiveStatus(**fields, captured=captured)
