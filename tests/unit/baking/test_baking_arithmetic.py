"""What is added to a gate, against an oracle that shares no code with it, and back again bit for bit."""

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors import safe_open
from safetensors.torch import save_file

from okr import Key
from okr.baking import bake, unbake
from okr.baking.arithmetic import step, with_key, without_key
from okr.errors import InvalidSetting
from tests.unit.baking.sharded import EXPERTS, HIDDEN, files, gate_name, known

DTYPES = {torch.float32: np.uint32, torch.bfloat16: np.uint16, torch.float16: np.uint16}
SECRETS = st.binary(min_size=16, max_size=40)
STRENGTHS = st.floats(1e-3, 50)
SIGNS = arrays(np.int8, (HIDDEN, EXPERTS), elements=st.sampled_from([-1, 1]))


def bits_of(dtype: torch.dtype, finite: bool = True):
    """The bits of any values of ``dtype`` but NaN and, unless asked for, infinity."""
    unsigned = DTYPES[dtype]
    exponent = {torch.float32: 0x7F80_0000, torch.bfloat16: 0x7F80, torch.float16: 0x7C00}[dtype]
    width = np.iinfo(unsigned).bits
    fraction = st.integers(0, 2**width - 1).map(
        lambda value: value if value & exponent != exponent else value & ~exponent
    )
    special = st.sampled_from([0, 1 << (width - 1), 1, exponent - 1])  # 0, -0, the least subnormal, the largest number
    return arrays(unsigned, (EXPERTS, HIDDEN), elements=st.one_of(fraction, special))


@st.composite
def weights(draw):
    dtype = draw(st.sampled_from(list(DTYPES)))
    return torch.from_numpy(draw(bits_of(dtype)).copy()).view(dtype)


def as_numpy(weight: torch.Tensor) -> np.ndarray:
    """Its bits."""
    return weight.contiguous().view({4: torch.uint32, 2: torch.uint16}[weight.element_size()]).numpy()


def oracle(weight: torch.Tensor, signs: np.ndarray, strength: float, norm: float) -> np.ndarray:
    """The bits of the gate with the key: added in float32, and rounded to even by whole numbers."""
    size = np.frombuffer(struct.pack("<f", strength / norm), "<f4")[0]
    raw = as_numpy(weight)
    if weight.dtype == torch.float32:
        wide = raw.view(np.float32)
    elif weight.dtype == torch.float16:
        wide = raw.view(np.float16).astype(np.float32)
    else:
        wide = (raw.astype(np.uint32) << 16).view(np.float32)
    with np.errstate(over="ignore"):
        total = np.where(signs.T > 0, wide + size, wide - size).astype(np.float32)
        if weight.dtype == torch.float32:
            return total.view(np.uint32)
        if weight.dtype == torch.float16:
            return total.astype(np.float16).view(np.uint16)
    whole = total.view(np.uint32).astype(np.uint64)
    return ((whole + 0x7FFF + ((whole >> 16) & 1)) >> 16).astype(np.uint16)


@given(weight=weights(), signs=SIGNS, strength=STRENGTHS, norm=st.floats(0.1, 500))
def test_the_sum_is_that_of_the_oracle(weight, signs, strength, norm):
    found = with_key(weight, torch.from_numpy(signs), step(strength, norm))
    assert found.dtype == weight.dtype
    np.testing.assert_array_equal(as_numpy(found), oracle(weight, signs, strength, norm))


@given(signs=SIGNS, strength=STRENGTHS, norm=st.floats(0.1, 500), data=st.data())
def test_taking_the_key_out_leaves_rounding_alone(signs, strength, norm, data):
    dtype = data.draw(st.sampled_from(list(DTYPES)))
    weight = torch.randn(EXPERTS, HIDDEN, generator=torch.Generator().manual_seed(1)).to(dtype)
    size, plane = step(strength, norm), torch.from_numpy(signs)
    again = without_key(with_key(weight, plane, size), plane, size)
    allowed = torch.finfo(dtype).eps * (weight.double().abs() + size)
    assert ((again.double() - weight.double()).abs() <= allowed).all()


def holds(weight: torch.Tensor, bits: np.ndarray) -> bool:
    """Whether the key is in the sum ``bits``, and every entry a number: the largest have no room for the key, and
    rounding loses it beside large ones."""
    after = torch.from_numpy(bits).view(weight.dtype)
    return bool(after.isfinite().all()) and not torch.equal(after, weight)


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """A new folder at every call."""
    return lambda: tmp_path_factory.mktemp("gates")


@given(gates=st.lists(weights(), min_size=1, max_size=3), secret=SECRETS, strength=STRENGTHS)
def test_unbaking_gives_every_bit_back(room, gates, secret, strength):
    folder, key = room(), Key(secret)
    (folder / "original").mkdir()
    held = {gate_name(layer): gate for layer, gate in enumerate(gates)} | {"other": torch.arange(5)}
    save_file(held, folder / "original" / "model.safetensors")
    measured = known(folder / "original", len(gates))
    added = [oracle(gate, one.signs(key), strength, one.norm) for gate, one in zip(gates, measured.gates, strict=True)]
    if not all(holds(gate, bits) for gate, bits in zip(gates, added, strict=True)):
        with pytest.raises(InvalidSetting, match=r"not finite with the key|is lost in the rounding"):
            bake(folder / "original", folder / "baked", key, measured, strength)
        assert not (folder / "baked").exists()
        return
    header = bake(folder / "original", folder / "baked", key, measured, strength)
    assert unbake(folder / "baked", folder / "again", key) == header
    assert files(folder / "again") == files(folder / "original")
    with safe_open(folder / "baked" / "model.safetensors", "pt") as baked:
        for layer, expected in enumerate(added):
            np.testing.assert_array_equal(as_numpy(baked.get_tensor(gate_name(layer))), expected)


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_a_gate_that_is_not_finite_is_refused(value: float, tmp_path: Path) -> None:
    (tmp_path / "original").mkdir()
    weight = torch.ones(EXPERTS, HIDDEN)
    weight[1, 2] = value
    save_file({gate_name(0): weight}, tmp_path / "original" / "model.safetensors")
    with pytest.raises(InvalidSetting, match="NaN or infinity"):
        bake(tmp_path / "original", tmp_path / "baked", Key(bytes(16)), known(tmp_path / "original", 1), 0.1)
    assert [path.name for path in tmp_path.iterdir()] == ["original"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_key_that_rounding_loses_is_refused(dtype: torch.dtype, tmp_path: Path) -> None:
    """A half of the distance of the weights from their neighbours rounds to even, a bit more does not."""
    (tmp_path / "original").mkdir()
    save_file({gate_name(0): torch.ones(EXPERTS, HIDDEN, dtype=dtype)}, tmp_path / "original" / "model.safetensors")
    gates, half = known(tmp_path / "original", 1, norm=1.0), torch.finfo(dtype).eps / 4  # below 1 it is a half
    with pytest.raises(InvalidSetting, match=r"gate\.weight: strength .* is lost in the rounding of torch\."):
        bake(tmp_path / "original", tmp_path / "baked", Key(bytes(16)), gates, half)
    bake(tmp_path / "original", tmp_path / "baked", Key(bytes(16)), gates, half * 1.01)


@pytest.mark.parametrize(("strength", "norm"), [(1e300, 1.0), (1e-300, 1.0), (1e308, 1e-308), (1e-46, 1.0)])
def test_a_strength_that_float32_cannot_hold_is_refused(strength: float, norm: float) -> None:
    with pytest.raises(InvalidSetting, match="is no number of float32 above 0"):
        step(strength, norm)
