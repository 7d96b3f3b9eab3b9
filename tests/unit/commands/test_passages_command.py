"""okr verify --passages at the command line."""

import json
from pathlib import Path

import pytest
from browser import CHROMIUM, opened

from okr.cli import execute


@pytest.fixture
def words(finished: Path, deepseek_folder: Path, key_file: Path) -> list[str]:
    traces = [str(finished / "traces" / f"{kind}-0000.safetensors") for kind in ("watermarked", "control")]
    setting = ["--setting", "loud", "--alpha", "0.05", "--decoys", "199"]
    return ["verify", str(deepseek_folder), *traces, "--key", str(key_file), *setting, "--passages"]


def test_spans_follow_each_verdict(words: list[str], capfd: pytest.CaptureFixture) -> None:
    assert execute(words) == 1
    lines = capfd.readouterr().out.splitlines()
    told = [line for line in lines if "family-wise p <= 0.05" in line]
    assert len(told) == 2
    assert "no span of" in told[1]
    assert execute([*words, "--json"]) == 1
    keyed, control = json.loads(capfd.readouterr().out)["files"]
    assert control["passages"]["spans"] == []
    assert control["passages"]["p_value"] == 1.0
    assert ("acted in" in told[0]) == bool(keyed["passages"]["spans"])
    assert keyed["passages"]["p_value"] < 1
    for span in keyed["passages"]["spans"]:
        assert set(span) == {"start", "end", "p_value", "swaps", "text"}


def test_the_page_is_one_file(words: list[str], tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert execute([*words, "--html", str(page)]) == 1
    html = page.read_text(encoding="utf-8")
    assert html.count('<div class="text"') == 2
    if CHROMIUM:
        seen, console = opened(html, tmp_path)
        assert not console
        assert not seen["loaded"]
        assert seen["wide"] <= 1200


@pytest.mark.parametrize(("more", "said"), [(["--pooled"], "leave out --pooled"), (["--html", "p.html"], "give both")])
def test_options_that_do_not_go_together(words: list[str], more: list[str], said: str, capfd) -> None:
    given = words if "--pooled" in more else words[:-1]
    assert execute([*given, *more]) == 2
    assert said in capfd.readouterr().err


def test_a_page_that_cannot_be_written_is_one_line(words: list[str], tmp_path: Path, capfd) -> None:
    assert execute([*words, "--html", str(tmp_path / "none" / "page.html")]) == 2
    assert "cannot write" in capfd.readouterr().err
