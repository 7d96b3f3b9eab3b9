"""Whether the figures of a results.json follow from what it holds, and from the traces beside it. No model is loaded.

Whatever was computed from samples, losses and traces is computed again by the functions that made it. Two floats agree
within TOLERANCE of the larger one (versions of scipy differ in the last digits) or, but for tails, within SMALLEST; all
else agrees exactly.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from scipy.special import ndtr

from okr.detection import combined_p, sign_sum_p, site_ranks_p
from okr.errors import InvalidConfig, InvalidTrace
from okr.experiment import results_of
from okr.experiment.config import RunConfig
from okr.experiment.layout import TRACES
from okr.experiment.results import Results
from okr.experiment.sampling import GROUPS, batch_seed, trace_path
from okr.traces import Trace

TOLERANCE, SMALLEST = 1e-9, 1e-12
_FIELDS = {"watermarked": "detailed_results", "control": "control_results"}


def check_figures(results: Results) -> None:
    """InvalidConfig, naming the first field in the file's order that does not follow from the rest of the file."""
    try:
        expected = _expected(results)
    except (OverflowError, ValueError) as error:  # counts beyond any float
        raise InvalidConfig(f"its figures are out of range: {error}") from None
    for place, said, computed in _differences(expected, results.model_dump(), ""):
        raise InvalidConfig(f"{place[1:]}: says {said}, but {computed} follows from the rest")
    _check_tokens(results)


def _expected(results: Results) -> dict[str, Any]:
    """The part of the document that follows from the rest of it. InvalidConfig where parts do not fit together."""
    document, config = results.model_dump(), results.config
    _check_shapes(results)
    watermarked, control = (document[field] for field in _FIELDS.values())
    batches = -(-config.samples // config.batch_size)
    return {
        "experiment_name": f"okr-{config.preset}",
        "summary": results_of.summary(watermarked, control, config.alpha),
        "detailed_results": [
            _sample("watermarked", index, sample, results) | {"prompt": other["prompt"], "original_text": other["text"]}
            for index, (sample, other) in enumerate(zip(watermarked, control, strict=True))
        ],
        "control_results": [
            _sample("control", index, sample, results)
            | {"unrelated_p_value": _of_decoys(sample["unrelated_p_value"], config.decoys)}
            for index, sample in enumerate(control)
        ],
        "control_uniformity": results_of.uniformity([sample["unrelated_p_value"] for sample in control]),
        "quality": results_of.quality(
            *(document["quality"][name] for name in ("tokens", "losses_keyed", "losses_unkeyed"))
        ),
        "router_sites": [results_of.site_rates(site.path, watermarked, control) for site in results.router_sites],
        "seeds": {"run": config.seed, "batches": [batch_seed(config.seed, index) for index in range(batches)]},
        "timings": {
            group: _speed(document["timings"][group], samples)
            for group, samples in zip(GROUPS, (watermarked, control), strict=True)
        },
    }


def _check_shapes(results: Results) -> None:
    """As many samples, losses and experts as the configuration and the routers say; InvalidConfig otherwise."""
    config, quality = results.config, results.quality
    lists = [(field, getattr(results, field), config.samples) for field in _FIELDS.values()]
    for name in ("losses_unkeyed", "losses_keyed"):
        lists.append((f"quality.{name}", getattr(quality, name), config.quality_passages))
    for index, site in enumerate(results.router_sites):
        for name in ("load", "control_load"):
            lists.append((f"router_sites[{index}].{name}", getattr(site, name), site.num_experts))
    lists.append(("config_sources", results.config_sources, len(RunConfig.model_fields)))
    for place, entries, count in lists:
        if len(entries) != count:
            raise InvalidConfig(f"{place}: {len(entries)} entries where there must be {count}")
    keyable = {site.path for site in results.router_sites if site.keyable}
    for sample in (*results.detailed_results, *results.control_results):
        if strangers := {site.path for site in sample.verdict.sites} - keyable:
            raise InvalidConfig(f"router_sites: {min(strangers)!r} of sample {sample.sample_id} is no keyed router")
    if unknown := set(results.config_sources) - set(RunConfig.model_fields):
        raise InvalidConfig(f"config_sources: {min(unknown)!r} is no setting")


def check_traces(results: Results, folder: Path) -> bool:
    """Whether traces lie beside a results.json in ``folder``; InvalidConfig where they are not those it speaks of."""
    if not (folder / TRACES).exists():
        return False
    groups = {group: getattr(results, _FIELDS[group]) for group in GROUPS}
    for group, samples in groups.items():
        for index, sample in enumerate(samples):
            place = f"{_FIELDS[group]}[{index}].trace"
            if not (folder / sample.trace).resolve().is_relative_to(folder.resolve()):
                raise InvalidConfig(f"{place}: a link leads {sample.trace} out of the folder of the results")
            try:
                trace = Trace.load(folder / sample.trace)
            except InvalidTrace as error:
                raise InvalidConfig(f"{place}: {error}") from None
            if trace.digest().hex() != sample.trace_digest or trace.new_tokens != sample.new_tokens:
                raise InvalidConfig(f"{place}: {sample.trace} is not the trace that these results were made from")
    sites = [site.model_dump() for site in results.router_sites]
    try:
        loads = [results_of.loads(folder, sites, [s.model_dump() for s in groups[group]]) for group in GROUPS]
    except (KeyError, ValueError):
        raise InvalidConfig("router_sites: the traces have other routers, or routers with other experts") from None
    expected = [{"load": keyed, "control_load": native} for keyed, native in zip(*loads, strict=True)]
    for place, said, computed in _differences(expected, sites, "router_sites"):
        raise InvalidConfig(f"{place}: says {said}, but the traces say {computed}")
    return True


def _sample(group: str, index: int, sample: Mapping[str, Any], results: Results) -> dict[str, Any]:
    """What follows for one sample from its group and place, its verdict's shares by site, and the configuration."""
    config, verdict, sites = results.config, sample["verdict"], sample["verdict"]["sites"]
    opportunities = sum(site["opportunities"] for site in sites)
    z = verdict["z"] if verdict["swaps"] else 0.0
    return {
        "sample_id": index,
        "new_tokens": config.max_length,
        "trace": trace_path(group, index),
        "verdict": {
            "watermarked": verdict["p_value"] <= config.alpha,
            "p_value": combined_p(verdict["swaps_p"], verdict["sites_p"]),
            "swaps_p": sign_sum_p(z),
            "sites_p": _sites_p(verdict),
            "rank_p": _of_decoys(verdict["rank_p"], config.decoys) if opportunities else 1.0,
            "exact": True,
            "alpha": config.alpha,
            "decoys": config.decoys,
            "z": z,
            "normal_p": float(ndtr(-z)),
            "swaps": sum(site["swaps"] for site in sites),
            "hit_rate": _pooled_rate(sites, "hit_rate"),
            "chance_rate": _pooled_rate(sites, "chance_rate"),
            "opportunities": opportunities,
            "free_slots": sum(site["free_slots"] for site in sites),
            "routed": max(verdict["routed"], opportunities),
            "sites": [_share(site, config.decoys) for site in sites],
        }
        | ({} if opportunities else {"tokens_needed": None}),
    }


def _check_tokens(results: Results) -> None:
    """The counts by token add up to those of the routers they come from, and their texts to the sample's text."""
    decoder = {site.path for site in results.router_sites if not site.stack.startswith("encoder")}
    for field, text in (("detailed_results", "watermarked_text"), ("control_results", "text")):
        for index, sample in enumerate(getattr(results, field)):
            tokens, place = sample.tokens, f"{field}[{index}].tokens"
            if tokens is None:
                continue
            sites = [site for site in sample.verdict.sites if site.path in decoder]
            expected = {
                "free_slots": sum(site.free_slots for site in sites),
                "matched": sum(round((site.hit_rate or 0.0) * site.free_slots) for site in sites),
                "swaps": sum(site.swaps for site in sites),
            }
            for name, total in expected.items():
                if (said := sum(getattr(tokens, name))) != total:
                    raise InvalidConfig(f"{place}.{name}: add up to {said}, but the routers' to {total}")
            written = "".join(tokens.text[max(0, len(tokens.text) - sample.new_tokens) :])
            if written.strip() != getattr(sample, text):
                raise InvalidConfig(f"{place}.text: is not the text of the sample")


def _share(site: Mapping[str, Any], decoys: int) -> dict[str, Any]:
    """A router's hit rate is a whole number of its free slots. Without opportunities it shows nothing."""
    free = site["free_slots"]
    if not free:
        return {"swaps": 0, "z": 0.0, "rank_p": 1.0}
    return {"hit_rate": round(site["hit_rate"] * free) / free, "rank_p": _of_decoys(site["rank_p"], decoys)}


def _pooled_rate(sites: Sequence[Mapping[str, Any]], rate: str) -> float | None:
    free = sum(site["free_slots"] for site in sites)
    return math.fsum(site[rate] * site["free_slots"] for site in sites if site["free_slots"]) / free if free else None


def _sites_p(verdict: Mapping[str, Any]) -> float:
    """The combined p-value of the ranks at the routers."""
    ranks = [site["rank_p"] for site in verdict["sites"] if site["opportunities"]]
    parts = (-math.fsum(map(math.log, ranks)), len(ranks), verdict["swaps"], verdict["expected_swaps"])
    return float(site_ranks_p(*(torch.tensor(part, dtype=torch.float64) for part in parts)))


def _of_decoys(p_value: float, decoys: int) -> float:
    """The nearest p-value that so many decoys can give."""
    return max(1, round(p_value * (decoys + 1))) / (decoys + 1)


def _speed(stored: Mapping[str, Any], samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    tokens = sum(sample["new_tokens"] for sample in samples)
    return {"tokens": tokens, "tokens_per_second": tokens / stored["seconds"]}


def _differences(expected: Any, found: Any, place: str) -> Iterator[tuple[str, Any, Any]]:
    """Where ``found`` lacks or contradicts what is expected: the path of the field, what it says, what follows."""
    if isinstance(expected, dict) and isinstance(found, Mapping):
        for name in found:
            if name in expected:
                yield from _differences(expected[name], found[name], f"{place}.{name}")
    elif isinstance(expected, list) and isinstance(found, Sequence) and not isinstance(found, str):
        if len(expected) != len(found):
            yield place, f"{len(found)} entries", len(expected)
        for index, (one, other) in enumerate(zip(expected, found, strict=False)):
            yield from _differences(one, other, f"{place}[{index}]")
    elif isinstance(expected, float) and isinstance(found, float):
        if not math.isclose(
            expected, found, rel_tol=TOLERANCE, abs_tol=0.0 if place.endswith(("_p", "p_value", ".z")) else SMALLEST
        ):
            yield place, found, expected
    elif expected != found:
        yield place, _short(found), _short(expected)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
