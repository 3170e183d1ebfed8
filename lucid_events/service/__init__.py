"""The composition root: the only place that knows which adapter stands behind which port."""

from lucid_events.service.client import Client, connect
from lucid_events.service.embedded import Service, up, work
from lucid_events.service.recorders import Recorders, hosting
from lucid_events.service.workers import REACTIONS, Workers

__all__ = ["REACTIONS", "Client", "Recorders", "Service", "Workers", "connect", "hosting", "up", "work"]
