"""report.html: self-contained, escaped, and saying what results.json says."""

import base64
import copy
import csv
import io
import json
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest

from okr.cli import execute
from okr.experiment.by_token import marked
from okr.experiment.report import render, reproduce
from okr.experiment.results import Results
from okr.experiment.samples_csv import samples_csv
from okr.experiment.shares import groups, layers
from okr.intervals import share

HOSTILE = "<script>alert('x')</script> & <img src=http://example.org/x> {{ 7 * 7 }} \u202e ]]>"


class References(HTMLParser):
    """Everything a page would load, and its tags."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "data", "action", "srcset", "poster"):
                self.loaded.append(value or "")


def read(page: str) -> References:
    parser = References()
    parser.feed(page)
    parser.close()
    return parser


def test_the_page_loads_nothing_from_anywhere(finished: Path) -> None:
    page = (finished / "report.html").read_text(encoding="utf-8")
    found = read(page)
    assert found.tags.count("svg") == 7
    assert not {"script", "link", "iframe", "object"} & set(found.tags)
    assert all(
        reference.startswith(("#", "data:image/png;base64,", "data:text/csv;charset=utf-8;base64,", "traces/"))
        for reference in found.loaded
    )
    assert not re.search(r"url\((?!#)|@import", page)


def test_text_is_escaped(document: dict) -> None:
    hostile = copy.deepcopy(document)
    sample, control = hostile["detailed_results"][0], hostile["control_results"][0]
    sample |= {"prompt": HOSTILE, "watermarked_text": HOSTILE, "original_text": HOSTILE}
    control |= {"prompt": HOSTILE, "text": HOSTILE}
    sample["tokens"]["text"] = [HOSTILE for _ in sample["tokens"]["text"]]
    sample["trace"] = 'traces/"onclick="alert(1)&?a=b#c'
    hostile["model"]["source"] = HOSTILE
    hostile["notes"] = [HOSTILE]
    page = render(Results.model_validate_json(json.dumps(hostile)))
    found = read(page)
    assert not {"script", "img"} & set(found.tags)
    assert page.count("&lt;script&gt;") > 5
    assert "{{ 7 * 7 }}" in page
    assert "traces/%22onclick%3D%22alert%281%29%26%3Fa%3Db%23c" in found.loaded


def test_the_page_says_what_the_results_say(finished: Path) -> None:
    results = Results.load(finished / "results.json")
    page = (finished / "report.html").read_text(encoding="utf-8")
    assert f"{results.summary.watermarked_samples} of {results.summary.total_samples} watermarked samples" in page
    for text in (results.key_id, f"{results.quality.cost:+.4f}", f"{results.summary.average_hit_rate:.3f}"):
        assert text in page
    for label in (
        "p-value (log scale)",
        "hit rate (share of free slots)",
        "router (stack and layer)",
        "expert (index)",
        "tokens of the trace that are looked at",
        "token of the trace",
        "keyed loss less unkeyed loss, nats per token",
    ):
        assert label in page


def test_every_share_has_its_interval(finished: Path) -> None:
    results = Results.load(finished / "results.json")
    page = (finished / "report.html").read_text(encoding="utf-8")
    for group in groups(results):
        low, high = share(group.watermarked, group.samples)[1:]
        assert f"({100 * low:.0f}% to {100 * high:.0f}%)" in page
        assert f"({group.hit_rate.low:.3f} to {group.hit_rate.high:.3f})" in page
    for layer in layers(results):
        for rate in (layer.keyed, layer.control):
            assert f"({rate.low:.3f} to {rate.high:.3f})" in page
        pooled = [results.summary.average_hit_rate, layer.site.hit_rate]
        assert min(pooled) - 0.2 < layer.keyed.value < max(pooled) + 0.2


def test_every_drawing_is_described_and_every_link_leads_somewhere(finished: Path) -> None:
    page = (finished / "report.html").read_text(encoding="utf-8")
    assert len(re.findall(r'role="img" aria-label="[^"]{20,}"', page)) == read(page).tags.count("svg")
    places = set(re.findall(r' id="(\w+)"', page))
    for reference in read(page).loaded:
        if reference.startswith("traces/"):
            assert (finished / reference).exists()
        elif re.fullmatch(r"#[a-z]+", reference):
            assert reference[1:] in places


def test_the_words_of_the_page_are_explained_on_it(finished: Path) -> None:
    page = (finished / "report.html").read_text(encoding="utf-8")
    explained = " ".join(re.findall(r"<dt>(.*?)</dt>", page))
    for word in ("expert", "router", "token", "key", "trace", "swap", "hit rate", "chance rate", "control", "decoy",
                 "p-value", "opportunit", "setting", "held-out loss", "interval"):  # fmt: skip
        assert word in explained
        assert len(re.findall(rf"\b{word}", page)) > 1


def test_the_table_in_the_page_has_every_sample(finished: Path) -> None:
    results = Results.load(finished / "results.json")
    page = (finished / "report.html").read_text(encoding="utf-8")
    (content,) = re.findall(r"data:text/csv;charset=utf-8;base64,([^\"]+)", page)
    rows = list(csv.DictReader(io.StringIO(base64.b64decode(content).decode())))
    samples = [*results.detailed_results, *results.control_results]
    assert len(rows) == len(samples)
    for row, sample in zip(rows, samples, strict=True):
        assert (float(row["p_value"]), row["trace"]) == (sample.p_value, sample.trace)
        assert int(row["swaps"]) == sample.verdict.swaps
    assert {row["group"] for row in rows} == {"watermarked", "control"}


def test_a_trace_with_the_name_of_a_formula_is_text_in_a_table(document: dict) -> None:
    named = copy.deepcopy(document)
    named["detailed_results"][0]["trace"] = "=cmd|a"
    assert ",'=cmd|a\n" in samples_csv(Results.model_validate_json(json.dumps(named)))


def test_marks_are_where_the_swaps_are(finished: Path) -> None:
    results = Results.load(finished / "results.json")
    for sample, text in (
        *((sample, sample.watermarked_text) for sample in results.detailed_results),
        *((sample, sample.text) for sample in results.control_results),
    ):
        shown = marked(sample)
        assert unescape(shown.striptags()) == " ".join(text.split())
        swapped = [count for count in sample.tokens.swaps[-sample.new_tokens :] if count]
        assert len(re.findall(r'<span class="s[123]">', shown)) == len(swapped)
        assert bool(swapped) == (sample in results.detailed_results)


def test_results_without_counts_by_token_still_make_a_page(document: dict) -> None:
    old = copy.deepcopy(document) | {"schema_version": "1.2"}
    for sample in (*old["detailed_results"], *old["control_results"]):
        del sample["tokens"]
    results = Results.model_validate_json(json.dumps(old))
    page = render(results)
    assert "hold no counts by token" in page
    assert results.detailed_results[0].watermarked_text in unescape(page)
    assert read(page).tags.count("svg") == 5


def test_a_report_is_made_again_from_the_folder(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "results.json").write_bytes((finished / "results.json").read_bytes())
    assert execute(["report", str(tmp_path)]) == 0
    assert (tmp_path / "report.html").read_text() == (finished / "report.html").read_text()
    assert execute(["report", str(tmp_path / "nowhere")]) == 2
    assert "cannot read" in capsys.readouterr().err


def test_the_command_to_repeat_a_run_names_what_was_chosen(finished: Path) -> None:
    command = reproduce(Results.load(finished / "results.json"))
    assert command.startswith("OKR_ALPHA=0.01 OKR_QUALITY_PASSAGES=3 okr run tiny --")
    assert "--samples 5" in command
    assert "--key key.json" in command
    assert "--setting loud" in command
    assert "--strength" not in command  # the setting's
