"""The tiny models that system clauses are tried on."""

import pytest
import torch

from okr.spec import models, system


@pytest.mark.parametrize("make", [models.growing_model, models.single_model])
def test_a_model_that_notes_what_it_has_seen_is_new_each_time(make):
    """A check's verdict hung on which checks had run before it, while they shared one that they had scaled."""
    used, ids = make(), system.tokens(1, 30)
    expected = make()(input_ids=ids[:, :13]).logits
    used(input_ids=ids)
    assert used.model.rotary_emb.max_seq_len_cached == 30
    assert not torch.equal(used(input_ids=ids[:, :13]).logits, expected)
    assert torch.equal(make()(input_ids=ids[:, :13]).logits, expected)
