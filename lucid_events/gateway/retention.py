"""How long a session is kept, over HTTP."""

from litestar import Controller, get

from lucid_events.domain.ids import session_id
from lucid_events.domain.retention import Outlook
from lucid_events.gateway.bodies import AnyRequest
from lucid_events.gateway.context import Sid, gateway_of
from lucid_events.gateway.documenting import failures
from lucid_events.service.retention import Outlooks


class RetentionOfPipelines(Controller):
    """`/pipelines/{sid}/retention`."""

    path = "/pipelines"
    tags = ["retention"]

    @get("/{sid:str}/retention", responses=failures(404))
    async def explain(self, request: AnyRequest, sid: Sid) -> Outlook:
        """Say which policy a session is kept by, what is kept till when, and what happens next."""
        return await Outlooks(gateway_of(request).client).explain(session_id(sid))
