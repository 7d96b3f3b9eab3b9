"""Keys: files, ids, projections, and that the secret stays inside."""

import base64
import copy
import hashlib
import json
import pickle
import traceback

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from okr import InvalidKey, Key
from okr.routing import key_id, projection

SECRET = b"a secret of 23 bytes..."
ENCODED = base64.b64encode(SECRET).decode()


def test_key_id_is_the_published_hash():
    assert key_id(SECRET) == hashlib.sha256(b"okr-key-id\x00" + SECRET).hexdigest()[:16]


@given(
    secret=st.binary(min_size=16, max_size=64),
    stack=st.sampled_from(["decoder", "encoder", "decoder.second"]),
    layer=st.integers(0, 2**32 - 1),
    hidden=st.integers(1, 20),
    experts=st.integers(1, 20),
)
def test_projection_bits_are_the_documented_stream(secret, stack, layer, hidden, experts):
    header = b"OKR-v1\x00" + len(secret).to_bytes(2, "big") + secret + stack.encode() + b"\x00"
    header += layer.to_bytes(4, "big") + hidden.to_bytes(4, "big") + experts.to_bytes(4, "big")
    stream = hashlib.shake_256(header).digest((hidden * experts + 7) // 8)
    bits = [stream[i // 8] >> (7 - i % 8) & 1 for i in range(hidden * experts)]
    got = projection(secret, stack=stack, layer=layer, hidden_size=hidden, num_experts=experts)
    assert got.dtype == np.int8
    assert got.shape == (hidden, experts)
    assert got.ravel().tolist() == [1 if bit else -1 for bit in bits]


def test_file_round_trip(tmp_path):
    key = Key(SECRET)
    key.save(tmp_path / "key.json")
    assert (tmp_path / "key.json").stat().st_mode & 0o777 == 0o600
    assert Key.load(tmp_path / "key.json") == key
    with pytest.raises(InvalidKey, match="never overwritten"):
        key.save(tmp_path / "key.json")


def test_file_that_others_may_read_is_refused(tmp_path):
    path = tmp_path / "key.json"
    Key(SECRET).save(path)
    path.chmod(0o640)
    with pytest.raises(InvalidKey, match="chmod 600"):
        Key.load(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe\x00",
        b"[]",
        b"{}",
        b'{"format": "okr-key-1"}',
        json.dumps({"format": "okr-key-2", "secret": ENCODED, "key_id": key_id(SECRET)}).encode(),
        json.dumps({"format": "okr-key-1", "secret": ENCODED, "key_id": "0" * 16}).encode(),
        json.dumps({"format": "okr-key-1", "secret": "AAAA", "key_id": "0" * 16}).encode(),
        json.dumps({"format": "okr-key-1", "secret": 5, "key_id": key_id(SECRET)}).encode(),
    ],
)
def test_damaged_file_is_refused_without_showing_it(tmp_path, content):
    path = tmp_path / "key.json"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(InvalidKey, match="not an OKR key file") as caught:
        Key.load(path)
    shown = "".join(traceback.format_exception(caught.value))
    assert ENCODED not in shown


@pytest.mark.parametrize("path", ["missing.json", "."])
def test_unreadable_path_is_one_line(tmp_path, path):
    with pytest.raises(InvalidKey, match="cannot read key file"):
        Key.load(tmp_path / path)


@pytest.mark.parametrize("secret", [b"", b"short", b"x" * 15, b"x" * 65536, "text of 16 chars", None, 16])
def test_bad_secrets_are_refused(secret):
    with pytest.raises(InvalidKey):
        Key(secret)


def test_passphrase_is_deterministic_and_not_weak():
    assert Key.from_passphrase("correct horse battery").id == Key.from_passphrase("correct horse battery").id
    assert Key.from_passphrase("correct horse battery") != Key.from_passphrase("correct horse batterz")
    for weak in ("", "short"):
        with pytest.raises(InvalidKey, match="at least 12 characters"):
            Key.from_passphrase(weak)


def test_generated_keys_differ():
    assert len({Key.generate().id for _ in range(16)}) == 16


def test_secret_is_in_no_representation():
    key = Key(SECRET)
    shown = repr(key) + str(key) + f"{key}" + repr(vars(type(key)))
    for form in (SECRET.decode(), SECRET.hex(), ENCODED, repr(SECRET)):
        assert form not in shown
    assert copy.deepcopy(key) is key
    for refuse in (pickle.dumps, copy.copy):
        with pytest.raises(InvalidKey):
            refuse(key)
    assert not hasattr(key, "__dict__")


def test_keys_compare_by_secret():
    assert Key(SECRET) == Key(SECRET)
    assert hash(Key(SECRET)) == hash(Key(SECRET))
    assert Key(SECRET) != Key(SECRET[::-1])
    assert Key(SECRET) != SECRET
