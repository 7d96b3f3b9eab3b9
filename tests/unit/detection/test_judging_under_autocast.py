"""Traces made under autocast, and judging inside an autocast block."""

from dataclasses import replace
from threading import Thread

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from okr import InvalidTrace, Trace, attribute, detect, record, verify, watermark

LOWER = [torch.bfloat16, torch.float16]
EVERYTHING = {"epsilon": float("inf"), "zone": "boundary"}
SAMPLED = {"max_new_tokens": 24, "min_new_tokens": 24, "do_sample": True}


def tokens(rows=2):
    return torch.randint(3, 250, (rows, 6), generator=torch.Generator().manual_seed(1))


def inputs(model, rows=2):
    return {"input_ids": tokens(rows)}


@pytest.mark.parametrize("dtype", LOWER, ids=str)
@pytest.mark.parametrize("inside", [True, False])
def test_a_trace_names_its_autocast_and_is_replayed_under_it(moe, key, dtype, inside, tmp_path):
    """Without a cache the last forward saw every token, as a replay of one row does: the very same numbers."""
    around, lower = torch.autocast("cpu", dtype, enabled=inside), torch.autocast("cpu", dtype)
    with around, watermark(moe, key, **EVERYTHING) as wm, lower:
        trace = wm.generate(**inputs(moe, 1), use_cache=False, **SAMPLED).traces[0]
    name = str(dtype).removeprefix("torch.")
    trace.save(tmp_path / "t")
    loaded = Trace.load(tmp_path / "t")
    assert loaded.header.autocast == name
    verdict = verify(moe, loaded, key)
    assert verdict.hit_rate == 1.0
    assert verdict.outside_zone == 0
    assert verdict.dtypes == ((f"float32, autocast {name}",), f"float32, autocast {name}")


def test_each_generation_names_the_autocast_it_ran_under(deepseek, key):
    with watermark(deepseek, key, **EVERYTHING) as wm:
        with torch.autocast("cpu", torch.bfloat16):
            lowered = wm.generate(**inputs(deepseek), **SAMPLED).traces
            deepseek(tokens())
            with torch.autocast("cpu", enabled=False):
                plain = wm.generate(**inputs(deepseek), **SAMPLED).traces
        after = wm.generate(**inputs(deepseek), **SAMPLED).traces
    with torch.autocast("cpu", torch.float16), record(deepseek) as recorder:
        native = recorder.generate(**inputs(deepseek), **SAMPLED).traces
    assert [t.header.autocast for t in lowered + plain + after + native] == [
        *["bfloat16"] * 2, *[None] * 4, *["float16"] * 2,
    ]  # fmt: skip
    verdict = verify(deepseek, lowered + plain, key)
    assert verdict.hit_rate > 0.98
    assert verdict.dtypes[1] == "float32 and float32, autocast bfloat16"


def test_no_word_of_an_autocast_that_was_off_and_none_of_what_torch_does_not_have(deepseek, key, tmp_path):
    with watermark(deepseek, key, **EVERYTHING) as wm:
        trace = wm.generate(**inputs(deepseek), **SAMPLED).traces[0]
    trace.save(tmp_path / "t")
    assert b"autocast" not in (tmp_path / "t").read_bytes()
    assert Trace.load(tmp_path / "t").digest() == trace.digest()
    odd = replace(trace, header=trace.header.model_copy(update={"autocast": "load"}))
    odd.save(tmp_path / "odd")
    with pytest.raises(InvalidTrace, match="header field autocast"):
        Trace.load(tmp_path / "odd")


@pytest.mark.parametrize("dtype", LOWER, ids=str)
def test_judging_inside_autocast_says_what_it_says_outside(moe, key, other_key, dtype):
    with watermark(moe, key, **EVERYTHING) as wm:
        plain = wm.generate(**inputs(moe), **SAMPLED).traces
        with torch.autocast("cpu", dtype):
            lowered = wm.generate(**inputs(moe), **SAMPLED).traces
    outside = verify(moe, plain + lowered, key)
    attributed = attribute(moe, plain + lowered, [other_key, key])
    with torch.autocast("cpu", dtype):
        assert verify(moe, plain + lowered, key) == outside
        assert attribute(moe, plain + lowered, [other_key, key]) == attributed
    assert verify(moe, plain, key).hit_rate >= 0.99
    assert attributed.key_id == key.id


@pytest.mark.parametrize("dtype", LOWER, ids=str)
def test_text_judged_inside_autocast_is_scored_as_the_keyed_model_scores_it(deepseek, key, other_key, dtype):
    """log p of the claimed key, in float32, is what the model keyed by it gives under the same autocast."""
    text = tokens(1)[0]
    with torch.autocast("cpu", dtype):
        with watermark(deepseek, key, **EVERYTHING), torch.no_grad():
            logits = deepseek(text[None, :-1]).logits[0]
        verdict = detect(deepseek, text, key, **EVERYTHING, decoys=19, rows=1)
    expected = logits.double().log_softmax(-1).gather(-1, text[1:, None]).sum()
    assert verdict.log_likelihood == pytest.approx(float(expected), rel=1e-5)
    assert verdict.opportunities == 2 * 5


def test_judging_within_a_training_step_takes_no_gradient_from_it(deepseek, key):
    """torch keeps lowered weights for the whole autocast block; 2.9 keeps those made without gradients, too."""
    with watermark(deepseek, key, **EVERYTHING) as wm:
        trace = wm.generate(**inputs(deepseek, 1), **SAMPLED).traces[0]
    trained = []
    for judged in (False, True):
        deepseek.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            if judged:
                verify(deepseek, trace, key)
                detect(deepseek, tokens(1)[0], key, **EVERYTHING, decoys=19)
            loss = deepseek(tokens()).logits.float().square().sum()
        loss.backward()
        trained.append({name for name, p in deepseek.named_parameters() if p.grad is not None and p.grad.any()})
    assert trained[0] == trained[1] != set()


@pytest.mark.parametrize("dtype", LOWER, ids=str)
def test_weights_of_16_bits_under_autocast(moe, key, dtype):
    lowered = moe.to(torch.bfloat16)
    with watermark(lowered, key, **EVERYTHING) as wm, torch.autocast("cpu", dtype):
        trace = wm.generate(**inputs(moe, 1), use_cache=False, **SAMPLED).traces[0]
    verdict = verify(lowered, trace, key)
    assert verdict.hit_rate == 1.0
    assert verdict.dtypes[1] == f"bfloat16, autocast {trace.header.autocast}"


def test_autocast_belongs_to_the_thread_that_entered_it(deepseek, key):
    made = []
    with torch.autocast("cpu", torch.bfloat16), watermark(deepseek, key, **EVERYTHING) as wm:
        worker = Thread(target=lambda: made.append(wm.generate(**inputs(deepseek, 1), **SAMPLED).traces[0]))
        worker.start()
        worker.join()
    assert made[0].header.autocast is None
    assert verify(deepseek, made[0], key).hit_rate >= 0.99


@pytest.fixture
def accelerator():
    yield Accelerator(mixed_precision="bf16", cpu=True)
    AcceleratorState._reset_state(reset_partial_state=True)


def test_a_model_prepared_for_mixed_precision_is_keyed_traced_and_verified(deepseek, key, accelerator):
    """Its forward is wrapped in autocast by accelerate, whatever holds around the call."""
    prepared = accelerator.prepare(deepseek)
    with watermark(prepared, key, **EVERYTHING) as wm:
        made = wm.generate(**inputs(prepared, 1), use_cache=False, **SAMPLED)
        loss = prepared(tokens()).logits.square().sum()
        loss.backward()
    assert loss.dtype == torch.float32
    trace = made.traces[0]
    assert trace.header.autocast == "bfloat16"
    assert verify(prepared, trace, key).hit_rate == 1.0
    plain = accelerator.unwrap_model(prepared, keep_fp32_wrapper=False)
    assert verify(plain, trace, key).hit_rate == 1.0
    assert detect(prepared, made.sequences[0], key, **EVERYTHING, decoys=19).opportunities > 0
