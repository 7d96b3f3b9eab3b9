"""On a card: CUDA graphs, vLLM's own records, and as many cards of tensor parallelism as there are."""

from pathlib import Path
from typing import Any

import generate
import pytest
import shapes
import torch

import okr
from okr import Key, Trace

pytestmark = pytest.mark.gpu
SECTION = {"zone": "boundary", "epsilon": "inf", "strength": 0.5}
SETTING = SECTION | {"epsilon": float("inf")}
PROMPTS = [list(range(10, 10 + count)) for count in (5, 17, 30)] * 8


def traces(key_file: Path, folder: Path, options: dict[str, Any], sampling: dict[str, Any]) -> tuple[Any, list[Trace]]:
    model = shapes.write("Qwen3-MoE", folder / "model")
    job = {
        "model": str(folder / "model"),
        "options": {"dtype": "bfloat16", "enforce_eager": False, **options},
        "okr": {"key_file": str(key_file), **SECTION},
        "prompts": PROMPTS,
        "sampling": {"max_tokens": 48, "temperature": 1.0, **sampling},
    }
    *answers, _ = generate.run(job, folder)
    return model, [Trace.from_response(answer, model=model, **SETTING) for answer in answers]


@pytest.mark.parametrize("cards", [1, 2])
def test_graphs_and_tensor_parallelism_are_keyed(cards: int, key_file: Path, tmp_path: Path) -> None:
    if torch.cuda.device_count() < cards:
        pytest.skip(f"needs {cards} cards")
    model, made = traces(key_file, tmp_path, {"tensor_parallel_size": cards}, {})
    found = okr.verify_each(model, made, Key.load(key_file)).each
    assert min(verdict.hit_rate for verdict in found) >= 0.97
    assert all(verdict.watermarked for verdict in found)


def test_a_request_opts_out_of_a_captured_graph(key_file: Path, tmp_path: Path) -> None:
    model, made = traces(key_file, tmp_path, {}, {"extra_args": {"okr": False}})
    assert not okr.verify(model, made, Key.load(key_file)).watermarked
