"""Keyed families that read text, in batches of any size with padding on the left: every call of every router runs a
legal selection by the oracle, padding included, and no row depends on what stands beside it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from okr import Key, watermark
from tests.unit.discovery import zoo
from tests.unit.engines.transformers.families.observed import calls_of
from tests.unit.engines.transformers.families.test_keyed_families import ALL, KEYED, SETTINGS, check, prepared

TEXT = [name for name in KEYED if ALL[name].inputs is zoo._text]


@st.composite
def batches(draw: st.DrawFn) -> dict[str, torch.Tensor]:
    """Token ids [1 to 3 rows, at most 9] padded with 0 on the left, and their mask; one row has no padding."""
    lengths = draw(st.lists(st.integers(1, 9), min_size=1, max_size=3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    ids = torch.zeros(len(lengths), max(lengths), dtype=torch.long)
    for row, length in zip(ids, lengths, strict=True):
        row[len(row) - length :] = torch.randint(3, zoo.VOCABULARY, (length,), generator=generator)
    return {"input_ids": ids, "attention_mask": ids.ne(0).long()}


def test_nearly_every_family_is_among_them() -> None:
    assert len(TEXT) >= 55


@pytest.mark.parametrize("name", TEXT)
@settings(max_examples=2)
@given(setting=SETTINGS, secret=st.binary(min_size=16, max_size=16), inputs=batches())
def test_the_prescribed_experts_run_in_any_batch(name, setting, secret, inputs):
    model, key = zoo.build(name), Key(secret)
    sites = prepared(name).routers
    with torch.no_grad(), watermark(model, key, **setting), calls_of(model, sites) as calls:
        model(**inputs)
    assert {call.site.path for call in calls} == {site.path for site in sites}
    for call in calls:
        assert len(call.experts) >= inputs["input_ids"].numel() / 2  # a call may see a part: the image's tokens, say
        check(call, key, setting)
