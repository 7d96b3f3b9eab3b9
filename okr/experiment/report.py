"""report.html and report.md: self-contained pages made from results.json, with sections that others hand over."""

import shlex
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from okr.experiment import words
from okr.experiment.by_token import marked
from okr.experiment.plots import figures
from okr.experiment.results import Results
from okr.experiment.samples_csv import samples_csv
from okr.experiment.shares import LayerShares, groups, layers, tokens_needed
from okr.jobs.placement import ENVIRONMENT_PREFIX
from okr.pages.sections import Section
from okr.pages.templating import template


@dataclass(frozen=True)
class Additions:
    """What others have to say on the report of a run.

    Attributes:
        sections: parts of the page of their own.
        first: what stands before everything else.
        text_test: paragraphs on the test of texts without traces.
        command: how the page can be reproduced where that is more than the run alone.
    """

    sections: Sequence[Section] = ()
    first: str = ""
    text_test: Sequence[str] = ()
    command: str | None = None


NOTHING = Additions()


def render(results: Results, added: Additions = NOTHING) -> str:
    """report.html as text. Nothing in it is loaded from anywhere else; every text in it is escaped."""
    drawn = figures(results)
    return template("okr.experiment", "report.html").render(
        **_common(results, added),
        figures=drawn,
        alternatives=words.alternatives(results),
        balance=[_balance(layer) for layer in layers(results)],
        settings=sorted(results.config.model_dump(mode="json").items()),
        by_token="proof" in drawn,
        marked=marked,
        csv=b64encode(samples_csv(results).encode()).decode(),
        text_test=added.text_test,
        routers=words.routers(results),
        cost=words.cost(results),
    )


def markdown(results: Results, added: Additions = NOTHING) -> str:
    """report.md as text: the same without plots and samples."""
    page = template("okr.experiment", "report.md").render(**_common(results, added))
    return f"{page.strip()}\n"


def _common(results: Results, added: Additions) -> dict[str, Any]:
    keyed, control = groups(results)
    return {
        "results": results,
        "summary": results.summary,
        "config": results.config,
        "headline": headline(results),
        "keyed": keyed,
        "control": control,
        "needed": tokens_needed(results),
        "size": words.size(results.model.parameters),
        "sections": added.sections,
        "first": added.first,
        "command": added.command or reproduce(results),
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


def _balance(layer: LayerShares) -> dict[str, Any]:
    site = layer.site
    return {
        "path": site.path,
        "keyed": _spread(site.load),
        "control": _spread(site.control_load),
        "site": site,
        "shares": layer,
    }


def _spread(load: list[int]) -> dict[str, float]:
    """How even a load is: the busiest expert's share over an even one, and the share of experts that ran at all."""
    counts = np.asarray(load, float)
    return {"busiest": float(counts.max() / max(counts.mean(), 1e-9)), "used": float((counts > 0).mean())}
