"""Models under adapters: which routers run, and what a trace says of the weights that made it.

The oracle is what a model computes: two models are one where their logits and router logits agree.
"""

import copy
import subprocess
import sys

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from peft.utils.hotswap import hotswap_adapter
from small_models import random_deepseek, random_switch
from transformers import GraniteMoeConfig, GraniteMoeForCausalLM

import okr
from okr import InvalidTrace, UnsupportedGeneration
from okr.discovery import keyable_sites, prove
from okr.traces import ModelIdentity
from tests.unit.discovery.plain_models import Holder, InlineBlock, Network
from tests.unit.engines.transformers.adapted import (
    ATTENTION,
    MAKERS,
    activated,
    adapted,
    bfloat16,
    computes,
    mixtral,
    switched,
    trained,
    two_lora,
)

SETTING = {"epsilon": 2.0, "zone": "boundary", "strength": 1.0}
IDS = torch.arange(3, 15)[None]
GREEDY = {"input_ids": IDS, "max_new_tokens": 16, "min_new_tokens": 16, "do_sample": False}


def generated(model, key, **arguments):
    with okr.watermark(model, key, **SETTING) as wm:
        return wm.generate(**GREEDY | arguments).traces[0]


def paths(model):
    return [site.path for site in okr.discover(model)]


@pytest.fixture(scope="module")
def known():
    """Every model of MAKERS, on and off: its name, its identity, what it computes."""
    found = []
    for maker in MAKERS:
        for name, model, context in switched(maker):
            with context():
                before = copy.deepcopy(model.state_dict())
                identity = ModelIdentity.of(model, keyable_sites(model))
                after = model.state_dict()
                assert all(torch.equal(before[part], after[part]) for part in before), name
                found.append((name, identity, computes(model)))
    return found


def test_models_are_one_where_they_compute_the_same(known):
    wrong = []
    for name, identity, output in known:
        for other, another, expected in known:
            same = bool((output - expected).abs().max() < 1e-3 * output.abs().max())
            if (identity.difference(another) == "") != same:
                wrong.append((name, other, identity.difference(another)))
    assert not wrong


def test_the_pairs_hold_both_answers(known):
    assert len(known) > 60
    answers = [identity.difference(known[0][1]) for _, identity, _ in known]
    assert 15 < answers.count("") < len(answers) - 25
    assert {"weights", "routers", "structure"} <= set(answers)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["base", "lora", "dora", "both", "lora of the experts", "ia3", "fine-tuned"])
def test_a_copy_in_another_dtype_has_the_same_weights(known, name, kind):
    """Also where the adapter is merged on the one side and not on the other, and rounds otherwise there."""
    model = MAKERS[name]().to(kind)
    copies = [model]
    if hasattr(model, "merge_and_unload"):
        names = ["default", "second"] if name == "both" else None
        copies.append(copy.deepcopy(model).merge_and_unload(adapter_names=names))
    identities = {other: identity for other, identity, _ in known}
    for rounded in copies:
        identity = ModelIdentity.of(rounded, keyable_sites(rounded))
        assert identity.weights.agrees(identities[name].weights)
        if kind == torch.bfloat16:
            assert not identity.difference(identities[name])
        for other in ("lora, another training", "fine-tuned in one matrix", "loha", "second of two"):
            assert not identity.weights.agrees(identities[other].weights)


def test_a_trace_made_with_an_adapter_is_judged_by_what_equals_it(key):
    model = adapted(target_modules=ATTENTION)
    trace = generated(model, key)
    verdicts = [okr.verify(judge, trace, key) for judge in (model, model.get_base_model())]
    verdicts.append(okr.verify(copy.deepcopy(model).merge_and_unload(), trace, key))
    assert [verdict.hit_rate for verdict in verdicts] == [1.0, 1.0, 1.0]
    assert verdicts[0] == verdicts[1], "wrapped or not, the verdict is one"
    assert verdicts[0].p_value == pytest.approx(verdicts[2].p_value, rel=1e-3)
    for judge in (mixtral(), adapted(target_modules=ATTENTION, seed=5)):
        with pytest.raises(InvalidTrace, match="other weights"):
            okr.verify(judge, trace, key)
    with model.disable_adapter(), pytest.raises(InvalidTrace, match="other weights"):
        okr.verify(model, trace, key)


def test_a_trace_of_the_plain_model_is_refused_once_an_adapter_acts_in_it(key):
    """peft changes the model that it is given in place."""
    base = mixtral()
    trace = generated(base, key)
    model = adapted(model=base, target_modules=ATTENTION)
    for judge in (base, model):
        with pytest.raises(InvalidTrace, match="other weights"):
            okr.verify(judge, trace, key)
    with model.disable_adapter():
        assert okr.verify(model, trace, key).hit_rate == 1.0
    assert okr.verify(model.unload(), trace, key).hit_rate == 1.0


def test_an_adapter_that_no_weights_stand_for_is_none_of_the_models_without_it(key):
    """Which tokens it acts on is decided by the tokens: peft cannot merge it, and the weights show nothing of it."""
    model, plain = activated(1), mixtral()
    trace, native = generated(model, key), generated(plain, key)
    assert okr.verify(model, trace, key).hit_rate == 1.0
    model.add_adapter("unused", LoraConfig(r=2, target_modules=["v_proj"]))
    assert okr.verify(model, trace, key).hit_rate == 1.0
    for judge, other in ((plain, trace), (activated(5), trace), (model, native)):
        with pytest.raises(InvalidTrace, match="another model"):
            okr.verify(judge, other, key)
    with model.disable_adapter():
        assert okr.verify(model, native, key).hit_rate == 1.0


def test_an_adapter_whose_weights_were_not_loaded_is_unknown():
    model = get_peft_model(mixtral(), LoraConfig(r=4, target_modules=ATTENTION), low_cpu_mem_usage=True)
    identity = ModelIdentity.of(model, keyable_sites(model))
    base = ModelIdentity.of(mixtral(), keyable_sites(mixtral()))
    assert identity.weights.values != base.weights.values


def test_the_adapters_of_transformers_count_likewise(key):
    model = mixtral()
    plain = generated(model, key)
    model.add_adapter(LoraConfig(r=4, target_modules=ATTENTION, init_lora_weights=False))
    adapted_trace = generated(model.eval(), key)
    assert okr.verify(model, adapted_trace, key).hit_rate == 1.0
    with pytest.raises(InvalidTrace):
        okr.verify(model, plain, key)
    model.disable_adapters()
    assert okr.verify(model, plain, key).hit_rate == 1.0
    with pytest.raises(InvalidTrace):
        okr.verify(model, adapted_trace, key)


def test_only_the_copy_of_a_saved_gate_that_runs_is_a_router(key):
    model = adapted(target_modules=ATTENTION, modules_to_save=["gate"])
    gates = [f"base_model.model.model.layers.{layer}.mlp.gate" for layer in range(2)]
    assert paths(model) == [f"{gate}.modules_to_save.default" for gate in gates]
    with model.disable_adapter():
        assert paths(model) == [f"{gate}.original_module" for gate in gates]
        assert okr.verify(mixtral(), generated(model, key), key).hit_rate == 1.0
    model.add_adapter("plain", LoraConfig(r=2, target_modules=["v_proj"]))
    model.set_adapter("plain")
    assert paths(model) == [f"{gate}.original_module" for gate in gates]
    model.set_adapter("default")
    assert paths(model) == [f"{gate}.modules_to_save.default" for gate in gates]


KEYED = [
    lambda: adapted(target_modules=ATTENTION, modules_to_save=["gate"]),
    lambda: adapted(target_modules=ATTENTION, modules_to_save=["mlp"]),
    lambda: adapted(target_parameters=["gate.weight"]),
    lambda: adapted(target_parameters=["experts.gate_up_proj", "experts.down_proj"]),
    lambda: adapted(model=random_deepseek(), target_modules="all-linear", modules_to_save=["gate"]),
    lambda: adapted(model=random_switch(), target_modules="all-linear"),
    lambda: adapted(model=granite(), target_parameters=["experts.gate_up_proj"], target_modules="all-linear"),
]


def granite():
    torch.manual_seed(0)
    sizes = {"vocab_size": 256, "hidden_size": 32, "intermediate_size": 16, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 8, "num_experts_per_tok": 2}
    config = GraniteMoeConfig(**sizes, **heads, initializer_range=0.2, pad_token_id=0, eos_token_id=None)
    return GraniteMoeForCausalLM(config).eval()


@pytest.mark.parametrize("number", range(len(KEYED)))
def test_an_adapted_model_is_keyed_and_recorded_as_its_merged_copy(number, key):
    model = KEYED[number]()
    merged = copy.deepcopy(model).merge_and_unload()
    assert [site.keyable for site in okr.discover(model)] == [site.keyable for site in okr.discover(merged)]
    assert [site.reason for site in prove(model)] == [site.reason for site in prove(merged)]
    mine, its = generated(model, key), generated(merged, key)
    assert mine.header.sites == its.header.sites
    assert mine.token_ids.tolist() == its.token_ids.tolist()
    assert mine.experts.tolist() == its.experts.tolist()
    for judge, trace in ((model, its), (merged, mine)):
        verdict = okr.verify(judge, trace, key)
        assert verdict.hit_rate == 1.0
        assert verdict.outside_zone == 0


def test_plain_calls_are_keyed_by_the_copy_that_runs(key):
    model = adapted(target_modules=ATTENTION, modules_to_save=["gate"])
    merged = copy.deepcopy(model).merge_and_unload()
    with torch.no_grad(), okr.watermark(model, key, **SETTING), okr.watermark(merged, key, **SETTING):
        mine, its = model(input_ids=IDS).logits, merged(input_ids=IDS).logits
        with model.disable_adapter():
            off = model(input_ids=IDS).logits
    with torch.no_grad(), okr.watermark(base := mixtral(), key, **SETTING):
        torch.testing.assert_close(off, base(input_ids=IDS).logits)
    torch.testing.assert_close(mine, its)


def test_a_linear_gate_under_an_adapter_stays_one_router(key):
    gated = Network(Holder("moe", InlineBlock()), Holder("moe", InlineBlock())).eval()
    model = adapted(model=gated, target_modules=["gate"])
    merged = copy.deepcopy(model).merge_and_unload()
    assert paths(model) == [f"base_model.model.{path}" for path in paths(merged)]
    with torch.no_grad(), okr.watermark(model, key, **SETTING), okr.watermark(merged, key, **SETTING):
        torch.testing.assert_close(model(IDS), merged(IDS))


def test_adapters_switched_inside_the_block_are_named_in_each_trace(key):
    model = adapted(target_modules=ATTENTION, modules_to_save=["gate"])
    model.add_adapter("plain", LoraConfig(r=2, target_modules=["v_proj"], init_lora_weights=False))
    with okr.watermark(model, key, **SETTING) as wm:
        first = wm.generate(**GREEDY).traces[0]
        model.set_adapter("plain")
        second = wm.generate(**GREEDY).traces[0]
        with model.disable_adapter():
            third = wm.generate(**GREEDY).traces[0]
        model.delete_adapter("default")
        fourth = wm.generate(**GREEDY).traces[0]
    assert not any(type(module).__name__.startswith("Attached") for module in model.modules())
    assert fourth.header == second.header
    assert okr.verify(model, second, key).hit_rate == 1.0
    assert okr.verify(mixtral(), third, key).hit_rate == 1.0
    for trace in (first, third):
        with pytest.raises(InvalidTrace):
            okr.verify(model, trace, key)


def test_weights_written_inside_the_block_are_named_in_each_trace(key, tmp_path):
    """By a training step, by ``.data``, and by peft's hot swap, which leaves every switch as it was."""
    model, other = adapted(target_modules=ATTENTION), adapted(target_modules=ATTENTION, seed=9)
    other.save_pretrained(tmp_path)
    with okr.watermark(model, key, **SETTING) as wm:
        before = wm.generate(**GREEDY).traces[0]
        hotswap_adapter(model, tmp_path, adapter_name="default")
        swapped = wm.generate(**GREEDY).traces[0]
        trained(model, 11)
        stepped = wm.generate(**GREEDY).traces[0]
    assert okr.verify(other, swapped, key).hit_rate == 1.0
    assert okr.verify(model, stepped, key).hit_rate == 1.0
    for trace in (before, swapped):
        with pytest.raises(InvalidTrace):
            okr.verify(model, trace, key)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_merging_in_sixteen_bits_is_no_other_model(dtype, key):
    model = adapted(model=bfloat16(mixtral()), target_modules=ATTENTION)
    trace = generated(model, key)
    judge = model.to(dtype).merge_and_unload()
    assert okr.verify(judge, trace, key).watermarked
    with pytest.raises(InvalidTrace):
        okr.verify(mixtral().to(dtype), trace, key)


def test_engine_rows_describe_the_model_that_is_given(key):
    model = adapted(target_modules=ATTENTION)
    merged = copy.deepcopy(model).merge_and_unload()
    made = generated(merged, key)
    named = {"prompt_length": made.prompt_length, "key_id": key.id, **SETTING}
    trace = okr.Trace.from_routed_experts(made.token_ids, made.experts, model=model, **named)
    assert trace.header.sites == made.header.sites
    assert okr.verify(merged, trace, key).hit_rate == 1.0
    with pytest.raises(InvalidTrace):
        okr.verify(mixtral(), trace, key)


def test_a_larger_vocabulary_is_the_same_model(key):
    model = mixtral()
    trace = generated(model, key)
    model.resize_token_embeddings(160, mean_resizing=False)
    assert okr.verify(model, trace, key).hit_rate == 1.0


def test_another_head_is_the_same_model_since_no_state_depends_on_it(key):
    model = mixtral()
    trace = generated(model, key)
    with torch.no_grad():
        model.lm_head.weight.mul_(-1)
    assert okr.verify(model, trace, key).hit_rate == 1.0


def test_virtual_tokens_are_refused_before_anything_is_generated(key):
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    model = get_peft_model(mixtral(), config).eval()
    with pytest.raises(UnsupportedGeneration, match="PROMPT_TUNING"):
        generated(model, key)
    with model.disable_adapter():
        trace = generated(model, key)
    assert okr.verify(mixtral(), trace, key).hit_rate == 1.0
    with pytest.raises(InvalidTrace):
        okr.verify(model, trace, key)


def test_a_prefix_is_part_of_the_model(key):
    config = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    model = get_peft_model(mixtral(), config).eval()
    trace = generated(model, key)
    assert okr.verify(model, trace, key).hit_rate == 1.0
    with pytest.raises(InvalidTrace):
        okr.verify(mixtral(), trace, key)
    other = trained(get_peft_model(mixtral(), config).eval(), 3)
    with pytest.raises(InvalidTrace):
        okr.verify(other, trace, key)


def test_an_adapter_for_each_row_is_refused(key):
    with pytest.raises(UnsupportedGeneration, match="adapters"):
        generated(two_lora("default"), key, adapter_names=["__base__"])


def test_peft_is_not_imported():
    code = "import sys, okr.engines.transformers, okr.detection, okr.traces; print('peft' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
