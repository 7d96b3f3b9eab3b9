"""What routers a model has: RouterSite records, found and proven, never guessed."""

from okr.discovery.discover import Search, discover, discover_config, search, without_weights
from okr.discovery.sites import RouterSite, table
from okr.discovery.traced import prove

__all__ = ["RouterSite", "Search", "discover", "discover_config", "prove", "search", "table", "without_weights"]
