"""What routers a model has: RouterSite records, found and proven, never guessed."""

from okr.discovery.discover import discover
from okr.discovery.sites import RouterSite

__all__ = ["RouterSite", "discover"]
