"""report.html: self-contained, escaped, and saying what results.json says."""

import copy
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from okr.cli import execute
from okr.experiment.report import render, reproduce
from okr.experiment.results import Results

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
    assert found.tags.count("svg") == 4
    assert not {"script", "link", "iframe", "object"} & set(found.tags)
    assert all(reference.startswith(("#", "data:image/png;base64,")) for reference in found.loaded)
    assert not re.search(r"url\((?!#)|@import", page)


def test_text_is_escaped(document: dict) -> None:
    hostile = copy.deepcopy(document)
    sample, control = hostile["detailed_results"][0], hostile["control_results"][0]
    sample |= {"prompt": HOSTILE, "watermarked_text": HOSTILE, "original_text": HOSTILE}
    control |= {"prompt": HOSTILE, "text": HOSTILE}
    hostile["model"]["source"] = HOSTILE
    hostile["notes"] = [HOSTILE]
    page = render(Results.model_validate_json(json.dumps(hostile)))
    found = read(page)
    assert not {"script", "img"} & set(found.tags)
    assert page.count("&lt;script&gt;") == 5
    assert "{{ 7 * 7 }}" in page


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
    ):
        assert label in page


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
