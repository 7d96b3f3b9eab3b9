"""Experiments that write results nobody should trust."""

import json
from collections.abc import Callable
from typing import Any

from okr.experiment.results import Results

from . import Change, broken

OTHER = ("OKR-WEIGHT-001", "OKR-ATTACH-004", "OKR-TRACE-001", "OKR-REPLAY-001", "OKR-VERIFY-004", "OKR-TEXT-006")


def _written(change: Change, edit: Callable[[dict[str, Any]], None]) -> None:
    to_json = Results.to_json

    def changed(self: Results) -> str:
        document = json.loads(to_json(self))
        edit(document)
        return json.dumps(document)

    change(Results, "to_json", changed)


def _samples(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [*document["detailed_results"], *document["control_results"]]


@broken("NaN in the file", fails=("OKR-RESULT-001",), passes=OTHER)
def writes_nan(change: Change) -> None:
    _written(change, lambda document: document["quality"].update(cost=float("nan")))


@broken(
    "fields that the schema does not name",
    fails=("OKR-RESULT-001",),
    passes=(*OTHER, "OKR-RESULT-002", "OKR-RESULT-006"),
)
def unnamed_fields(change: Change) -> None:
    _written(change, lambda document: document.update(comment="fine"))


@broken(
    "a field renamed", fails=("OKR-RESULT-001", "OKR-RESULT-002"), passes=(*OTHER, "OKR-RESULT-003", "OKR-RESULT-005")
)
def renames_a_field(change: Change) -> None:
    def edit(document: dict[str, Any]) -> None:
        summary = document["summary"]
        summary["mean_hit_rate"] = summary.pop("average_hit_rate")

    _written(change, edit)


@broken(
    "a smaller control group",
    fails=("OKR-RESULT-003",),
    passes=(*OTHER, "OKR-RESULT-001", "OKR-RESULT-002", "OKR-RESULT-006"),
)
def smaller_control_group(change: Change) -> None:
    _written(change, lambda document: document["control_results"].pop())


@broken(
    "controls verified against another key",
    fails=("OKR-RESULT-003",),
    passes=(*OTHER, "OKR-RESULT-001", "OKR-RESULT-002"),
)
def controls_of_another_key(change: Change) -> None:
    def edit(document: dict[str, Any]) -> None:
        for entry in document["control_results"]:
            entry["verdict"]["key_id"] = "0" * 16

    _written(change, edit)


@broken(
    "a threshold on another statistic", fails=("OKR-RESULT-004",), passes=(*OTHER, "OKR-RESULT-001", "OKR-RESULT-003")
)
def threshold_on_hit_rate(change: Change) -> None:
    def edit(document: dict[str, Any]) -> None:
        for entry in _samples(document):
            entry["verdict"]["watermarked"] = (entry["hit_rate"] or 0) < 0.9

    _written(change, edit)


@broken(
    "the summary counts every sample", fails=("OKR-RESULT-004",), passes=(*OTHER, "OKR-RESULT-001", "OKR-RESULT-003")
)
def summary_counts_all(change: Change) -> None:
    _written(change, lambda document: document["summary"].update(watermarked_samples=99))


@broken(
    "the key dumped with the configuration",
    fails=("OKR-RESULT-005",),
    passes=(*OTHER, "OKR-RESULT-001", "OKR-RESULT-006"),
)
def dumps_the_key(change: Change) -> None:
    from ...system import SECRET

    _written(change, lambda document: document["notes"].append(f"key {SECRET.hex()}"))


@broken("the key's id left blank", fails=("OKR-RESULT-005",), passes=(*OTHER, "OKR-RESULT-001", "OKR-RESULT-006"))
def blank_key_id(change: Change) -> None:
    def edit(document: dict[str, Any]) -> None:
        document["key_id"] = "0" * 16
        for entry in _samples(document):
            entry["verdict"]["key_id"] = "0" * 16

    _written(change, edit)


@broken(
    "samples name each other's traces", fails=("OKR-RESULT-006",), passes=(*OTHER, "OKR-RESULT-001", "OKR-RESULT-004")
)
def names_other_traces(change: Change) -> None:
    def edit(document: dict[str, Any]) -> None:
        entries = document["detailed_results"]
        paths = [entry["trace"] for entry in entries]
        for entry, path in zip(entries, paths[1:] + paths[:1], strict=True):
            entry["trace"] = path

    _written(change, edit)


@broken(
    "figures rounded", fails=("OKR-RESULT-006",), passes=(*OTHER, "OKR-RESULT-001", "OKR-RESULT-003", "OKR-RESULT-004")
)
def rounds_figures(change: Change) -> None:
    def edit(document: dict[str, Any]) -> None:
        for entry in _samples(document):
            entry["verdict"]["hit_rate"] = entry["hit_rate"] = round(entry["hit_rate"], 1)

    _written(change, edit)
