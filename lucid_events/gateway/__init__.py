"""The two REST services: commands in, views and bytes out, nothing kept here."""

from lucid_events.gateway.app import make_app
from lucid_events.gateway.serving import Gateways, exporting, serving

__all__ = ["Gateways", "exporting", "make_app", "serving"]
