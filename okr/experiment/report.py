"""report.html: one self-contained page made from results.json alone."""

import shlex
from importlib.resources import files
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from okr.experiment.config import ENVIRONMENT_PREFIX
from okr.experiment.plots import figures
from okr.experiment.results import Results, SiteResult


def render(
    results: Results, *, suites: Markup | None = None, weakness: str = "", command: str | None = None
) -> str:  # fmt: skip
    """The page as text. Nothing in it is loaded from anywhere else; every text in it is escaped.

    ``suites`` are the sections of evidence suites as HTML, ``weakness`` what to say first of all, ``command`` how the
    page can be reproduced where that is more than the run alone.
    """
    template = files("okr.experiment").joinpath("templates/report.html").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= FILTERS
    return environment.from_string(template).render(
        results=results,
        summary=results.summary,
        config=results.config,
        headline=headline(results),
        figures={name: Markup(svg) for name, svg in figures(results).items()},  # noqa: S704 - matplotlib's own SVG
        balance=[_balance(site) for site in results.router_sites if site.keyable],
        settings=sorted(results.config.model_dump(mode="json").items()),
        command=command or reproduce(results),
        suites=suites or Markup(),
        weakness=weakness,
    )


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
    for name, source in results.config_sources.items():
        value = getattr(config, name)
        chosen = source in ("flag", "environment", "file") and value is not None and value is not False
        if chosen and name in _NO_FLAG:
            variables.append(f"{ENVIRONMENT_PREFIX}{name.upper()}={value}")
        elif chosen and name not in ("preset", "output_dir", "key"):
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


def _rate(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _p(value: float) -> str:
    return f"{value:.3g}"


def _number(value: float) -> str:
    return "∞" if value == float("inf") else f"{value:g}"


FILTERS: dict[str, Any] = {"rate": _rate, "p": _p, "setting": _number}
