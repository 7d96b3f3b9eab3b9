"""Watermarked generation: what the traces say is what ran, whatever the batch, padding, cache or ending."""

import copy
import io
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from small_models import random_deepseek
from transformers import GenerationConfig, LogitsProcessor

import okr
from okr import AlreadyAttached, InvalidSetting, RouterNotFound, UnsupportedGeneration

ROOT = Path(__file__).parents[4]

SETTINGS = [
    {"epsilon": 2.0},
    {"epsilon": 0.5, "zone": "boundary"},
    {"epsilon": float("inf"), "zone": "boundary", "strength": 1.0},
]


def prompts(model, lengths):
    """Random prompts of the given lengths, padded on the side their structure pads on."""
    ids = torch.zeros(len(lengths), max(lengths), dtype=torch.long)
    for row, length in enumerate(lengths):
        place = slice(0, length) if model.config.is_encoder_decoder else slice(max(lengths) - length, None)
        ids[row, place] = torch.randint(3, 256, (length,))
    return {"input_ids": ids, "attention_mask": ids.ne(0).long()}


def outputs(model):
    ids = torch.arange(3, 19).view(2, 8)
    extra = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        return model(input_ids=ids, **extra).logits


@pytest.mark.parametrize("setting", SETTINGS)
def test_every_trace_of_a_padded_batch_verifies(moe, key, other_key, setting):
    with okr.watermark(moe, key, **setting) as wm:
        made = wm.generate(**prompts(moe, [9, 4, 7]), max_new_tokens=40, do_sample=True)
    verdicts = [okr.verify(moe, trace, key, decoys=99, alpha=0.01) for trace in made.traces]
    for verdict in verdicts:
        assert verdict.hit_rate == 1.0 or not verdict.opportunities
        assert verdict.outside_zone == 0
    assert okr.verify(moe, made.traces, key, alpha=0.01).watermarked
    assert not okr.verify(moe, made.traces, other_key, alpha=0.01).watermarked


def test_traces_do_not_depend_on_the_batch(moe, key):
    inputs = prompts(moe, [9, 4, 7])
    with okr.watermark(moe, key, epsilon=1.0, zone="boundary") as wm:
        together = wm.generate(**inputs, max_new_tokens=12, do_sample=False)
        for row in range(3):
            ids = inputs["input_ids"][row][inputs["attention_mask"][row].bool()][None]
            alone = wm.generate(input_ids=ids, max_new_tokens=12, do_sample=False).traces[0]
            batched = together.traces[row]
            assert alone.token_ids.tolist() == batched.token_ids.tolist()
            assert alone.prompt_length == batched.prompt_length
            assert np.array_equal(alone.experts, batched.experts)


@pytest.mark.parametrize("use_cache", [True, False])
def test_cache_and_no_cache_make_the_same_trace(deepseek, key, use_cache):
    with okr.watermark(deepseek, key, epsilon=1.0) as wm:
        inputs = prompts(deepseek, [5, 8])
        made = wm.generate(**inputs, max_new_tokens=10, do_sample=False, use_cache=use_cache)
        reference = wm.generate(**inputs, max_new_tokens=10, do_sample=False)
    for trace, expected in zip(made.traces, reference.traces, strict=True):
        assert np.array_equal(trace.experts, expected.experts)


def test_early_end_of_sequence_ends_the_trace(deepseek, key):
    inputs = prompts(deepseek, [4, 4, 4, 4])
    with okr.watermark(deepseek, key, epsilon=1.0) as wm:
        free = wm.generate(**inputs, max_new_tokens=30, do_sample=True, eos_token_id=None, pad_token_id=0)
        stop = int(free.sequences[1, 9])  # a token that row 1 reaches after five or fewer new ones
        torch.manual_seed(5)
        made = wm.generate(**inputs, max_new_tokens=30, do_sample=True, eos_token_id=stop)
    for row, trace in zip(made.sequences, made.traces, strict=True):
        new = row[4:].tolist()
        length = new.index(stop) + 1 if stop in new else len(new)
        assert trace.new_tokens == length
        assert trace.token_ids.tolist() == row[: 4 + length].tolist()
        assert trace.experts.shape == (3 + length, 2, 4)


def test_a_generation_config_says_where_sequences_end(deepseek, key):
    config = copy.deepcopy(deepseek.generation_config)
    config.max_new_tokens, config.do_sample = 8, False
    with okr.watermark(deepseek, key, epsilon=1.0) as wm:
        inputs = prompts(deepseek, [4])
        config.eos_token_id = int(wm.generate(**inputs, generation_config=config).sequences[0, 6])
        trace = wm.generate(**inputs, generation_config=config).traces[0]
    assert trace.new_tokens <= 3
    assert trace.token_ids[-1] == config.eos_token_id


def test_generated_padding_tokens_are_tokens(deepseek, key):
    """Without a stopping rule of its own a row that ends in the pad token really ends there."""

    def always_pad(module, args, output):
        output.logits[..., 0] = 1e4

    deepseek.register_forward_hook(always_pad)
    with okr.watermark(deepseek, key, epsilon=1.0) as wm:
        made = wm.generate(input_ids=torch.tensor([[3, 4]]), max_new_tokens=3, do_sample=False)
    assert made.traces[0].token_ids.tolist() == [3, 4, 0, 0, 0]


def test_a_stop_rule_ends_the_trace_before_the_padding(deepseek, key):
    from transformers import StoppingCriteriaList

    def first_row_stops(ids, scores, **_):
        return torch.tensor([ids.shape[1] >= 6, False])

    with okr.watermark(deepseek, key, epsilon=1.0) as wm:
        made = wm.generate(
            **prompts(deepseek, [4, 4]),
            max_new_tokens=8,
            do_sample=False,
            eos_token_id=2,
            suppress_tokens=[0, 2],  # transformers pads finished rows only where there is an end-of-sequence token
            pad_token_id=0,
            stopping_criteria=StoppingCriteriaList([first_row_stops]),
        )
    assert [trace.new_tokens for trace in made.traces] == [2, 8]


def test_several_sequences_a_prompt(moe, key):
    with okr.watermark(moe, key, epsilon=2.0) as wm:
        made = wm.generate(**prompts(moe, [6, 3]), max_new_tokens=12, do_sample=True, num_return_sequences=3)
    assert len(made.traces) == 6
    for trace in made.traces:
        verdict = okr.verify(moe, trace, key, decoys=19, alpha=0.05)
        assert verdict.hit_rate in (None, 1.0)


def test_recorded_experts_are_the_ones_that_ran(deepseek, key):
    """The indices that reach the experts themselves, seen by hooks there."""
    seen = []
    for layer in deepseek.model.layers[1:]:
        layer.mlp.experts.register_forward_pre_hook(lambda module, args: seen.append(args[1].clone()))
    with okr.watermark(deepseek, key, epsilon=1.0) as wm:
        made = wm.generate(input_ids=torch.arange(3, 9)[None], max_new_tokens=5, do_sample=False)
    for site in (0, 1):
        ran = torch.cat(seen[site::2])
        assert np.array_equal(ran.numpy(), made.traces[0].experts[:, site])


def test_switch_records_dropped_tokens(switch, key):
    (router,) = (module for name, module in switch.encoder.named_modules() if name.endswith(".router"))
    output = router(torch.ones(1, 7, switch.config.d_model))
    if all(part.flatten(0, -2).any(-1).all() for part in output if not part.is_floating_point()):
        pytest.skip("this transformers drops no token beyond an expert's capacity")
    with okr.watermark(switch, key, epsilon=0.0) as wm:
        made = wm.generate(input_ids=torch.full((1, 7), 9), max_new_tokens=4, do_sample=False)
    assert (made.traces[0].encoder_experts == okr.traces.NOTHING_RAN).any()


def test_control_is_the_plain_model(moe):
    inputs = prompts(moe, [6, 4])
    plain = moe.generate(**inputs, max_new_tokens=10, do_sample=False)
    with okr.record(moe) as recorder:
        made = recorder.generate(**inputs, max_new_tokens=10, do_sample=False)
    assert torch.equal(plain, made.sequences)
    assert made.traces[0].header.key_id is None


@pytest.mark.parametrize("setting", SETTINGS)
def test_detach_restores_the_model_bit_for_bit(moe, key, setting):
    before, names = outputs(moe), list(moe.state_dict())
    classes = [type(module) for module in moe.modules()]
    with okr.watermark(moe, key, **setting):
        inside = outputs(moe)
        assert list(moe.state_dict()) == names
    assert not torch.equal(inside, before)
    assert torch.equal(outputs(moe), before)
    assert [type(module) for module in moe.modules()] == classes
    assert not any("okr" in name for module in moe.modules() for name in vars(module))


def test_detach_after_an_exception(moe, key):
    before = outputs(moe)
    with pytest.raises(ZeroDivisionError), okr.watermark(moe, key, epsilon=1.0):
        raise ZeroDivisionError
    assert torch.equal(outputs(moe), before)


def test_epsilon_zero_is_the_identity(moe, key):
    before = outputs(moe)
    for zone in ("max", "boundary"):
        with okr.watermark(moe, key, epsilon=0.0, zone=zone):
            assert torch.equal(outputs(moe), before)


def test_keys_change_what_is_computed(moe, key, other_key):
    with okr.watermark(moe, key, epsilon=2.0):
        one = outputs(moe)
    with okr.watermark(moe, other_key, epsilon=2.0):
        two = outputs(moe)
    assert not torch.equal(one, two)


def test_attaching_twice_is_refused(moe, key):
    with okr.watermark(moe, key, epsilon=1.0):
        with pytest.raises(AlreadyAttached), okr.watermark(moe, key, epsilon=1.0):
            pass
        with pytest.raises(AlreadyAttached), okr.record(moe):
            pass
    with okr.watermark(moe, key, epsilon=1.0):
        pass


def test_copies_and_saves_of_an_attached_model_are_plain(moe, key, tmp_path):
    before = outputs(moe)
    with okr.watermark(moe, key, epsilon=1.0):
        twin = copy.deepcopy(moe)
        moe.save_pretrained(tmp_path)
        stream = io.BytesIO()
        torch.save(moe, stream)
    assert torch.equal(outputs(twin), before)
    loaded = type(moe).from_pretrained(tmp_path).eval()  # weights mapped from a file lie differently: not to the bit
    assert all(map(torch.equal, loaded.state_dict().values(), moe.state_dict().values()))
    assert torch.allclose(outputs(loaded), before, atol=1e-5)
    assert torch.equal(outputs(torch.load(io.BytesIO(stream.getvalue()), weights_only=False)), before)


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_beams": 2},
        {"prompt_lookup_num_tokens": 3},
        {"inputs_embeds": torch.zeros(1, 4, 32)},
        {"input_ids": None},
        {"input_ids": torch.tensor([3, 4])},
    ],
)
def test_generation_that_cannot_be_traced_is_refused(deepseek, key, arguments):
    with okr.watermark(deepseek, key, epsilon=1.0) as wm, pytest.raises(UnsupportedGeneration):
        wm.generate(**{"input_ids": torch.tensor([[3, 4]]), "max_new_tokens": 2} | arguments)


@pytest.mark.parametrize("bad", [{"epsilon": -1.0}, {"epsilon": float("nan")}, {"epsilon": 1.0, "zone": "x"}])
def test_bad_settings_leave_the_model_alone(deepseek, key, bad):
    with pytest.raises(InvalidSetting), okr.watermark(deepseek, key, **bad):
        pass
    with okr.watermark(deepseek, key, epsilon=1.0):
        pass


def test_a_dense_model_is_refused_with_the_log(key):
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    dense = LlamaForCausalLM(LlamaConfig(vocab_size=32, **shape))
    with pytest.raises(RouterNotFound, match="未找到任何gate层") as caught, okr.watermark(dense, key, epsilon=1.0):
        pass
    assert caught.value.log


def test_threads_generate_side_by_side_in_one_block(deepseek, key):
    """Sixteen threads of twenty generations, plain keyed calls between them: every trace is of its own call."""
    inputs = torch.randint(3, 256, (4, 6))
    failures: list[str] = []
    made: dict[int, list] = {thread: [] for thread in range(16)}
    expected = {}

    def work(thread: int) -> None:
        try:
            for number in range(20):
                ids = inputs[(thread + number) % 4][None, : 3 + thread % 4]
                made[thread].append(
                    wm.generate(input_ids=ids, max_new_tokens=4 + number % 3, do_sample=False).traces[0]
                )
                with torch.no_grad():  # with gradients, threads that share parameters can lock up torch itself
                    deepseek(input_ids=ids)  # keyed, and recorded by nobody
        except Exception as error:
            failures.append(f"{type(error).__name__}: {error}")

    with okr.watermark(deepseek, key, epsilon=1.0, zone="boundary") as wm:
        threads = [threading.Thread(target=work, args=(thread,)) for thread in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures
        for thread, traces in made.items():
            for number, trace in enumerate(traces):
                what = ((thread + number) % 4, 3 + thread % 4, 4 + number % 3)
                if what not in expected:
                    ids = inputs[what[0]][None, : what[1]]
                    expected[what] = wm.generate(input_ids=ids, max_new_tokens=what[2], do_sample=False).traces[0]
                assert trace.token_ids.tolist() == expected[what].token_ids.tolist()
                assert np.array_equal(trace.experts, expected[what].experts)
    verdicts = [okr.verify(deepseek, trace, key, decoys=19, alpha=0.05) for trace in expected.values()]
    assert {verdict.hit_rate for verdict in verdicts} == {1.0}


def test_a_generation_inside_another_models_generation_keeps_to_its_own(deepseek, key):
    other = random_deepseek(num_hidden_layers=2)
    inner = []

    class Asking(LogitsProcessor):
        def __call__(self, input_ids, scores):
            inner.append(recorder.generate(input_ids=input_ids[:, -3:], max_new_tokens=2, do_sample=False).traces[0])
            return scores

    ids = torch.arange(3, 9)[None]
    with okr.record(other) as recorder, okr.watermark(deepseek, key, epsilon=1.0) as wm:
        made = wm.generate(input_ids=ids, max_new_tokens=4, do_sample=False, logits_processor=[Asking()]).traces[0]
        alone = wm.generate(input_ids=ids, max_new_tokens=4, do_sample=False).traces[0]
    assert len(inner) == 4
    assert np.array_equal(made.experts, alone.experts)


def test_token_ids_may_be_given_by_position(deepseek, key):
    ids = torch.arange(3, 9)[None]
    with okr.watermark(deepseek, key, epsilon=1.0) as wm:
        traces = [wm.generate(ids, max_new_tokens=4, do_sample=False).traces[0],
                  wm.generate(input_ids=ids, max_new_tokens=4, do_sample=False).traces[0]]  # fmt: skip
    assert np.array_equal(traces[0].experts, traces[1].experts)


@pytest.mark.parametrize(
    "changes", [{"guidance_scale": 1.5}, {"prompt_lookup_num_tokens": 2}, {"assistant_early_exit": 1}, {"num_beams": 2}]
)
@pytest.mark.parametrize("where", ["arguments", "generation_config", "the model's"])
def test_what_cannot_be_traced_is_refused_before_generating(deepseek, key, changes, where):
    ids = torch.arange(3, 9)[None]
    arguments = {"arguments": changes, "generation_config": {"generation_config": GenerationConfig(**changes)}}
    if where == "the model's":
        deepseek.generation_config = GenerationConfig(**changes)
    with okr.watermark(deepseek, key, epsilon=1.0) as wm:
        deepseek.generate = None  # never reached
        with pytest.raises(UnsupportedGeneration, match="cannot be traced"):
            wm.generate(input_ids=ids, max_new_tokens=4, **arguments.get(where, {}))


COMPILED = """
import torch
import okr
from okr import Key
from tests.small_models import random_deepseek

model = random_deepseek()
ids = torch.arange(3, 9)[None]
how = {"max_new_tokens": 12, "do_sample": False, "cache_implementation": "static"}
with okr.watermark(model, Key(bytes(16)), epsilon=1.0, zone="boundary") as wm:
    eager = wm.generate(ids, **how).traces[0]
    model.forward = torch.compile(model.forward, backend="aot_eager")
    wm.generate(ids, **how)
    with torch.compiler.set_stance("fail_on_recompile"):
        made = [wm.generate(ids, **how).traces[0] for _ in range(3)]
for trace in made:
    assert trace.token_ids.tolist() == eager.token_ids.tolist()
    assert (trace.experts == eager.experts).all()
"""


def test_a_compiled_model_is_recorded_and_not_compiled_again(warm):
    """In a process of its own: the run-time shape checks of the test run cannot be compiled."""
    done = subprocess.run([warm / "python", "-c", COMPILED], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
