"""Traces of every version of the specification so far are read."""

import json
import struct

import numpy as np
import pytest

from okr.errors import InvalidTrace
from okr.traces import ModelIdentity, Trace, TraceHeader
from okr.traces.header import TraceSite
from okr.version import SPEC_VERSION


def made(**header):
    """A trace of three tokens at one site."""
    site = TraceSite(path="layers.0.router", stack="decoder", layer=0, num_experts=4, top_k=2)
    identity = ModelIdentity(class_name="Model", structure="0" * 16, routers=None)
    experts = np.array([[[0, 1]], [[3, 2]]], np.int16)
    header = TraceHeader(model=identity, sites=(site,), dtype="float32", **header)
    return Trace(header=header, token_ids=np.array([5, 6, 7], np.int32), experts=experts, prompt_length=1)


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_trace_of_this_version_is_read_and_keeps_its_version(version, tmp_path):
    trace = made(spec_version=version)
    trace.save(tmp_path / "trace")
    content = (tmp_path / "trace").read_bytes()
    [size] = struct.unpack("<Q", content[:8])
    assert json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["okr"])["spec_version"] == version
    read = Trace.load(tmp_path / "trace")
    assert read.header == trace.header
    assert read.digest() == trace.digest()


def test_new_traces_have_the_present_version():
    assert made().header.spec_version == SPEC_VERSION == "1.1"


def test_a_trace_of_an_unknown_version_is_refused(tmp_path):
    made(spec_version="1.1").save(tmp_path / "trace")
    content = (tmp_path / "trace").read_bytes()
    (tmp_path / "trace").write_bytes(content.replace(b'spec_version\\": \\"1.1', b'spec_version\\": \\"1.2'))
    with pytest.raises(InvalidTrace, match="spec_version"):
        Trace.load(tmp_path / "trace")
