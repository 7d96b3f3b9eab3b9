"""report.html and report.md: self-contained pages made from results.json, with sections that others hand over."""

import shlex
from collections.abc import Sequence
from typing import Any

import numpy as np

from okr.experiment.plots import figures
from okr.experiment.results import Results, SiteResult
from okr.jobs.placement import ENVIRONMENT_PREFIX
from okr.pages.sections import Section
from okr.pages.templating import template


def render(
    results: Results, *, sections: Sequence[Section] = (), first: str = "", command: str | None = None
) -> str:  # fmt: skip
    """report.html as text. Nothing in it is loaded from anywhere else; every text in it is escaped.

    ``sections`` are what others have to say of the run, ``first`` what to say before everything else, ``command`` how
    the page can be reproduced where that is more than the run alone.
    """
    return template("okr.experiment", "report.html").render(
        **_common(results, sections, first, command),
        figures=figures(results),
        balance=[_balance(site) for site in results.router_sites if site.keyable],
        settings=sorted(results.config.model_dump(mode="json").items()),
    )


def markdown(
    results: Results, *, sections: Sequence[Section] = (), first: str = "", command: str | None = None
) -> str:  # fmt: skip
    """report.md as text: the same without plots and samples."""
    page = template("okr.experiment", "report.md").render(**_common(results, sections, first, command))
    return f"{page.strip()}\n"


def _common(results: Results, sections: Sequence[Section], first: str, command: str | None) -> dict[str, Any]:
    return {
        "results": results,
        "summary": results.summary,
        "config": results.config,
        "headline": headline(results),
        "sections": sections,
        "first": first,
        "command": command or reproduce(results),
    }


def headline(results: Results) -> str:
    """The outcome in one sentence."""
    summary = results.summary
    return (
        f"{summary.watermarked_samples} of {summary.total_samples} watermarked samples carry the key "
        f"(p ≤ {summary.detection_threshold:g}); of {summary.control_samples} samples without a key, "
        f"{summary.control_watermarked_samples} would have been mistaken for watermarked."
    )


def reproduce(results: Results) -> str:
    """The command that repeats the run under the same key."""
    config, variables, changed = results.config, [], []
    left_out = {"preset", "output_dir", "key"} | (set() if config.setting is None else {"epsilon", "zone", "strength"})
    for name, source in results.config_sources.items():
        value = getattr(config, name)
        chosen = source in ("flag", "environment", "file") and value is not None and value is not False
        if chosen and name in _NO_FLAG:
            variables.append(f"{ENVIRONMENT_PREFIX}{name.upper()}={value}")
        elif chosen and name not in left_out:
            flag = f"--{name.replace('_', '-')}"
            changed += [flag] if value is True else [flag, str(value)]
    return shlex.join([*variables, "okr", "run", config.preset, *changed, "--key", "key.json", "--output-dir", "again"])


_NO_FLAG = {"prompt_words", "alpha", "temperature", "quality_passages", "threads"}  # set by the environment or a file


def _balance(site: SiteResult) -> dict[str, Any]:
    return {
        "path": site.path,
        "keyed": _spread(site.load),
        "control": _spread(site.control_load),
        "site": site,
    }


def _spread(load: list[int]) -> dict[str, float]:
    """How even a load is: the busiest expert's share over an even one, and the share of experts that ran at all."""
    counts = np.asarray(load, float)
    return {"busiest": float(counts.max() / max(counts.mean(), 1e-9)), "used": float((counts > 0).mean())}
