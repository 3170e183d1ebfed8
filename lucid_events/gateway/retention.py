"""How long a session is kept, over HTTP."""

from litestar import Controller, get

from lucid_events.domain.ids import session_id
from lucid_events.domain.retention import Standing
from lucid_events.gateway.bodies import AnyRequest
from lucid_events.gateway.context import Sid, gateway_of
from lucid_events.gateway.documenting import failures
from lucid_events.service.retention import Retention


class RetentionOfPipelines(Controller):
    """`/pipelines/{sid}/retention`."""

    path = "/pipelines"
    tags = ["retention"]

    @get("/{sid:str}/retention", responses=failures(404, 500))
    async def explain(self, request: AnyRequest, sid: Sid) -> Standing:
        """Say which policy a session is kept by, what is kept till when, and what happens next."""
        return await Retention(gateway_of(request).client).explain(session_id(sid))
