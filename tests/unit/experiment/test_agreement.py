"""okr validate: every figure that follows from what a results.json holds, or from the traces beside it."""

import copy
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from okr.cli import execute
from okr.errors import InvalidConfig
from okr.experiment.agreement import check_figures, check_traces
from okr.experiment.results import Results

Steps = tuple[str | int, ...]

# What nothing else in the file says: docs/results.md names all of it.
TAKEN_AS_IT_IS = re.compile(
    r"spec_version|config\.(?!preset|samples|max_length|batch_size|decoys|alpha|seed|quality_passages)|config_sources\.|"
    r".*\.tokens\.(text|p_value|\w+\.(?!0$))|.*\.verdict\.(outside_zone|routed|tokens_needed|expected_swaps)|.*\.verdict\.sites\.\d+\.z|"
    r".*\.trace_digest|quality\.(tokens|unit)|"
    r"router_sites\.\d+\.(stack|layer|router_class|top_k|hidden_size|unit|reason|(control_)?load)|"
    r"model\.|environment\.|notes|timings\.(started|finished|load_seconds|verify_seconds|quality_seconds)"
)


def leaves(part: Any, steps: Steps = ()) -> Iterator[tuple[Steps, Any]]:
    """Every value of a document that is no object and no list."""
    if isinstance(part, dict | list):
        for step, inner in part.items() if isinstance(part, dict) else enumerate(part):
            yield from leaves(inner, (*steps, step))
    else:
        yield steps, part


def altered(value: Any) -> list[Any]:
    """Other values of the same kind, some of them close by."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, value * 2 + 1]
    if isinstance(value, float):
        return [value * (1 + 1e-6) + 1e-9, value / 2 + 0.0123]  # the latter is no p-value of 199 decoys
    return [f"{value}x", ""] if isinstance(value, str) else [1, 0.5]


def put(document: dict, steps: Steps, value: Any) -> dict:
    changed = copy.deepcopy(document)
    part: Any = changed
    for step in steps[:-1]:
        part = part[step]
    part[steps[-1]] = value
    return changed


def check(document: dict) -> None:
    """What a file with this content is told, but for its traces."""
    try:
        results = Results.model_validate_json(json.dumps(document))
    except ValueError as error:
        raise InvalidConfig(str(error)) from None
    check_figures(results)


def test_a_run_agrees_with_itself(finished: Path, document: dict) -> None:
    check(document)
    assert check_traces(Results.load(finished / "results.json"), finished)


def test_every_figure_that_follows_from_another_is_checked(document: dict) -> None:
    """All leaves of the file are altered, one at a time: accepted are those that nothing else in it says. The first
    token of a sample stands for all of its tokens."""
    told, accepted = 0, []
    for steps, value in leaves(document):
        name = ".".join(map(str, steps))
        for other in (other for other in altered(value) if other != value and not TAKEN_AS_IT_IS.match(name)):
            try:
                check(put(document, steps, other))
            except InvalidConfig:
                told += 1
            else:
                accepted.append((name, value, other))
    assert accepted == []
    assert told > 500


@pytest.mark.parametrize(
    "place",
    [
        "summary.average_hit_rate",
        "summary.average_chance_rate",
        "summary.largest_p_value",
        "summary.control_average_hit_rate",
        "summary.control_smallest_p_value",
        "control_uniformity.p_value",
        "control_uniformity.statistic",
        "quality.cost",
        "quality.cost_low",
        "quality.cost_high",
        "quality.loss_keyed",
        "router_sites.0.chance_rate",
        "timings.watermarked.tokens_per_second",
        "timings.control.tokens",
        "seeds.batches.1",
    ],
)
def test_the_field_that_does_not_follow_is_named(
    place: str, document: dict, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    steps: Steps = tuple(int(step) if step.isdigit() else step for step in place.split("."))
    value = dict(leaves(document))[steps]
    path = tmp_path / "results.json"
    path.write_text(json.dumps(put(document, steps, value + 1 if isinstance(value, int) else value * 0.99)))
    assert execute(["validate", str(path)]) == 2
    line = capfd.readouterr().err
    shown = re.sub(r"[.]([0-9]+)", r"[\1]", place)
    assert f"{path} is not valid: {shown}: says " in line
    assert line.count("\n") == 1


@pytest.mark.parametrize("name", ["free_slots", "matched", "swaps", "text"])
@pytest.mark.parametrize("group", ["detailed_results", "control_results"])
def test_what_tokens_say_is_what_their_sample_says(group: str, name: str, document: dict) -> None:
    steps: Steps = (group, 1, "tokens", name, -2)
    value = document[group][1]["tokens"][name][-2]
    with pytest.raises(InvalidConfig, match=rf"{group}\[1\]\.tokens\.{name}: "):
        check(put(document, steps, f"{value}x" if name == "text" else value + 1))


def test_tokens_have_all_their_counts_or_none(document: dict) -> None:
    """Files of before 1.3 have none."""
    short = copy.deepcopy(document)
    short["control_results"][0]["tokens"]["swaps"].pop()
    with pytest.raises(InvalidConfig, match="one entry for each token"):
        check(short)
    old = document | {"schema_version": "1.2"}
    for group in ("detailed_results", "control_results"):
        old[group] = [{name: part for name, part in one.items() if name != "tokens"} for one in document[group]]
    check(old)


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "../traces/a",
        "traces/../../a",
        "traces//a",
        "",
        ".",
        "./traces/a",
        "C:/a",
        "traces\\..\\a",
        "a\0b",
    ],
)
def test_a_trace_outside_the_folder_is_refused(path: str, document: dict) -> None:
    with pytest.raises(InvalidConfig, match="must be a relative path inside the folder"):
        check(put(document, ("detailed_results", 0, "trace"), path))


@pytest.mark.parametrize("huge", [10**30, 10**400])
@pytest.mark.parametrize("name", ["free_slots", "opportunities"])
def test_counts_beyond_all_measure_are_one_line(name: str, huge: int, document: dict) -> None:
    with pytest.raises(InvalidConfig) as caught:
        check(put(document, ("detailed_results", 0, "verdict", "sites", 0, name), huge))
    assert "\n" not in str(caught.value)
    with pytest.raises(InvalidConfig, match=r"router_sites\[0\]\.load: 16 entries where there must be 1000000000000"):
        check(put(document, ("router_sites", 0, "num_experts"), 10**12))


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run that may be spoilt."""
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def validated(folder: Path, capfd: pytest.CaptureFixture) -> str:
    code = execute(["validate", str(folder / "results.json")])
    printed = capfd.readouterr()
    assert code == (0 if printed.err == "" else 2)
    return printed.out + printed.err


def test_traces_are_looked_at_where_they_lie_beside(folder: Path, capfd: pytest.CaptureFixture) -> None:
    assert validated(folder, capfd) == f"{folder / 'results.json'} is valid\n"
    shutil.rmtree(folder / "traces")
    assert "its traces are not beside it and were not looked at" in validated(folder, capfd)
    assert execute(["validate", str(folder / "results.json"), "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["traces"] == "not there"


FIRST, SECOND = "traces/watermarked-0000.safetensors", "traces/watermarked-0001.safetensors"


def lost(folder: Path) -> None:
    (folder / FIRST).unlink()


def exchanged(folder: Path) -> None:
    (folder / FIRST).rename(folder / "kept")
    (folder / SECOND).rename(folder / FIRST)
    (folder / "kept").rename(folder / SECOND)


def damaged(folder: Path) -> None:
    content = (folder / FIRST).read_bytes()
    (folder / FIRST).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def linked_out(folder: Path) -> None:
    (folder / FIRST).rename(folder.parent / "elsewhere")
    (folder / FIRST).symlink_to(folder.parent / "elsewhere")


def folder_linked_out(folder: Path) -> None:
    (folder / "traces").rename(folder.parent / "traces")
    (folder / "traces").symlink_to(folder.parent / "traces")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lost, f"cannot read trace .*{FIRST}"),
        (exchanged, f"{FIRST} is not the trace that these results were made from"),
        (damaged, f"{FIRST}: (its checksum|.*experts)"),
        (linked_out, f"a link leads {FIRST} out of the folder"),
        (folder_linked_out, f"a link leads {FIRST} out of the folder"),
    ],
)
def test_traces_that_are_not_those_of_the_results(
    spoil: Callable[[Path], None], said: str, folder: Path, capfd: pytest.CaptureFixture
) -> None:
    spoil(folder)
    line = validated(folder, capfd)
    assert re.search(rf"is not valid: detailed_results\[0\]\.trace: .*{said}", line)
    assert line.count("\n") == 1


@pytest.mark.parametrize("name", ["load", "control_load"])
def test_loads_are_counted_again(name: str, folder: Path, document: dict, capfd: pytest.CaptureFixture) -> None:
    value = document["router_sites"][1][name][3]
    changed = put(document, ("router_sites", 1, name, 3), value + 1)
    (folder / "results.json").write_text(json.dumps(changed))
    assert f"router_sites[1].{name}[3]: says {value + 1}, but the traces say {value}" in validated(folder, capfd)
