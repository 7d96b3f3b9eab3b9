"""The engine that ``okr verify``, ``okr detect`` and ``okr attribute`` work with: transformers, or vLLM."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from okr.errors import InvalidConfig

if TYPE_CHECKING:
    from collections.abc import Sequence

    from okr.baking import Header
    from okr.engines import Engine
    from okr.jobs.placement import Placement
    from okr.jobs.processes import Processes
    from okr.loaders import Loaded
    from okr.routing import Key

ENGINES = ("transformers", "vllm")
EngineName = Annotated[str, typer.Option("--engine", help="What runs the model: transformers or vllm.")]
EngineOptions = Annotated[
    str | None, typer.Option(help='Options of vllm.LLM as JSON, such as {"tensor_parallel_size": 2}.')
]


def check_engine(name: str, options: str | None, placement: "Placement") -> dict[str, Any]:
    """The options of an engine. Raises InvalidConfig with one line before anything is loaded."""
    if name not in ENGINES:
        raise InvalidConfig(f"--engine must be {' or '.join(ENGINES)}, got {name!r}")
    if name == "transformers":
        if options is not None:
            raise InvalidConfig("--engine-options are those of vLLM: add --engine vllm")
        return {}
    asked = placement.model_fields_set - {"model", "dtype", "trust_remote_code"}
    if asked := {field for field in asked if getattr(placement, field) is not None} - {"trust_remote_code"}:
        raise InvalidConfig(f"vLLM places models itself: leave --{min(asked).replace('_', '-')} out")
    try:
        found = json.loads(options or "{}")
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise InvalidConfig('--engine-options must be a JSON object, such as {"tensor_parallel_size": 2}')
    return found


def opened(
    name: str,
    options: dict[str, Any],
    placement: "Placement",
    keys: "Sequence[Key]",
    baked: "Header | None",
    processes: "Processes | None" = None,
) -> "tuple[Engine, Loaded]":
    """The engine ``name`` with the model of ``placement``, and that model with its tokenizer. In vLLM the model here is
    transformers' without weights. If the model is ``baked`` with one of ``keys``, that key is taken out of it."""
    from okr.baking.models import unbaked
    from okr.engines import prepare

    if name == "transformers":
        from okr.jobs.loading import load_placed

        loaded = load_placed(placement) if processes is None else load_placed(placement, processes)
        return prepare(loaded.model) if baked is None else unbaked(loaded.model, baked, keys), loaded
    if baked is not None:
        raise InvalidConfig(f"{placement.model} is baked, and vLLM cannot take a key out: give the original model")
    from okr.engines.vllm import load_engine
    from okr.loaders import Loaded, load_tokenizer

    chosen = {} if placement.dtype == "auto" else {"dtype": placement.dtype}
    remote = {"trust_remote_code": True} if placement.trust_remote_code else {}
    engine = load_engine(placement.model, **chosen, **remote, **options)
    tokenizer = load_tokenizer(placement.model, trust_remote_code=placement.trust_remote_code)
    return engine, Loaded(engine.model, tokenizer, placement.model)
