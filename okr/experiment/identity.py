"""What a run is: the header of its journal, and whether a resumed run is the same one."""

import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from okr.discovery import RouterSite
from okr.errors import InvalidConfig
from okr.experiment import environment
from okr.experiment.config import Resolved
from okr.experiment.layout import KEY
from okr.experiment.sampling import Subject
from okr.jobs.loading import without_effect
from okr.loaders import Loaded, check_declared
from okr.traces import ModelIdentity

log = logging.getLogger("okr")

SITE_FIELDS = (
    "path", "stack", "layer", "router_class", "num_experts", "top_k", "hidden_size", "unit", "keyable", "reason"
)  # fmt: skip


def describe_run(
    subject: Subject, resolved: Resolved, sites: Sequence[RouterSite], prompts: Sequence[str]
) -> dict[str, Any]:
    """The first line of a run's journal: all that its results say of it before any sample is made."""
    loaded, config = subject.loaded, resolved.config
    keyable = [site for site in sites if site.keyable]
    return {
        "kind": "header",
        "config": config.model_dump(mode="json"),
        "config_sources": resolved.sources,
        "key_id": subject.key.id,
        "key_source": KEY if config.key is None else "file",
        "prompts": list(prompts),
        "model": {
            "source": loaded.source,
            "revision": loaded.revision,
            "parameters": sum(parameter.numel() for parameter in loaded.model.parameters()),
            "dtype": str(loaded.model.dtype).removeprefix("torch."),
            **ModelIdentity.of(loaded.model, keyable).model_dump(exclude={"weights"}),
        },
        "sites": [{name: getattr(site, name) for name in SITE_FIELDS} for site in sites],
        "environment": environment.describe(loaded.model),
        "notes": _notes(loaded, resolved, sites),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _notes(loaded: Loaded, resolved: Resolved, sites: Sequence[RouterSite]) -> list[str]:
    config, notes = resolved.config, list(resolved.notes)
    if resolved.sources["model"] == "preset":
        notes += check_declared(loaded.model.config, **resolved.preset.declared)
    notes += filter(None, [without_effect(config)])
    notes += [f"router {site.path} is not keyed: {site.reason}" for site in sites if not site.keyable]
    return notes


def check_same_run(folder: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    """Raise InvalidConfig unless the resumed run has the configuration, prompts, key and model it began with."""
    exempt = {"output_dir", "key"}  # the folder may be named differently, the key is compared by its id
    names = [name for name in new["config"] if name not in exempt and old["config"].get(name) != new["config"][name]]
    differing = [f"{name} (was {old['config'].get(name)}, now {new['config'][name]})" for name in names]
    if old["prompts"] != new["prompts"] and not differing:
        differing.append("the prompts")
    if differing:
        raise InvalidConfig(f"the run in {folder} had another configuration: {', '.join(differing)}")
    if old["key_id"] != new["key_id"]:
        raise InvalidConfig(f"the run in {folder} was made under key {old['key_id']}, not {new['key_id']}")
    if (old["model"]["structure"], old["model"]["routers"]) != (new["model"]["structure"], new["model"]["routers"]):
        raise InvalidConfig(f"the run in {folder} was made with another model than the one in {new['model']['source']}")
    if old["environment"] != new["environment"]:
        log.warning("versions, device or source differ from when this run began; results.json names the earlier ones")


def check_same_software(old: dict[str, Any], new: dict[str, Any]) -> None:
    """Raise InvalidConfig unless two processes of one run have the same versions of everything."""
    here, there = new["environment"]["versions"], old["environment"]["versions"]
    differing = [
        f"{name} ({there.get(name)} there, {here[name]} here)" for name in here if here[name] != there.get(name)
    ]
    if differing:
        raise InvalidConfig(f"not the same versions as the main process: {', '.join(differing)}")
