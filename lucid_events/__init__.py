"""A session recorder whose every transition is in one log: nothing is lost without a word.

The names in `__all__` are the public interface; everything else may change. They are loaded when
first used, so that importing the package costs nothing.

>>> from lucid_events import SessionSettings
>>> SessionSettings().chunk_bytes
10485760
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lucid_events.config import Settings, load_settings
    from lucid_events.domain.ids import session_id
    from lucid_events.domain.values import SessionSettings
    from lucid_events.errors import (
        CommandRejected,
        ConfigError,
        ContractError,
        Fenced,
        IntegrityError,
        LucidError,
        NotFound,
        StoreUnavailable,
        VersionConflict,
    )
    from lucid_events.recorder import (
        CommandSource,
        RecorderOptions,
        Recording,
        Spool,
        TerminalSource,
        Totals,
        open_source,
    )
    from lucid_events.service import Client, connect, up

__version__ = "0.1.0"

__all__ = [
    "Client",
    "CommandRejected",
    "CommandSource",
    "ConfigError",
    "ContractError",
    "Fenced",
    "IntegrityError",
    "LucidError",
    "NotFound",
    "RecorderOptions",
    "Recording",
    "SessionSettings",
    "Settings",
    "Spool",
    "StoreUnavailable",
    "TerminalSource",
    "Totals",
    "VersionConflict",
    "__version__",
    "connect",
    "load_settings",
    "open_source",
    "session_id",
    "up",
]

_HOMES = ("config", "domain.ids", "domain.values", "errors", "recorder", "service")
"""Where public names live, the quickest to import first."""


def __getattr__(name: str) -> object:
    if name in __all__:
        for home in _HOMES:
            module = import_module(f"{__name__}.{home}")
            if hasattr(module, name):
                return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
