"""Settings: defaults < file < environment < flags, checked all at once, built once in `main`.

Every setting carries its variable, unit and reason; `docs/operations.md` shows the same table and
a test compares the two. Nothing else in the package reads the environment.
"""

from lucid_events.config.declaring import MASK, Field, value_at
from lucid_events.config.http import HttpSettings, Service, is_loopback, refuse_exposed
from lucid_events.config.loading import NOT_USED, given, idle_settings, load_settings, masked, masked_value
from lucid_events.config.screen import ScreenSettings
from lucid_events.config.settings import Settings, fields
from lucid_events.config.stages import StageSettings, StagesSettings

__all__ = [
    "MASK",
    "NOT_USED",
    "Field",
    "HttpSettings",
    "ScreenSettings",
    "Service",
    "Settings",
    "StageSettings",
    "StagesSettings",
    "fields",
    "given",
    "idle_settings",
    "is_loopback",
    "load_settings",
    "masked",
    "masked_value",
    "refuse_exposed",
    "value_at",
]
