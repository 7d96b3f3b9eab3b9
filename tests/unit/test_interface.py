"""What a user meets first: truth and length of what is returned, complaints at the call, types, help."""

import dataclasses
import importlib
import inspect
import math
import re
import typing
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch

import okr
from okr.detection import Attribution
from okr.detection.attribution import Candidate
from okr.routing import NAMED, Setting
from okr.routing.settings import ZONES, ZoneName

SOFT = {"epsilon": float("inf"), "zone": "boundary", "strength": 1.0}
SHORT = 900


@pytest.fixture
def made(deepseek, key):
    with okr.watermark(deepseek, key, **SOFT) as wm:
        return wm.generate(input_ids=torch.arange(3, 9)[None], max_new_tokens=60, min_new_tokens=60, do_sample=False)


def test_a_verdict_is_true_where_the_key_was_found(deepseek, made, key, other_key):
    assert okr.verify(deepseek, made.traces, key)
    assert not okr.verify(deepseek, made.traces, other_key)
    assert not okr.verify(deepseek, made.traces, key, epsilon=0.0), "no opportunities"
    tokens = torch.randint(3, 256, (30,))
    text = okr.detect(deepseek, tokens, key, **SOFT)
    assert bool(text) is text.watermarked
    assert bool(dataclasses.replace(text, watermarked=True)) is True
    assert okr.attribute(deepseek, made.traces, [other_key, key])
    assert not okr.attribute(deepseek, made.traces, [other_key])


def test_a_repr_is_short_and_names_what_matters(deepseek, made, key):
    verdict = okr.verify(deepseek, made.traces, key)
    assert len(verdict.tokens) > 60
    text = okr.detect(deepseek, made.sequences[0], key, **SOFT, decoys=19)
    candidates = tuple(Candidate(f"{number:016x}", 0.0, 1.0, 1.0) for number in range(1000))
    attribution = Attribution(None, 0.01, 5, candidates)
    shown = [repr(each) for each in (verdict, text, attribution, made, made.traces[0], made.traces[0].header)]
    shown += [repr(site) for site in okr.discover(deepseek)]
    with okr.record(deepseek) as recorder:
        shown.append(repr(recorder))
    assert all(len(each) < SHORT and "\n" not in each for each in shown), [len(each) for each in shown]
    assert "watermarked=True" in shown[0]
    assert f"tokens=<{len(verdict.tokens)} items>" in shown[0]
    assert "candidates=<1000 items>" in shown[2]
    assert "candidates=<5 items>" in repr(Attribution(None, 0.01, 5, candidates[:5]))
    assert repr(candidates[:4]) in repr(Attribution(None, 0.01, 5, candidates[:4]))
    assert shown[3] == "Generation(sequences=[1, 66], 1 traces)"
    assert shown[4] == f"Trace(DeepseekForCausalLM, 66 tokens, 60 of them new, 2 sites, key_id={key.id})"


@pytest.mark.parametrize(
    ("kind", "call"),
    [
        (okr.InvalidKey, lambda model, key: okr.watermark(model, None, epsilon=1.0)),
        (okr.InvalidSetting, lambda model, key: okr.watermark(model, key, epsilon=-1.0)),
        (okr.InvalidSetting, lambda model, key: okr.watermark(model, key, epsilon=1.0, zone="all")),
        (okr.InvalidSetting, lambda model, key: okr.watermark(model, key, epsilon=1.0, strength=0)),
        (okr.InvalidSetting, lambda model, key: okr.watermark(model, key, setting="silent")),
        (okr.InvalidSetting, lambda model, key: okr.watermark(model, key, setting="quiet", strength=0)),
        (okr.InvalidSetting, lambda model, key: okr.watermark(None, key, epsilon=1.0)),
        (okr.RouterNotFound, lambda model, key: okr.watermark(torch.nn.Linear(2, 2), key, epsilon=1.0)),
        (okr.InvalidSetting, lambda model, key: okr.record(None)),
        (okr.RouterNotFound, lambda model, key: okr.record(torch.nn.Linear(2, 2))),
    ],
)
def test_what_is_wrong_is_said_at_the_call(deepseek, key, kind, call):
    with pytest.raises(kind):
        call(deepseek, key)


def test_nothing_is_attached_before_the_block(deepseek, key):
    keyed, native = okr.watermark(deepseek, key, epsilon=1.0), okr.record(deepseek)
    assert isinstance(keyed, AbstractContextManager)
    assert isinstance(native, AbstractContextManager)
    with native as recorder:
        assert type(recorder) is okr.Recorder
    with keyed as session:
        assert session.key_id == key.id


@pytest.mark.parametrize(
    ("options", "setting"),
    [
        ({}, NAMED["quiet"]),
        ({"setting": "loud"}, NAMED["loud"]),
        ({"setting": "loud", "strength": 3}, Setting(math.inf, "boundary", 3.0)),
        ({"epsilon": 2}, Setting(2.0, "max", math.inf)),
    ],
)
def test_a_setting_may_be_named(deepseek, key, options, setting):
    with okr.watermark(deepseek, key, **options) as session:
        made = session.generate(input_ids=torch.arange(3, 9)[None], max_new_tokens=2, do_sample=False)
    header = made.traces[0].header
    assert Setting(header.epsilon, header.zone, header.strength) == setting


@pytest.mark.parametrize("call", [okr.watermark, okr.verify, okr.detect, okr.attribute, okr.locate])
def test_zones_are_typed_by_their_names(call):
    kind = typing.get_type_hints(call)["zone"]
    assert kind in (ZoneName, ZoneName | None)
    assert ZONES == ("max", "boundary") == typing.get_args(ZoneName)


@pytest.mark.parametrize("secret", [b"twelve bytes or more", bytearray(20), 12, None])
def test_a_passphrase_is_text(secret):
    with pytest.raises(okr.InvalidKey, match=f"must be text .*, got {type(secret).__name__}") as caught:
        okr.Key.from_passphrase(secret)
    assert "twelve" not in str(caught.value)


def test_help_names_what_there_is():
    named = re.findall(r"``([\w.]+)``", inspect.getdoc(okr))
    modules = [okr, *(importlib.import_module(name) for name in named if name.startswith("okr.") and "_" not in name)]
    assert len(modules) == 4
    for name in named:
        assert any(hasattr(module, name.removeprefix("okr.")) for module in modules), name
    for name in re.findall(r"^::: (\S+)$", Path("docs/reference/index.md").read_text("utf-8"), re.M):
        module, _, part = name.rpartition(".")
        assert hasattr(importlib.import_module(module), part) or importlib.import_module(name), name
