"""Keys: files, ids, projections, and that the secret stays inside."""

import base64
import copy
import errno
import hashlib
import json
import os
import pickle
import stat
import traceback
from pathlib import Path

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


@pytest.mark.parametrize("at", ["write", "fsync"])
@pytest.mark.parametrize("links", [True, False])
def test_full_disk_leaves_nothing_behind(tmp_path, monkeypatch, at, links):
    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "key.json"
    with monkeypatch.context() as patched:
        if not links:
            without_links(patched)
        patched.setattr(os, at, full)
        with pytest.raises(InvalidKey, match=r"cannot write key file .*key\.json: No space left") as caught:
            Key(SECRET).save(path)
    assert ENCODED not in "".join(traceback.format_exception(caught.value))
    assert [*tmp_path.iterdir()] == []
    Key(SECRET).save(path)
    assert Key.load(path) == Key(SECRET)


def test_disk_full_in_the_fallback_leaves_nothing_behind(tmp_path, monkeypatch):
    calls = []

    def full_later(descriptor):
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    without_links(monkeypatch)
    monkeypatch.setattr(os, "fsync", full_later)
    with pytest.raises(InvalidKey, match="No space left"):
        Key(SECRET).save(tmp_path / "key.json")
    assert [*tmp_path.iterdir()] == []


def without_links(monkeypatch):
    def refuse(*arguments):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)


@pytest.mark.parametrize("links", [True, False])
def test_save_in_parts_is_whole_and_private(tmp_path, monkeypatch, links):
    if not links:
        without_links(monkeypatch)
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, content: write(descriptor, content[:7]))
    path = tmp_path / ("k" * 255)
    Key(SECRET).save(path)
    assert [*tmp_path.iterdir()] == [path]
    assert path.stat().st_mode & 0o777 == 0o600
    assert Key.load(path) == Key(SECRET)


@pytest.mark.parametrize("links", [True, False])
def test_save_never_overwrites_what_came_meanwhile(tmp_path, monkeypatch, links):
    if not links:
        without_links(monkeypatch)
    path = tmp_path / "key.json"
    path.write_text("precious")
    monkeypatch.setattr(os.path, "lexists", lambda path: False)
    with pytest.raises(InvalidKey, match="never overwritten"):
        Key(SECRET).save(path)
    assert path.read_text() == "precious"
    assert [*tmp_path.iterdir()] == [path]


OTHERS = (0o604, 0o602, 0o601, 0o620, 0o610, 0o660, 0o644, 0o444)


@pytest.mark.parametrize(
    ("mode", "owner", "reader", "taken"),
    [
        *((mode, owner, reader, False) for mode in OTHERS for owner, reader in ((0, 0), (0, 7), (7, 7))),
        *((mode, owner, reader, True) for mode in (0o600, 0o400) for owner, reader in ((0, 0), (7, 7))),
        *((mode, owner, reader, True) for mode in (0o440, 0o640) for owner, reader in ((0, 0), (0, 7), (8, 7))),
        *((mode, 7, 7, False) for mode in (0o440, 0o640)),
    ],
)
def test_who_may_read_a_key_file(tmp_path, monkeypatch, mode, owner, reader, taken):
    path = tmp_path / "key.json"
    Key(SECRET).save(path)
    path.chmod(mode)
    true_status = os.fstat

    def status(descriptor):
        found = list(true_status(descriptor))
        found[0], found[4] = stat.S_IFREG | mode, owner
        return os.stat_result(found)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fstat", status)
        patched.setattr(os, "geteuid", lambda: reader)
        if taken:
            assert Key.load(path) == Key(SECRET)
        else:
            with pytest.raises(InvalidKey, match="chmod 600" if owner == reader else "chmod 440"):
                Key.load(path)


def test_what_is_no_key_file_gets_no_advice_on_permissions(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("no key")
    path.chmod(0o644)
    with pytest.raises(InvalidKey, match="not an OKR key file") as caught:
        Key.load(path)
    assert "chmod" not in str(caught.value)


def content(**change):
    return json.dumps({"format": "okr-key-1", "secret": ENCODED, "key_id": key_id(SECRET)} | change)


@pytest.fixture
def pipe():
    """What to write, to the number of a descriptor that gives it."""
    opened = []

    def given(text):
        reading, writing = os.pipe()
        opened.append(reading)
        os.write(writing, text.encode())
        os.close(writing)
        return reading

    yield given
    for descriptor in opened:
        os.close(descriptor)


@pytest.mark.parametrize("kind", [str, Path])
def test_key_from_the_environment_or_a_descriptor(monkeypatch, pipe, kind):
    monkeypatch.setenv("A_KEY", content())
    assert Key.load(kind("env:A_KEY")) == Key(SECRET)
    assert Key.load(kind(f"fd:{pipe(content())}")) == Key(SECRET)


@pytest.mark.parametrize("bad", ["", content(key_id="0" * 16), content()[:-3], "[" * 100_000], ids=range(4))
def test_bad_content_is_not_shown_but_its_source_is(monkeypatch, pipe, bad):
    if len(bad) < 60_000:
        monkeypatch.setenv("A_KEY", bad)
        refused("env:A_KEY", "environment variable A_KEY does not hold")
    descriptor = pipe(bad[:60_000])
    refused(f"fd:{descriptor}", f"file descriptor {descriptor} does not give")


def refused(source, match):
    with pytest.raises(InvalidKey, match=match) as caught:
        Key.load(source)
    shown = "".join(traceback.format_exception(caught.value))
    assert ENCODED not in shown
    assert ENCODED[:-3] not in shown


def test_a_secret_that_could_be_the_name_of_a_variable_is_not_shown():
    """The error quoted any name, as it quotes those in capitals."""
    with pytest.raises(InvalidKey, match="the environment variable that env: names is not set"):
        Key.load("env:itCouldBeTheNameOfAVariable1")


def test_sources_that_are_not_there(monkeypatch):
    monkeypatch.delenv("A_KEY", raising=False)
    refused("env:A_KEY", "environment variable A_KEY is not set")
    refused("fd:999999", "file descriptor 999999: Bad file descriptor")
    refused("fd:999999999", "file descriptor 999999999: Bad file descriptor")
    for misused in ("", content(), ENCODED + "=", "A=B", "A\0", "\udcff"):
        refused(f"env:{misused}", "^env: takes the name")
    for misused in ("", "-1", "three", "9" * 30, content()):
        refused(f"fd:{misused}", "^fd: takes the number")


@pytest.mark.parametrize("kind", [str, Path])
def test_a_key_in_place_of_its_file_is_not_shown(kind):
    for misplaced in (content(), " " + content(), content()[:-9]):
        with pytest.raises(InvalidKey, match="name the file, env:NAME or fd:N") as caught:
            Key.load(kind(misplaced))
        shown = "".join(traceback.format_exception(caught.value))
        assert ENCODED not in shown


def test_a_pipe_by_its_path_as_a_shell_substitutes_it(pipe):
    assert Key.load(f"/dev/fd/{pipe(content())}") == Key(SECRET)


def test_the_way_round_that_is_named_works(tmp_path):
    path = tmp_path / "my key.json"
    Key(SECRET).save(path)
    path.chmod(0o444)
    with pytest.raises(InvalidKey, match=r"--key fd:3 3<'.*my key\.json'"):
        Key.load(path)
    with path.open("rb") as file:
        assert Key.load(f"fd:{file.fileno()}") == Key(SECRET)


def test_a_file_named_like_a_source_is_read_by_its_absolute_path(tmp_path):
    Key(SECRET).save(tmp_path / "env:A_KEY")
    assert Key.load(tmp_path / "env:A_KEY") == Key(SECRET)


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
