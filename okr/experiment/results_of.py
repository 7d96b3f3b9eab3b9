"""From the finished tasks of a run and its traces to results. They are the same however often a run was resumed."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from okr.experiment.held_out_loss import Loss
from okr.experiment.results import Results
from okr.experiment.sampling import Batch
from okr.intervals import paired
from okr.traces import Trace
from okr.traces.load import expert_load
from okr.version import SPEC_VERSION

UNRELATED = (
    "an unrelated key of its own is ranked among decoys on every control sample: under one shared key the ranks of "
    "different texts depend on each other, since the texts meet the key in alike states; ranks are multiples of "
    "1 / (decoys + 1) and ties only raise them, so many samples make this test slightly too strict"
)


def assemble(folder: Path, header: dict[str, Any], batches: Sequence[Batch], measured: Loss) -> Results:
    """The results of a run whose ``batches`` (both groups, in order) and ``measured`` losses are all there."""
    groups = {
        group: [sample for batch in batches if batch.group == group for sample in batch.samples]
        for group in ("watermarked", "control")
    }
    watermarked, control = groups["watermarked"], groups["control"]
    return Results.model_validate(
        {
            "spec_version": SPEC_VERSION,
            "experiment_name": f"okr-{header['config']['preset']}",
            "summary": summary(watermarked, control, header["config"]["alpha"]),
            "detailed_results": [
                _sample(w) | {"original_text": c["text"], "watermarked_text": w["text"]}
                for w, c in zip(watermarked, control, strict=True)
            ],
            "control_results": [
                _sample(c) | {"text": c["text"], "unrelated_p_value": c["unrelated_p_value"]} for c in control
            ],
            "control_uniformity": uniformity([c["unrelated_p_value"] for c in control]),
            "quality": quality(measured.tokens, measured.keyed, measured.unkeyed),
            "router_sites": _sites(folder, header["sites"], watermarked, control),
            "seeds": {
                "run": header["config"]["seed"],
                "batches": [batch.seed for batch in batches if batch.group == "watermarked"],
            },
            "timings": _timings(header, batches, measured),
            **{name: header[name] for name in ("key_id", "config", "config_sources", "model", "environment", "notes")},
        }
    )


def _sample(sample: dict[str, Any]) -> dict[str, Any]:
    copied = {name: sample["verdict"][name] for name in ("hit_rate", "p_value", "opportunities")}
    own = {name: sample[name] for name in ("sample_id", "prompt", "new_tokens", "trace", "verdict")}
    return own | copied | {"trace_digest": sample["digest"], "tokens": sample.get("tokens")}


def _mean(samples: Sequence[dict[str, Any]], rate: str) -> float | None:
    rates = [s["verdict"][rate] for s in samples if s["verdict"][rate] is not None]
    return math.fsum(rates) / len(rates) if rates else None


def summary(watermarked: Sequence[dict[str, Any]], control: Sequence[dict[str, Any]], alpha: float) -> dict[str, Any]:
    """The outcome of both groups of samples, each with its verdict."""
    return {
        "total_samples": len(watermarked),
        "watermarked_samples": sum(s["verdict"]["watermarked"] for s in watermarked),
        "average_hit_rate": _mean(watermarked, "hit_rate"),
        "average_chance_rate": _mean(watermarked, "chance_rate"),
        "detection_threshold": alpha,
        "largest_p_value": max(s["verdict"]["p_value"] for s in watermarked),
        "control_samples": len(control),
        "control_watermarked_samples": sum(s["verdict"]["watermarked"] for s in control),
        "control_average_hit_rate": _mean(control, "hit_rate"),
        "control_smallest_p_value": min(s["verdict"]["p_value"] for s in control),
    }


def uniformity(p_values: Sequence[float]) -> dict[str, Any]:
    """The test of the control group's unrelated p-values against the uniform law."""
    from scipy import stats  # takes a second to import

    outcome = stats.kstest(p_values, "uniform")
    return {
        "test": "Kolmogorov-Smirnov, two-sided, against the uniform law on (0, 1)",
        "statistic": float(outcome.statistic),
        "p_value": float(outcome.pvalue),
        "samples": len(p_values),
        "note": UNRELATED,
    }


def quality(tokens: int, keyed: Sequence[float], unkeyed: Sequence[float]) -> dict[str, Any]:
    """What the losses of every passage, ``keyed`` and ``unkeyed``, over ``tokens`` say of the cost."""
    cost, low, high = paired(keyed, unkeyed)
    return {
        "passages": len(keyed),
        "tokens": tokens,
        "loss_unkeyed": float(np.mean(unkeyed)),
        "loss_keyed": float(np.mean(keyed)),
        "cost": cost,
        "cost_low": low,
        "cost_high": high,
        "losses_unkeyed": unkeyed,
        "losses_keyed": keyed,
    }


def _sites(
    folder: Path,
    sites: Sequence[dict[str, Any]],
    watermarked: Sequence[dict[str, Any]],
    control: Sequence[dict[str, Any]],
) -> list[dict[str, Any]]:
    """Hit rates pooled over samples and expert loads counted from the traces, for every site."""
    counted = [loads(folder, sites, group) for group in (watermarked, control)]
    described = []
    for index, site in enumerate(sites):
        rates = site_rates(site["path"], watermarked, control)
        described.append(site | rates | {"load": counted[0][index], "control_load": counted[1][index]})
    return described


def site_rates(path: str, watermarked: Sequence[dict[str, Any]], control: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What both groups of samples say of one site."""
    keyed, native = (_pooled(path, group) for group in (watermarked, control))
    return {
        "hit_rate": keyed[0],
        "chance_rate": keyed[1],
        "opportunities": keyed[2],
        "control_hit_rate": native[0],
        "control_chance_rate": native[1],
    }


def _pooled(path: str, samples: Sequence[dict[str, Any]]) -> tuple[float | None, float | None, int]:
    """Hit rate, chance rate and opportunities of one site over all samples, weighted by free slots."""
    scores = [score for s in samples for score in s["verdict"]["sites"] if score["path"] == path]
    scores = [score for score in scores if score["free_slots"]]
    slots = sum(score["free_slots"] for score in scores)
    if not slots:
        return None, None, 0
    hit, chance = (
        min(1.0, math.fsum(score[rate] * score["free_slots"] for score in scores) / slots)
        for rate in ("hit_rate", "chance_rate")
    )
    return hit, chance, sum(score["opportunities"] for score in scores)


def loads(folder: Path, sites: Sequence[dict[str, Any]], samples: Sequence[dict[str, Any]]) -> list[list[int]]:
    """How often each expert of every site ran in the traces of ``samples``. Raises KeyError for a site not there."""
    experts = {site["path"]: site["num_experts"] for site in sites}
    counts = expert_load((Trace.load(folder / sample["trace"]) for sample in samples), experts)
    return [counts[site["path"]].tolist() for site in sites]


def _timings(header: dict[str, Any], batches: Sequence[Batch], measured: Loss) -> dict[str, Any]:
    def speed(group: str) -> dict[str, Any]:
        mine = [batch for batch in batches if batch.group == group]
        seconds = math.fsum(batch.seconds["generate"] for batch in mine)
        tokens = sum(sample["new_tokens"] for batch in mine for sample in batch.samples)
        return {"tokens": tokens, "seconds": seconds, "tokens_per_second": tokens / seconds}

    return {
        "started": header["started"],
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "load_seconds": header["load_seconds"],
        "verify_seconds": math.fsum(batch.seconds["verify"] for batch in batches),
        "quality_seconds": measured.seconds,
        "watermarked": speed("watermarked"),
        "control": speed("control"),
    }
