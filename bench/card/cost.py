"""The steps about what a key costs: decoding and prefill of the whole model, the router alone, torch.compile."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import decoding
import routers
import timing
import torch
from torch import nn

import okr
from card.notes import Notes
from card.steps import GUIDE
from card.subject import Subject
from okr.loaders.deepseek import DeepseekConfig
from okr.loaders.random_weights import SHAPE, random_model

Work = Callable[[], object]
Case = tuple[str, Work, Work]
"""What is timed: its name, the work, and what warms it up."""


def cost(subject: Subject, note: Notes) -> None:
    """Decoding and prefill, keyed beside unkeyed: as transformers runs them, then in CUDA graphs."""
    for name, work, warm in eager_cases(subject):
        ways: dict[str, Callable[[], AbstractContextManager[object]]] = {
            "unkeyed": nullcontext,
            "keyed": lambda: okr.watermark(subject.engine, routers.KEY, **GUIDE),
        }
        tries = {way: timing.within(enter, work, subject.device, warm) for way, enter in ways.items()}
        note(name, compared(subject, tries))
    note("kernels", kernels_in_use(subject))
    for name, work, restart, times in steady_cases(subject):
        note(f"{name}, CUDA graph", in_graphs(subject, work, restart, times))
    note("where the time of a decode step goes, microseconds", profiles(subject))


def compared(subject: Subject, tries: dict[str, timing.Try]) -> dict[str, object]:
    """Keyed over unkeyed, within the seconds of a case."""
    seconds = subject.paired(tries)
    return {"keyed / unkeyed": timing.median(timing.ratios(seconds, "keyed", "unkeyed"))} | {
        "milliseconds": timing.milliseconds(seconds)
    }


def eager_cases(subject: Subject) -> Iterator[Case]:
    """``generate`` of some new tokens after 16, and a forward over a prompt, at every batch."""
    model, sizes = subject.loaded.model, subject.sizes
    for batch in sizes.batches:
        short, long = subject.tokens(batch, 16), subject.tokens(batch, sizes.prompt_tokens)

        def generate(count: int, ids: torch.Tensor = short) -> None:
            length = {"max_new_tokens": count, "min_new_tokens": count}
            model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, **length)

        whole, warm = partial(generate, sizes.new_tokens), partial(generate, 2)
        yield f"decode {sizes.new_tokens} tokens, batch {batch}", whole, warm
        prefill = partial(forward, model, long)
        yield f"prefill {sizes.prompt_tokens} tokens, batch {batch}", prefill, prefill


@torch.no_grad()
def forward(model: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """The last logits of a prompt's tokens [batch, T]."""
    logits: torch.Tensor = model(input_ids=ids, use_cache=False, logits_to_keep=1).logits
    return logits


def steady_cases(subject: Subject) -> Iterator[tuple[str, Work, Work, int]]:
    """Work that can be captured: its name, the work, what puts it back to its start, and how often a round does it. A
    decode step with a cache of fixed size, and a forward over a prompt."""
    model, sizes = subject.loaded.model, subject.sizes
    for batch in sizes.batches:
        step, long = decoding.DecodeStep(model, subject.device, 128, batch), subject.tokens(batch, sizes.prompt_tokens)
        with decoding.as_generate_decodes(model):
            yield f"decode {sizes.new_tokens} tokens, batch {batch}", step, step.cache.reset, sizes.new_tokens
        yield f"prefill {sizes.prompt_tokens} tokens, batch {batch}", partial(forward, model, long), lambda: None, 1


def in_graphs(subject: Subject, work: Work, restart: Work, times: int) -> dict[str, object]:
    """Both ways captured, then replayed in turns inside the keyed block, since a graph uses what the block made."""
    try:
        graphs = {"unkeyed": decoding.captured(work, subject.device, restart)[0]}
        with okr.watermark(subject.engine, routers.KEY, **GUIDE):
            graphs["keyed"] = decoding.captured(work, subject.device, restart)[0]
            tries = {way: replays(subject.device, graph, restart, times) for way, graph in graphs.items()}
            return compared(subject, tries)
    except RuntimeError as error:
        return {"error": f"cannot be captured: {' '.join(str(error).split())[:200]}"}


def replays(device: str, graph: torch.cuda.CUDAGraph | decoding.Repeated, restart: Work, times: int) -> timing.Try:
    """``times`` replays after ``restart``, as a try."""

    def replay() -> None:
        for _ in range(times):
            graph.replay()

    def once() -> float:
        restart()
        return timing.timed(replay, device)()

    once()
    return once


def kernels_in_use(subject: Subject) -> dict[str, object]:
    """Whether the Triton kernels serve the model's routers, and for which dtypes also the gate's product."""
    from okr.engines.transformers.routings import Keyed
    from okr.routing import Setting

    site, proof = subject.engine.routers[0], subject.engine.proofs()[0]
    routing = Keyed(site, routers.KEY, Setting(2.0, "max"))
    routing.prepare(proof.device, proof.dtype)
    joint = [] if routing.card is None else sorted(map(str, routing.card.joint))
    return {"hand-written forward": proof.fused is not None, "in use": routing.card is not None, "joint product": joint}


@torch.no_grad()
def router(subject: Subject, note: Notes) -> None:
    """Routers one after another: native, keyed, and the time to move a call's bytes at the speed of a copy."""
    sizes, device = subject.sizes, subject.device
    speed = routers.bandwidth(device)
    calls = routers.Calls(sizes.router, sizes.router_tokens, sizes.router_calls, device)
    bound = calls.nbytes / speed * sizes.router_calls
    note("bytes a second of a copy", round(speed))
    note("tokens", sizes.router_tokens)
    note("milliseconds a call to move its bytes", round(1000 * bound / sizes.router_calls, 5))
    for name, setting in routers.SETTINGS.items():
        ways = calls.ways(setting)
        tries = {way: timing.within(ways[way], calls, device) for way in ("native", "fused")}
        seconds = subject.paired(tries)
        each = {way: [taken / sizes.router_calls for taken in seconds[way]] for way in seconds}
        note(
            name,
            {
                "keyed / native": timing.median(timing.ratios(seconds, "fused", "native")),
                "keyed / bound": timing.median([taken / bound for taken in seconds["fused"]]),
                "native / bound": timing.median([taken / bound for taken in seconds["native"]]),
                "milliseconds a call": timing.milliseconds(each),
            },
        )
    found = {"native": timing.kernels(calls, device, sizes.router_calls)}
    with okr.watermark(calls.stack, routers.KEY, **GUIDE):
        found["keyed"] = timing.kernels(calls, device, sizes.router_calls)
    note("where the time of a call goes, microseconds", found)


def profiles(subject: Subject) -> dict[str, dict[str, float]]:
    """The longest kernels of a decode step at batch 1, unkeyed and keyed."""
    step = decoding.DecodeStep(subject.loaded.model, subject.device)
    with decoding.as_generate_decodes(subject.loaded.model):
        step()
        found = {"unkeyed": timing.kernels(step, subject.device, 1)}
        with okr.watermark(subject.engine, routers.KEY, **GUIDE):
            step()
            found["keyed"] = timing.kernels(step, subject.device, 1)
    return found


def compiled(subject: Subject, note: Notes) -> None:
    """A decode step of a few layers under torch.compile: a model that stays unkeyed beside one that stays keyed."""
    sizes = subject.sizes
    config = DeepseekConfig(**SHAPE | sizes.shape | {"num_hidden_layers": sizes.compiled_layers})
    place = None if subject.device == "cpu" else "cuda:0"
    models = {way: random_model(config, device_map=place) for way in ("unkeyed", "keyed")}
    note("layers", sizes.compiled_layers)
    with okr.watermark(models["keyed"], routers.KEY, **GUIDE):
        for batch in sizes.compiled_batches:
            tries = {}
            for way, model in models.items():
                step = decoding.DecodeStep(model, subject.device, 128, batch)
                fast = torch.compile(step, backend=sizes.backend) if sizes.backend else step

                def steps(step: decoding.DecodeStep = step, fast: Work = fast) -> None:
                    step.cache.reset()
                    for _ in range(sizes.new_tokens):
                        fast()

                steps()
                tries[way] = timing.timed(steps, subject.device)
            note(f"decode step, batch {batch}", compared(subject, tries))
