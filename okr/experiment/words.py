"""Sentences of the report that depend on the figures."""

import math
from collections.abc import Sequence

from okr.experiment.by_token import hit_rates_along, p_curve
from okr.experiment.results import Results
from okr.experiment.shares import groups, layers
from okr.intervals import Interval


def size(parameters: int) -> str:
    """A number of parameters as people say it, such as ``4.3 million``."""
    for unit, name in ((10**9, "billion"), (10**6, "million")):
        if parameters >= unit:
            return f"{parameters / unit:.3g} {name}"
    return f"{parameters:,}"


def routers(results: Results) -> str:
    """How many routers are keyed, how many experts they have, and how many of them run for a token."""
    keyed = [site for site in results.router_sites if site.keyable]
    shapes = dict.fromkeys(f"{site.top_k} of {site.num_experts} experts run" for site in keyed)
    others = len(results.router_sites) - len(keyed)
    rest = f"; {others} more cannot be keyed" if others else ""
    return f"{len(keyed)}, in each of which {' or '.join(shapes)} for a token{rest}"


def cost(results: Results) -> str:
    """What the key costs, and whether it can be told from nothing."""
    quality = results.quality
    low, high = (100 * math.expm1(end) for end in (quality.cost_low, quality.cost_high))
    told = quality.cost_low > 0 or quality.cost_high < 0
    verdict = (
        "The difference can be told from zero."
        if told
        else "The interval holds zero: no cost can be told from this many passages."
    )
    return (
        f"The model predicted {quality.passages} passages of human text, with the key and without. The key changes the "
        f"perplexity (how many tokens the model hesitates between) by {low:+.2f}% to {high:+.2f}%. {verdict}"
    )


def alternatives(results: Results) -> dict[str, str]:
    """What each figure shows, in words."""
    keyed, control = groups(results)
    found = layers(results)
    said = {
        "p_values": f"Steps: the share of samples with a p-value of at most so much. Watermarked samples lie from "
        f"{keyed.smallest_p:.3g} to {keyed.largest_p:.3g}, controls from {control.smallest_p:.3g} to "
        f"{control.largest_p:.3g}.",
        "hit_rates": f"Histogram of the samples' hit rates. Watermarked: {_mean(keyed.hit_rate)}; control: "
        f"{_mean(control.hit_rate)}.",
        "layers": "Points: the hit rate of each router. Watermarked: "
        f"{_range([layer.keyed for layer in found])}; control: {_range([layer.control for layer in found])}.",
        "load": "Two heat maps: how often each expert of each router ran, watermarked and control. The table below has "
        "the busiest.",
        "costs": f"Histogram of the difference in loss over passages. The mean is {results.quality.cost:+.4f} nats per "
        "token.",
    }
    return said | _along_the_text(results)


def _along_the_text(results: Results) -> dict[str, str]:
    """The same of the figures that need the counts by token, where both groups have them."""
    both = (results.detailed_results, results.control_results)
    curves = [p_curve(group) for group in both]
    if curves[0] is None or curves[1] is None:
        return {}
    keyed, control = ([rate for _, rate in hit_rates_along(group, 12)] for group in both)
    return {
        "proof": "Curves: the median p-value after each token. At the end it is "
        f"{curves[0].median[-1]:.3g} for watermarked samples and {curves[1].median[-1]:.3g} for controls.",
        "along": f"Points: hit rates along the traces. Watermarked: {_range(keyed)}; control: {_range(control)}.",
    }


def _mean(rate: Interval | None) -> str:
    return "no opportunity" if rate is None else f"mean {rate.value:.3f}"


def _range(rates: Sequence[Interval | None]) -> str:
    known = [rate.value for rate in rates if rate is not None]
    return f"{min(known):.3f} to {max(known):.3f}" if known else "no opportunity"
