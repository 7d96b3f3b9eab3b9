"""Rows that are left native, as spans in memory and as the buffer that a captured graph reads."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from okr.engines.vllm.routed import Rows

CPU = torch.device("cpu")
spans = st.lists(st.tuples(st.integers(0, 15), st.integers(1, 16)).filter(lambda span: span[0] < span[1]), max_size=4)


@given(steps=st.lists(spans, min_size=1, max_size=4), count=st.integers(1, 16))
def test_a_buffer_answers_as_spans_do(steps: list[list[tuple[int, int]]], count: int) -> None:
    plain, buffered = Rows(), Rows()
    buffered.on(CPU, 16)
    buffer = buffered.keyed(16, CPU)
    for step in steps:
        plain.leave(step)
        buffered.leave(step)
        expected = [not any(start <= row < end for start, end in step) for row in range(count)]
        asked = plain.keyed(count, CPU)
        assert (asked is None and all(expected)) or asked.tolist() == expected
        assert buffered.keyed(count, CPU).tolist() == expected
        assert buffered.keyed(16, CPU).data_ptr() == buffer.data_ptr()
