"""Baked checkpoints in engines that know nothing of keys: vLLM and mlx-lm."""

import math
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from pages import ROOT, blocks

import okr
from okr.baking import read_header
from okr.baking.models import unbaked
from okr.cli import execute
from okr.loaders import passages

QUIET = {"zone": "boundary", "epsilon": math.inf, "strength": 0.1}
NO_MLX = "needs mlx-lm in the environment of the tests: pip install mlx mlx-cpu mlx-lm"


@pytest.fixture(scope="module")
def baked(key_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("baked") / "baked"
    assert execute(["bake", "tiny", str(folder), "--key", str(key_file)]) == 0
    return folder


@pytest.fixture(scope="module")
def judge(baked: Path, key_file: Path) -> Any:
    header = read_header(baked)
    assert header is not None
    return unbaked(okr.load(baked).model, header, [okr.Key.load(key_file)])


def prompts(count: int) -> list[list[int]]:
    tokenizer = okr.load("tiny").tokenizer
    return [tokenizer(passage.text)["input_ids"][:24] for passage in passages(count)]


def test_vllm_runs_it_under_the_key(baked: Path, judge: Any, key_file: Path) -> None:
    from vllm import SamplingParams

    from okr.engines.vllm import load_engine

    sampling = SamplingParams(max_tokens=48, min_tokens=48, seed=0, detokenize=False)
    with load_engine(str(baked), max_model_len=512).recorded() as session:
        traces = session.generate(prompts(4), sampling_params=sampling).traces
    verdicts = okr.verify_each(judge, traces, okr.Key.load(key_file), **QUIET, skip_prompt=True).each
    assert max(verdict.p_value for verdict in verdicts) <= 1e-6
    other = okr.verify_each(judge, traces, okr.Key.public("another"), **QUIET, skip_prompt=True).each
    assert min(verdict.p_value for verdict in other) > 1e-6


@pytest.mark.skipif(find_spec("mlx_lm") is None, reason=NO_MLX)
def test_mlx_runs_it_under_the_key_and_the_original_without(baked: Path, judge: Any, key_file: Path) -> None:
    import mlx.core as mx
    from mlx_lm.generate import generate_step
    from mlx_lm.sample_utils import make_sampler
    from mlx_lm.utils import load_model

    from okr.baking.models import checkpoint_folder
    from okr.collect import mlx

    mx.random.seed(0)
    found = {}
    for folder in (baked, checkpoint_folder("tiny")):
        model, _ = load_model(folder)
        traces = []
        for prompt in prompts(4):
            with mlx.collected(model) as routing:
                new = [
                    token
                    for token, _ in generate_step(
                        mx.array(prompt), model, max_tokens=48, sampler=make_sampler(temp=1.0)
                    )
                ]
            traces.append(routing.trace([*prompt, *new], model=str(folder), prompt_length=len(prompt)))
        each = okr.verify_each(judge, traces, okr.Key.load(key_file), **QUIET, skip_prompt=True).each
        found[folder] = [verdict.p_value for verdict in each]
    assert max(found[baked]) <= 1e-6
    assert min(found[checkpoint_folder("tiny")]) > 1e-6


@pytest.mark.skipif(find_spec("mlx_lm") is None, reason=NO_MLX)
def test_the_example_of_the_page_runs_as_written(baked: Path, key_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(baked.parent)
    page = blocks(ROOT / "docs" / "how-to" / "bake.md")
    (code,) = [text for language, text in page if language == "py" and "mlx" in text]
    exec(compile(code, "bake.md", "exec"), {"__name__": "__main__"})
    assert execute(["verify", "baked", "mlx.okrtrace", "--key", str(key_file)]) == 0
