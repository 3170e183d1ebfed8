"""The definitions of `deploy/nats`, compared with a server and applied to it."""

from lucid_events.config import Settings
from lucid_events.jetstream import topology
from lucid_events.jetstream.topology import Applied
from lucid_events.service.adapters import current_topology, open_adapters


async def deploy(settings: Settings, *, check: bool = False, update: bool = False) -> Applied:
    """Create what is missing and report what differs; `check` changes nothing, `update` changes what differs.

    Raises:
        ConfigError: the server refuses a definition.
        StoreUnavailable: no server answers.
    """
    async with open_adapters(settings, name="lucid-deploy") as adapters:
        wanted = await current_topology(adapters)
        if check:
            found = await topology.compare(adapters.connection, adapters.subjects, wanted)
            return Applied((), (), tuple(found))
        done = await topology.apply(adapters.connection, adapters.subjects, wanted, update=update)
        await adapters.capture.reserve()
        return done
