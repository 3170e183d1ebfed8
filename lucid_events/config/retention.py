"""Settings of how long recordings are kept."""

from typing import Annotated

from lucid_events.config.declaring import Group, setting
from lucid_events.domain.values import MAX_DAYS, Retention, RetentionLimits


class RetentionSettings(Group, frozen=True, kw_only=True):
    """The periods of a session that asks for none, what it may ask for, and the wait before erasing."""

    payload_days: Annotated[
        float,
        setting(
            "LUCID_RETENTION_PAYLOAD_DAYS",
            "a recording's bytes are kept this long after its end, unless it asked otherwise",
            "d",
            gt=0,
            le=MAX_DAYS,
        ),
    ] = 30.0
    metadata_days: Annotated[
        float,
        setting(
            "LUCID_RETENTION_METADATA_DAYS",
            "what people wrote about it is reported as due after this long; the log keeps it",
            "d",
            gt=0,
            le=MAX_DAYS,
        ),
    ] = 90.0
    least_days: Annotated[
        float,
        setting(
            "LUCID_RETENTION_MIN_DAYS", "the shortest period a `create` may ask for", "d", gt=0, le=MAX_DAYS
        ),
    ] = 1.0
    most_days: Annotated[
        float,
        setting(
            "LUCID_RETENTION_MAX_DAYS", "the longest period a `create` may ask for", "d", gt=0, le=MAX_DAYS
        ),
    ] = float(MAX_DAYS)
    grace_days: Annotated[
        float,
        setting(
            "LUCID_RETENTION_GRACE_DAYS",
            "between the proposal of a cleanup and the cleanup: the time to object by a hold",
            "d",
            ge=0,
            le=MAX_DAYS,
        ),
    ] = 7.0

    @property
    def policy(self) -> Retention:
        """The policy of a session that asks for none."""
        return Retention(payload_days=self.payload_days, metadata_days=self.metadata_days)

    @property
    def limits(self) -> RetentionLimits:
        """What a session may ask for."""
        return RetentionLimits(least_days=self.least_days, most_days=self.most_days)


def retention_problems(retention: RetentionSettings) -> list[str]:
    """Return what is wrong between the periods."""
    found = []
    if retention.metadata_days < retention.payload_days:
        found.append(
            f"LUCID_RETENTION_METADATA_DAYS={retention.metadata_days:g}: less than "
            f"LUCID_RETENTION_PAYLOAD_DAYS={retention.payload_days:g}; what is said of bytes is kept as "
            "long as they are, or longer"
        )
    if retention.most_days < retention.least_days:
        found.append(
            f"LUCID_RETENTION_MAX_DAYS={retention.most_days:g}: less than "
            f"LUCID_RETENTION_MIN_DAYS={retention.least_days:g}"
        )
    return found
