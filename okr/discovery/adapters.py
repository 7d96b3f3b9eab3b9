"""Finds the modules of a model that run, behind adapters and other wrappers. peft's wrappers are known by the
attributes that peft gives them; peft is not imported.

A wrapper changes the paths of modules (``base_model.model.``, ``.base_layer``, ``.modules_to_save.default``). It keeps
copies of modules that do not run, and it may compute with weights that no parameter holds. This module lists what runs,
each module under the path that it has in the model without wrappers.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

_PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)


@dataclass(frozen=True)
class Place:
    """A module that runs.

    ``path`` is what ``get_submodule`` of the model takes. ``plain`` is the path in the model without wrappers.
    ``adapters`` are the adapter layers around the module that change its weights, outermost first.
    """

    path: str
    plain: str
    module: nn.Module
    adapters: tuple[Any, ...] = ()


def places(model: nn.Module) -> Iterator[Place]:
    """Every module of ``model`` that runs, each once, in the order of ``named_modules``.

    Wrappers, adapter layers and copies that do not run are left out. The first place is the model inside all wrappers.
    """
    waiting, seen = [Place("", "", model)], set[int]()
    while waiting:
        place = waiting.pop()
        if id(place.module) in seen:
            continue
        seen.add(id(place.module))
        inside = _inside(place.module)
        if inside:
            adapters = (place.module,) if inside == "base_layer" else ()
            held, path = place.module.get_submodule(inside), joined(place.path, inside)
            waiting.append(replace(place, path=path, module=held, adapters=place.adapters + adapters))
            continue
        yield place
        waiting += [
            Place(joined(place.path, name), joined(place.plain, name), child)
            for name, child in reversed(place.module._modules.items())
            if child is not None
        ]


def _inside(module: nn.Module) -> str:
    """The name of the part that a wrapper runs, or "" if ``module`` is no wrapper."""
    parts, kind = module._modules, type(module)
    if not parts:
        return ""
    if isinstance(module, _PARALLEL):
        return "module"
    if "_orig_mod" in parts:  # torch.compile
        return "_orig_mod"
    if "base_model" in parts and hasattr(module, "peft_config"):
        return "base_model"
    if "model" in parts and hasattr(kind, "inject_adapter"):
        return "model"
    if "token_adapter" in parts:
        return "token_adapter"
    if has_copies(module):
        return _active_copy(module)
    return "base_layer" if "base_layer" in parts and hasattr(module, "merged_adapters") else ""


def has_copies(module: nn.Module) -> bool:
    """Whether ``module`` keeps an original module and beside it copies that adapters trained (``modules_to_save``)."""
    return {"original_module", "modules_to_save"} <= module._modules.keys()


def _active_copy(module: Any) -> str:
    """The name of the copy that runs: the active adapter's, or the original if no active adapter has a copy."""
    names = list(module.active_adapters)
    if module.disable_adapters or not names or any(name not in module.modules_to_save for name in names):
        return "original_module"
    return f"modules_to_save.{names[0]}"


def stand_ins(model: nn.Module, path: str) -> list[nn.Module]:
    """Every module that may run at ``path``. That is one module, or the original and all its copies if adapters keep
    copies. A caller that changes all of them is safe if the active adapter changes."""
    return list(_stand_ins(model, path.split(".")))


def _stand_ins(module: nn.Module, parts: list[str]) -> Iterator[nn.Module]:
    if has_copies(module):
        rest = parts[1 if parts[0] == "original_module" else 2 :]
        copies = [module.original_module, *module.modules_to_save.values()]  # type: ignore[union-attr, operator, list-item]
        for copy in copies:
            yield from _stand_ins(copy, rest)  # type: ignore[arg-type]
    elif not parts:
        yield module
    elif (child := module._modules.get(parts[0])) is not None:
        yield from _stand_ins(child, parts[1:])


def plain_path(model: nn.Module, path: str) -> str:
    """``path`` as it is in ``model`` without wrappers. The path of a copy becomes the path of its original."""
    parts, plain, module = path.split("."), list[str](), model
    while parts:
        inside, used = _inside(module), 1
        if has_copies(module):
            inside, used = "original_module", 1 if parts[0] == "original_module" else 2
        elif not inside:
            plain.append(parts[0])
        module, parts = module.get_submodule(inside or parts[0]), parts[used:]
    return ".".join(plain)


def prompt_adapter(model: nn.Module) -> Any:
    """The configuration of the active adapter if it adds virtual tokens before the prompt (prompt or prefix tuning) or
    adds to the attention. None if there is no such adapter, or if it is disabled."""
    parts = model._modules
    if "base_model" not in parts or not hasattr(model, "peft_config") or getattr(model, "_adapters_disabled", False):
        return None
    config = getattr(model, "active_peft_config", None)
    prompts = getattr(config, "is_prompt_learning", False) or getattr(config, "is_adaption_prompt", False)
    return config if prompts else None


def switches(model: nn.Module) -> list[Any]:
    """The state of every adapter layer of ``model`` (disabled or not, active adapters, merged adapters), and the type
    of its prompt adapter. The value changes when an adapter is switched or merged."""
    layers: list[Any] = [module for module in model.modules() if hasattr(module, "merged_adapters")]
    found: list[Any] = [(la.disable_adapters, tuple(la.active_adapters), tuple(la.merged_adapters)) for la in layers]
    return [*found, getattr(prompt_adapter(model), "peft_type", None)]


def joined(*parts: str) -> str:
    """The parts of a path joined by dots. Empty parts are left out."""
    return ".".join(part for part in parts if part)
