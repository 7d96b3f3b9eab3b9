"""Finds the routers of a model and proves each of them. The result is a list of RouterSite records."""

from okr.discovery.devices import input_device
from okr.discovery.discover import Search, discover, discover_config, keyable_sites, search, without_weights
from okr.discovery.sites import RouterSite, table
from okr.discovery.traced import prove

__all__ = [
    "RouterSite",
    "Search",
    "discover",
    "discover_config",
    "input_device",
    "keyable_sites",
    "prove",
    "search",
    "table",
    "without_weights",
]
