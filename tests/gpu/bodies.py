"""What the GPU suite does, on any device: the suite runs it on a card at full size, tests/unit/test_gpu_bodies.py on
the CPU at a tiny one, so that it is known to work before a card is there."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import torch
from huggingface_hub import try_to_load_from_cache
from scripts import script
from torch import Tensor, nn

import okr
from okr.discovery import RouterSite
from okr.engines.transformers import proof
from okr.engines.transformers.attaching import attachment_of
from okr.engines.transformers.guard import Guard
from okr.engines.transformers.routings import Keyed
from okr.engines.transformers.swapping import Attachment
from okr.experiment.config import resolve
from okr.experiment.results import schema
from okr.experiment.runner import run
from okr.loaders import sources
from okr.routing import Setting
from okr.spec import cases, oracle

decoding = script("bench/decoding")
KEY = okr.Key.from_passphrase("a passphrase for tests only")
GIB = 2**30


def subject() -> str:
    """The 16B model where the guide's search order finds it on this machine, otherwise its shape, weights random."""
    found = sources.resolve("deepseek-moe")
    if found.kind == "folder" or isinstance(try_to_load_from_cache(found.location, "config.json"), str | os.PathLike):
        return "deepseek-moe"
    return sources.RANDOM


def complete_experiment(model: str, folder: Path, **flags: Any) -> dict[str, Any]:
    """The guide's experiment in its quick configuration; results.json as it lies on disk, valid by the schema."""
    settings = {"model": model, "output_dir": str(folder)} | flags
    run(resolve("deepseek-moe", settings, environment={}), resume=False)
    document: dict[str, Any] = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    jsonschema.validate(document, schema(), cls=jsonschema.Draft202012Validator)
    return document


def attached_router(model: nn.Module, setting: Setting, ran: list[Tensor]) -> tuple[RouterSite, nn.Module, Attachment]:
    """The first keyable site of ``model``, its router, and its attachment, which tells ``ran`` what it chose."""
    site = next(site for site in okr.discover(model) if site.keyable)
    router = model.get_submodule(site.path)
    routing = Keyed(site, KEY, setting, lambda experts: ran.append(experts()))
    return (
        site,
        router,
        attachment_of(router, site, routing, proof.prove(router, site), Guard()),
    )


@torch.no_grad()
def judged_selections(
    model: nn.Module, device: str, setting: Setting, tokens: int, judged_by: Setting | None = None
) -> tuple[Tensor, list[str]]:
    """The experts [tokens, k], in ascending order, that the first DeepSeek router of ``model`` runs for random states
    on ``device``, and why any is outside the oracle's legal set for the scores that this device computed."""
    ran: list[Tensor] = []
    site, router, attachment = attached_router(model.to(device), setting, ran)
    states = torch.randn(1, tokens, site.hidden_size, generator=torch.Generator().manual_seed(1))
    states = states.to(device, next(router.parameters()).dtype)
    logits = proof.answered(router, attachment, states)[0]
    choice = logits.float().softmax(-1).log().cpu().tolist()
    routing = attachment.routing
    assert isinstance(routing, Keyed)
    hidden = states.view(tokens, -1)
    card = routing.card
    keys = routing.project(hidden) if card is None else card.kernels.products(hidden, card.signs)[0]
    asked = judged_by or setting
    rule = cases.Setting(site.top_k, asked.epsilon, asked.zone, asked.strength)
    taken = ran[-1].sort(-1).values.cpu()
    # DeepSeek's own choice has no order: what is judged is who runs.
    orders = [sorted(row, key=lambda e: (-c[e], e)) for row, c in zip(taken.tolist(), choice, strict=True)]
    faults = map(oracle.illegal, choice, keys.cpu().tolist(), [rule] * tokens, orders)
    return taken, [fault for fault in faults if fault]


def replayed_hit_rate(model: nn.Module, device: str, batch: int, new_tokens: int) -> float:
    """The hit rate over the traces of one sampled batch under the guide's setting, replayed."""
    vocabulary = min(4096, model.get_input_embeddings().num_embeddings)
    prompt = torch.randint(3, vocabulary, (batch, 8), generator=torch.Generator().manual_seed(2)).to(device)
    torch.manual_seed(3)
    with okr.watermark(model, KEY, epsilon=2.0) as wm:
        made = wm.generate(input_ids=prompt, max_new_tokens=new_tokens, min_new_tokens=new_tokens, do_sample=True)
    verdicts = [okr.verify(model, trace, KEY) for trace in made.traces]
    return sum(v.hit_rate * v.opportunities for v in verdicts) / sum(v.opportunities for v in verdicts)


class RoutersAlone:
    """Every keyable router of ``model`` once, on ``states`` that are there already."""

    def __init__(self, model: nn.Module, device: str, tokens: int) -> None:
        sites = [site for site in okr.discover(model) if site.keyable]
        self.routers = [model.get_submodule(site.path) for site in sites]
        states = torch.randn(1, tokens, sites[0].hidden_size, generator=torch.Generator().manual_seed(4))
        self.states = states.to(device, next(self.routers[0].parameters()).dtype)

    @torch.no_grad()
    def __call__(self) -> list[Tensor]:
        """The experts that each router chooses [T, k]."""
        return [router(self.states)[2] for router in self.routers]


def run_compiled(device: str, backend: str, python: str = sys.executable) -> subprocess.CompletedProcess[str]:
    """What tests/gpu/compiled.py says when the program ``python`` runs it, with its exit status."""
    root = Path(__file__).parents[2]
    paths = os.pathsep.join([str(root), str(root / "tests")])
    return subprocess.run(
        [python, "-m", "tests.gpu.compiled", device, backend],
        cwd=root,
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )


def offloaded_devices(model: nn.Module) -> set[str]:
    """Which kinds of device the parts of a dispatched model lie on."""
    return {"cpu" if str(place) == "cpu" else "card" for place in model.hf_device_map.values()}
