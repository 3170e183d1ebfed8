"""The index of sessions that is live at the moment: a rebuild may have switched to another."""

from lucid_events.projections.generations import Generations
from lucid_events.projections.index import SessionIndex
from lucid_events.projections.status import StatusProjection
from lucid_events.service.adapters import Adapters


async def live_index(adapters: Adapters) -> SessionIndex:
    """Return the index of the generation that is read now."""
    live = await Generations(adapters.meta, StatusProjection.name).live()
    return SessionIndex(adapters.kv(adapters.subjects.status_bucket(live.generation)))
