"""``okr discover``: the routers of a model."""

import dataclasses
import json
import sys
from typing import Annotated

import typer

from okr.commands.options import AsJson, Device, Dtype, MaxMemory, Quantization, Remote, placement_of


def discover_command(
    model: Annotated[str, typer.Argument(help="Embedded name, preset, folder or hub id.")],
    log: Annotated[bool, typer.Option("--log", help="Also say on stderr what was looked at, and why.")] = False,
    device: Device = None,
    dtype: Dtype = None,
    quantization: Quantization = None,
    max_memory: MaxMemory = None,
    trust_remote_code: Remote = False,
    as_json: AsJson = False,
) -> None:
    """List the routers of a model, and which of them can be keyed. A folder with a config.json alone is enough."""
    from okr.discovery import discover, search, table, without_weights
    from okr.jobs.loading import load_placed
    from okr.loaders import config_alone

    placement = placement_of(model, device, dtype, quantization, max_memory, trust_remote_code)
    config = config_alone(model, trust_remote_code=trust_remote_code)
    found = load_placed(placement).model if config is None else without_weights(config)
    sites = discover(found)
    if log:
        print(*search(found).log, sep="\n", file=sys.stderr)
    if as_json:
        print(json.dumps([dataclasses.asdict(site) for site in sites], indent=2))
        return
    print(table(sites))
