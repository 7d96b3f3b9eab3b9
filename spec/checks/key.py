"""Chapter KEY, the schedule: what a secret expands to."""

import base64
import copy
import errno
import hashlib
import json
import os
import pickle
import stat
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from hypothesis import strategies as st

from .. import oracle, strategies
from ..cases import ProjectionCase
from ..strategies import secrets
from ..subject import Subject
from ..verdicts import Violation, require
from . import check


def _matches(subject: Subject, case: ProjectionCase) -> None:
    got, expected = subject.projection(case), oracle.projection(case.secret, **case.arguments())
    for row in np.flatnonzero((got != expected).any(axis=1))[:1]:
        raise Violation(f"row {row} of the projection differs", expected=expected[row].tolist(), got=got[row].tolist())


@check("OKR-KEY-001", lambda: st.binary(max_size=15))
def secrets_of_other_lengths_are_refused(subject: Subject, secret: bytes) -> None:
    require(
        subject.refuses("projection", secret, stack="decoder", layer=0, hidden_size=4, num_experts=4),
        f"a secret of {len(secret)} bytes was accepted",
    )
    for length in (65_536, 65_552):  # the lower 16 bits of the second are a length that is fine
        case = ProjectionCase(bytes(length))
        refused = subject.refuses("projection", case.secret, **case.arguments())
        require(refused, f"a secret of {length} bytes was accepted")
    for length in (16, 65_535):
        case = ProjectionCase(bytes(length))
        subject.accepts("projection", case.secret, **case.arguments())


@check("OKR-KEY-002", lambda: strategies.projections(sizes=st.just(8)))
def stream_is_shake256_of_the_header(subject: Subject, case: ProjectionCase) -> None:
    _matches(subject, case)


@check("OKR-KEY-002")
def sizes_enter_the_header_whole(subject: Subject) -> None:
    """d and E that one byte cannot hold, as in most models."""
    for hidden_size, num_experts in ((304, 8), (8, 304)):
        _matches(subject, ProjectionCase(bytes(16), hidden_size=hidden_size, num_experts=num_experts))


@check("OKR-KEY-003", lambda: strategies.projections())
def layout_is_row_major_msb_first(subject: Subject, case: ProjectionCase) -> None:
    _matches(subject, case)


@check("OKR-KEY-003")
def long_streams_are_laid_out_alike(subject: Subject) -> None:
    """More entries than 16 bits can count, as in most models."""
    _matches(subject, ProjectionCase(bytes(16), hidden_size=260, num_experts=260))


@check("OKR-KEY-004", lambda: strategies.projections())
def entries_are_signs(subject: Subject, case: ProjectionCase) -> None:
    got = subject.projection(case)
    require(bool((np.abs(got) == 1).all()), "an entry is neither +1 nor -1", got=got.tolist())


@check("OKR-KEY-005", lambda: st.tuples(strategies.projections(sizes=st.just(12)), st.integers(0, 5)))
def every_field_separates(subject: Subject, drawn: tuple[ProjectionCase, int]) -> None:
    """Changing one field changes the matrix; moving a byte from one field to the next does too."""
    case, field = drawn
    other = {
        0: ProjectionCase(case.secret + b"\x00", case.stack, case.layer, 12, 12),
        1: ProjectionCase(case.secret, case.stack + "x", case.layer, 12, 12),
        2: ProjectionCase(case.secret, case.stack, case.layer ^ 1, 12, 12),
        3: ProjectionCase(case.secret, case.stack, case.layer ^ 256, 12, 12),
        4: ProjectionCase(case.secret, case.stack, case.layer, 12, 11),
        5: ProjectionCase(case.secret + case.stack[:1].encode(), case.stack[1:], case.layer, 12, 12),
    }[field]
    one, two = subject.projection(case), subject.projection(other)
    same = one.ravel()[:132].tolist() == two.ravel()[:132].tolist()
    require(not same, "two different sites or secrets have one projection", got=f"{case} and {other}")


@check("OKR-KEY-006", lambda: strategies.projections())
def expansion_is_repeatable(subject: Subject, case: ProjectionCase) -> None:
    require(np.array_equal(subject.projection(case), subject.projection(case)), "a second call gave another projection")


# --- what the secret is kept in (system)


@check("OKR-KEY-007", secrets)
def key_id_is_the_tagged_hash(subject: Subject, secret: bytes) -> None:
    from okr.routing import keys

    expected = hashlib.sha256(b"okr-key-id\x00" + secret).hexdigest()[:16]
    for got in (keys.Key(secret).id, keys.key_id(secret)):
        require(got == expected, "key_id", expected=expected, got=got)


@check("OKR-KEY-008", secrets)
def the_secret_never_shows(subject: Subject, secret: bytes) -> None:
    from okr import errors
    from okr.routing import keys

    key = keys.Key(secret)
    shown = [repr(key), str(key), f"{key}", repr(vars(type(key)).get("__slots__")), str(hash(key))]
    for spill in (pickle.dumps, copy.copy, lambda k: json.dumps(k, default=str)):
        try:
            shown.append(repr(spill(key)))
        except Exception as error:
            shown.append(f"{error!r} {error.__cause__!r}")
    shown += [refusal(lambda: keys.Key(secret[:15])), refusal(lambda: keys.Key(bytes(65_536)))]
    shown.append(refusal(lambda: keys.Key(secret.decode("latin-1"))))  # type: ignore[arg-type]
    shown += [refusal(lambda: keys.check_key(secret)), refusal(lambda: keys.check_key(secret.hex()))]
    text = "\n".join(shown)
    forms = {
        secret.hex(),
        base64.b64encode(secret).decode(),
        repr(secret)[2:-1],
        secret[:15].hex(),
        repr(secret[:15])[2:-1],
    }
    leaked = [form for form in forms if form in text]
    require(not leaked, "the secret shows", got=text if leaked else "")
    require(not any(isinstance(s, bytes) for s in shown), "a key can be pickled")
    try:
        pickle.dumps(key)
    except errors.InvalidKey:
        pass
    else:
        raise Violation("a key can be pickled")
    require(keys.check_key(key) is key, "a key is not taken for one")
    require(copy.deepcopy(key) == key and key != 1, "keys compare by content, and only with keys")


def refusal(call: Callable[[], object]) -> str:
    """What a call that must be refused says, as one line of a known error."""
    from okr import errors

    try:
        call()
    except errors.InvalidKey as error:
        require("\n" not in str(error) and bool(str(error)), "the error is not one line", got=str(error))
        require(error.__cause__ is None, "the error carries another one", got=repr(error.__cause__))
        return str(error)
    except Exception as error:
        raise Violation(f"{type(error).__name__} instead of InvalidKey: {error}") from error
    raise Violation("a bad key was accepted")


@check("OKR-KEY-009", secrets, share=0.2)
def key_files_are_private_and_guarded(subject: Subject, secret: bytes) -> None:
    from okr.routing.keys import Key

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.key"
        before = os.umask(0)
        try:
            Key(secret).save(path)
        finally:
            os.umask(before)
        require(stat.S_IMODE(path.stat().st_mode) == 0o600, "mode of a key file", got=oct(path.stat().st_mode))
        content = path.read_bytes()
        accepted_key(path)
        require("exists" in refusal(lambda: Key(secret).save(path)), "overwriting is refused, but not for that reason")
        require(path.read_bytes() == content, "a key file was overwritten")
        owner = path.stat().st_uid
        for mode, reader in product((0o640, 0o440, 0o604, 0o620, 0o602, 0o610, 0o601), {owner, owner + 1, 0}):
            path.chmod(mode)
            with patch.object(os, "geteuid", return_value=reader):
                if mode in (0o640, 0o440) and (reader != owner or reader == 0):
                    accepted_key(path)
                else:
                    said = refusal(lambda: Key.load(path))
                    require("chmod" in said, f"mode {mode:o} is not named as the reason", got=said)
        path.chmod(0o600)
        for bad in _damaged(json.loads(content)):
            path.write_bytes(bad)
            said = refusal(lambda: Key.load(path))
            require(path.name in said, "the error does not name the file", got=said)
            quoted = secret.hex() in said or base64.b64encode(secret).decode() in said
            require(not quoted, "the error quotes the key")
        refusal(lambda: Key.load(Path(folder) / "absent.key"))
        refusal(lambda: Key(secret).save(Path(folder) / "no" / "such" / "folder.key"))
        with patch.object(os, "fsync", side_effect=OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))):
            refusal(lambda: Key(secret).save(Path(folder) / "full.key"))
        require([*Path(folder).iterdir()] == [path], "a key that could not be saved left a file behind")


def accepted_key(path: str | Path) -> Any:
    """The key in a file that must be accepted."""
    from okr.routing.keys import Key

    try:
        return Key.load(str(path))
    except Exception as error:
        raise Violation(f"a key file as it was saved is refused: {type(error).__name__}: {error}") from error


def _damaged(document: dict[str, str]) -> Iterator[bytes]:
    yield from (b"", b"{}", b"[]", b"\xff\xfe", b"null", json.dumps(document).encode()[:-9])
    for change in (
        {"format": "okr-key-2"},
        {"key_id": "0" * 16},
        {"secret": "not base64!"},
        {"secret": base64.b64encode(b"\x5a" * 18).decode()},
        {"secret": base64.b64encode(bytes(15)).decode()},
        {"secret": " " + document["secret"]},
        {"secret": 5},
    ):
        yield json.dumps({**document, **change}).encode()
    for name in document:
        yield json.dumps({n: v for n, v in document.items() if n != name}).encode()


@check("OKR-KEY-010", secrets, share=0.2)
def reloaded_keys_are_the_same(subject: Subject, secret: bytes) -> None:
    from okr.routing.keys import Key

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.key"
        Key(secret).save(path)
        key, loaded = Key(secret), accepted_key(path)
        text = path.read_text("utf-8")
        document = {"format": "okr-key-1", "key_id": key.id, "secret": base64.b64encode(secret).decode()}
        require(json.loads(text) == document and text.endswith("\n"), "the file's format", expected=sorted(document))
    site: dict[str, Any] = {"stack": "encoder", "layer": 3, "hidden_size": 6, "num_experts": 5}
    require(loaded == key and hash(loaded) == hash(key) and loaded.id == key.id, "a reloaded key is another one")
    expected = oracle.projection(secret, **site)
    for one in (key, loaded):
        require(np.array_equal(one.projection(**site), expected), "a key object's projection is another one")


@check("OKR-KEY-011", lambda: st.text(st.characters(codec="utf-8"), min_size=12, max_size=16), share=0.03)
def passphrases_go_through_scrypt(subject: Subject, text: str) -> None:
    from okr import errors
    from okr.routing.keys import Key

    salt = b"okr-passphrase-v1"
    secret = hashlib.scrypt(text.encode(), salt=salt, n=32768, r=8, p=1, maxmem=2**26, dklen=32)
    try:
        key = Key.from_passphrase(text)
    except errors.InvalidKey as error:
        raise Violation(f"a passphrase of {len(text)} characters was refused") from error
    require(key == Key(secret), "the derived key differs")
    said = refusal(lambda: Key.from_passphrase(text[:11]))
    require(text[:11] not in said, "the error quotes the passphrase")
    refusal(lambda: Key.from_passphrase(text.encode()))  # type: ignore[arg-type]


@check("OKR-KEY-011")
def passphrases_that_utf8_cannot_hold_are_refused(subject: Subject) -> None:
    """The first and last surrogate and one between; their neighbours are characters like any other."""
    from okr.routing.keys import Key

    for alone in ("\ud800", "\udabc", "\udfff"):
        refusal(partial(Key.from_passphrase, "twelve characters " + alone))
    passphrases_go_through_scrypt(subject, "\ud7ff\ue000" * 6)


@check("OKR-KEY-012")
def generated_keys_are_random(subject: Subject) -> None:
    """Two hundred keys: all different, 32 bytes long, bits balanced within 6 standard deviations."""
    from okr.routing.keys import Key

    bits, ids = [], set()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(200):
            path = Path(folder) / str(number)
            key = Key.generate()
            key.save(path)
            secret = base64.b64decode(json.loads(path.read_text("utf-8"))["secret"])
            require(len(secret) == 32, "length of a generated secret", expected=32, got=len(secret))
            bits.append(np.unpackbits(np.frombuffer(secret, np.uint8)).mean())
            ids.add(key.id)
    require(len(ids) == 200, "two generated keys are equal")
    balance = abs(float(np.mean(bits)) - 0.5) / (0.5 / (200 * 256) ** 0.5)
    require(balance < 6, "generated bits are not balanced", expected="< 6 standard deviations", got=balance)
