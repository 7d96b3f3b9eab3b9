"""The table of docs/quantisation.md is what its command prints: two of its lines are measured again."""

from pathlib import Path

import pytest
import torch
from scripts import script

PAGE = Path(__file__).resolve().parents[2] / "docs" / "quantisation.md"


def written() -> list[list[str]]:
    """The cells of every line behind the command."""
    table = PAGE.read_text(encoding="utf-8").partition("`python studies/quantised.py`")[2]
    lines = [line for line in table.splitlines() if line.startswith("| tiny")]
    return [line.strip("| ").split(" | ") for line in lines]


def test_the_table_holds_every_model_in_every_precision_once() -> None:
    bench = script("studies/quantised")
    settings = {name: ("max 2.0", f"boundary, strength {strength:g}") for name, strength in bench.SOFT.items()}
    expected = [
        (name, weights, setting)
        for name in settings
        for weights in ("float32", "8bit", "4bit")
        for setting in settings[name]
    ]
    assert [(cells[0], cells[1], cells[4]) for cells in written()] == expected


def test_two_lines_come_out_again() -> None:
    """Seeds, prompts and passages are the command's: only rounding may differ, and through it single samples."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        again = list(script("studies/quantised").rows("tiny-switch", "4bit"))
    finally:
        torch.set_num_threads(threads)
    before = [cells for cells in written() if cells[:2] == ["tiny-switch", "4bit"]]
    for new, old in zip(again, before, strict=True):
        assert new[:3] == old[:3]
        assert float(new[3]) == pytest.approx(float(old[3]), abs=5e-3)
        assert new[4] == old[4]
        slots, slots_before = (int(cells[5].replace(",", "")) for cells in (new, old))
        assert slots == pytest.approx(slots_before, rel=0.25)
        assert float(new[6]) == pytest.approx(float(old[6]), abs=0.01)
        assert float(new[7]) <= 0.2
