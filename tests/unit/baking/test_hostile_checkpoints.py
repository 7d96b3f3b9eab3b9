"""Whatever lies in a checkpoint's folder: it is read as safetensors says, or refused in one line."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from okr.baking import HEADER_FILE, Checkpoint, Gates, Header, bake, read_header, unbake
from okr.baking.checkpoint import INDEX, SINGLE
from okr.baking.header import MAX_BYTES, parsed
from okr.errors import InvalidConfig
from tests.unit.baking.sharded import KEY, gate_name, known, write

FIRST = "model-00001-of-00003.safetensors"
SECOND = "model-00002-of-00003.safetensors"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write(tmp_path / "model")


def refusal(function: Any, *given: Any) -> str:
    with pytest.raises(InvalidConfig) as caught:
        function(*given)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
    return str(caught.value)


def test_a_checkpoint_is_read_as_safetensors_reads_it(model: Path) -> None:
    checkpoint = Checkpoint(model)
    loaded = {name: value for file in checkpoint.files for name, value in load_file(model / file).items()}
    assert checkpoint.tensors.keys() == loaded.keys()
    for name, value in loaded.items():
        assert checkpoint.raw(name) == value.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        assert checkpoint.tensors[name].shape == tuple(value.shape)
    for layer in range(3):
        assert torch.equal(checkpoint.tensor(gate_name(layer)), loaded[gate_name(layer)])


def indexed(content: Any) -> Any:
    def damage(folder: Path) -> None:
        text = content if isinstance(content, str | bytes) else json.dumps({"weight_map": content})
        (folder / INDEX).write_bytes(text if isinstance(text, bytes) else text.encode())

    return damage


def moved(name: str) -> Any:
    """The index says that the first gate is in the file ``name``."""

    def damage(folder: Path) -> None:
        index = json.loads((folder / INDEX).read_bytes())
        index["weight_map"][gate_name(0)] = name
        (folder / INDEX).write_text(json.dumps(index))

    return damage


def outside(folder: Path) -> None:
    shutil.move(folder / FIRST, folder.parent / FIRST)
    moved(f"../{FIRST}")(folder)


def doubled(folder: Path) -> None:
    shutil.copyfile(folder / FIRST, folder / "model-00004-of-00003.safetensors")
    index = json.loads((folder / INDEX).read_bytes())
    index["weight_map"]["more"] = "model-00004-of-00003.safetensors"
    (folder / INDEX).write_text(json.dumps(index))


def a_folder_in_place_of(name: str) -> Any:
    def damage(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return damage


def a_pipe_in_place_of(name: str) -> Any:
    def damage(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return damage


DAMAGE = {
    "no json": (indexed("{"), "is damaged: it maps no tensors"),
    "nested": (indexed('{"weight_map":' * 100_000), "is damaged"),
    "no utf-8": (indexed(b'{"weight_map": {"a": "\xff"}}'), "is damaged"),
    "no map": (indexed("{}"), "is damaged"),
    "a list": (indexed("[1]"), "is damaged"),
    "a huge number": (indexed('{"weight_map": ' + "9" * 5000 + "}"), "is damaged"),
    "an empty map": (indexed({}), "is damaged"),
    "no name": (indexed({"a": 1}), "is damaged"),
    "an empty name": (indexed({"a": ""}), "is damaged"),
    "dots": (indexed({"a": ".."}), "is damaged"),
    "a folder's dots": (indexed({"a": "../a.safetensors"}), "is damaged"),
    "a whole path": (indexed({"a": "/a.safetensors"}), "is damaged"),
    "a folder": (indexed({"a": "b/a.safetensors"}), "is damaged"),
    "a null": (indexed({"a": "a\0.safetensors"}), "is damaged"),
    "two lines": (indexed({"a": "a\n.safetensors"}), "is damaged"),
    "half a character": (indexed('{"weight_map": {"a": "\\ud800.safetensors"}}'), "is damaged"),
    "another format": (indexed({"a": "a.bin"}), "is damaged"),
    "our own file": (indexed({"a": "okr.json"}), "is damaged"),
    "too long a name": (indexed({"a": "a" * 300 + ".safetensors"}), "is missing, although"),
    "nothing there": (indexed({"a": "a.safetensors"}), "is missing, although"),
    "outside": (outside, "is damaged"),
    "in another file": (moved(SECOND), f"{SECOND} lacks {gate_name(0)}, which {INDEX} promises"),
    "in two files": (doubled, f"is in {FIRST} and in model-00004-of-00003.safetensors"),
    "a folder as index": (a_folder_in_place_of(INDEX), "has neither model.safetensors nor"),
    "a folder as shard": (a_folder_in_place_of(FIRST), "is missing, although"),
    "a pipe as index": (a_pipe_in_place_of(INDEX), "has neither model.safetensors nor"),
    "a pipe as shard": (a_pipe_in_place_of(FIRST), "is missing, although"),
    "an empty shard": (lambda folder: (folder / FIRST).write_bytes(b""), "is no whole safetensors file"),
    "a torn shard": (lambda folder: os.truncate(folder / FIRST, 900), "is no whole safetensors file"),
    "a shard of text": (lambda folder: (folder / FIRST).write_text("version https://git-lfs"), "is no whole"),
    "a shard less": (lambda folder: (folder / FIRST).unlink(), f"{FIRST} is missing, although"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_checkpoint_is_refused_in_one_line(kind: str, model: Path, tmp_path: Path) -> None:
    gates, (damage, said) = known(model), DAMAGE[kind]
    damage(model)
    assert said in refusal(Checkpoint, model)
    assert said in refusal(bake, model, tmp_path / "out", KEY, gates, 0.5)
    assert not (tmp_path / "out").exists()


def test_a_folder_of_other_weights(tmp_path: Path) -> None:
    assert "has neither" in refusal(Checkpoint, tmp_path)
    (tmp_path / "pytorch_model.bin").write_text("")
    assert "pytorch_model.bin is not read: convert the checkpoint to safetensors first" in refusal(Checkpoint, tmp_path)
    assert "has neither" in refusal(Checkpoint, tmp_path / "none")


@given(data=st.data())
def test_any_header_is_read_as_safetensors_reads_it_or_refused(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("any")
    numbers = st.one_of(st.integers(-1, 8), st.just(2**63), st.just(1.5), st.none())
    entry = st.fixed_dictionaries(
        {},
        optional={
            "dtype": st.sampled_from(["F32", "BF16", "I8", "F4", "X", 3]),
            "shape": st.lists(numbers, max_size=3),
            "data_offsets": st.one_of(st.just([0, 8]), st.lists(numbers, max_size=3)),
            "more": st.integers(),
        },
    )
    header = data.draw(
        st.one_of(
            st.just({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}),
            st.dictionaries(st.sampled_from(["a", "b", "__metadata__", ""]), st.one_of(entry, st.text(max_size=3))),
            st.lists(st.integers(), max_size=2),
        )
    )
    text = json.dumps(header).encode()
    length = data.draw(st.sampled_from([len(text), len(text) - 1, 2**40, 2**63]))
    content = max(0, length).to_bytes(8, "little") + text + bytes(data.draw(st.sampled_from([0, 4, 8, 16])))
    (folder / SINGLE).write_bytes(content[: data.draw(st.sampled_from([len(content), 3]))])
    try:
        with safe_open(folder / SINGLE, "pt") as opened:
            names = set(opened.keys())
    except (SafetensorError, OSError):
        refusal(Checkpoint, folder)
        return
    checkpoint = Checkpoint(folder)
    assert checkpoint.tensors.keys() == names
    assert all(len(checkpoint.raw(name)) == stored.end - stored.begin for name, stored in checkpoint.tensors.items())


@pytest.fixture
def baked(model: Path, tmp_path: Path) -> Path:
    bake(model, tmp_path / "baked", KEY, known(model), 0.5)
    return tmp_path / "baked"


def gates_of(header: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return header | {"gates": [gate | fields for gate in header["gates"]]}


HEADERS = {
    "nothing": lambda header: "",
    "no json": lambda header: "{",
    "a number": lambda header: "7",
    "nested": lambda header: '{"gates":' * 100_000,
    "half a character": lambda header: json.dumps(header | {"model": "\ud800"}),
    "an unknown field": lambda header: header | {"more": 1},
    "an unknown field of a gate": lambda header: gates_of(header, more=1),
    "another format": lambda header: header | {"format": "okr-baked-2"},
    "a word for a number": lambda header: header | {"strength": "0.1"},
    "not a number": lambda header: header | {"strength": float("nan")},
    "infinity": lambda header: header | {"strength": float("inf")},
    "no strength": lambda header: header | {"strength": 0.0},
    "a strength below 0": lambda header: header | {"strength": -1.0},
    "a norm that is none": lambda header: gates_of(header, norm=float("nan")),
    "a norm of 0": lambda header: gates_of(header, norm=0.0),
    "no gates": lambda header: header | {"gates": []},
    "gates of another kind": lambda header: header | {"gates": {"a": 1}},
    "a huge gate": lambda header: gates_of(header, num_experts=2**24),
    "a huge state": lambda header: gates_of(header, hidden_size=2**40),
    "no experts": lambda header: gates_of(header, num_experts=0),
    "a yes for a number": lambda header: gates_of(header, num_experts=True),
    "a layer below 0": lambda header: gates_of(header, layer=-1),
    "one tensor twice": lambda header: gates_of(header, tensor=gate_name(0)),
    "one projection twice": lambda header: gates_of(header, layer=0),
    "a gate twice": lambda header: header | {"gates": header["gates"][:1] * 50},
    "another key's name": lambda header: header | {"key_id": "x" * 16},
    "a key's name in two lines": lambda header: header | {"key_id": header["key_id"] + "\n"},
    "a tag in capitals": lambda header: header | {"tag": header["tag"].upper() + "A"},
}


@pytest.mark.parametrize("kind", HEADERS)
def test_a_hostile_header_is_refused_in_one_line(kind: str, baked: Path, tmp_path: Path) -> None:
    path = baked / HEADER_FILE
    content = HEADERS[kind](json.loads(path.read_bytes()))
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    assert f"{path} is no file of okr bake: " in refusal(read_header, baked)
    assert f"{path} is no file of okr bake: " in refusal(unbake, baked, tmp_path / "again", KEY)
    assert not (tmp_path / "again").exists()


def test_a_huge_header_a_folder_and_a_pipe_are_not_read(baked: Path) -> None:
    path = baked / HEADER_FILE
    with path.open("r+b") as file:
        file.truncate(MAX_BYTES + 1)
    assert "larger than 64 MiB" in refusal(read_header, baked)
    path.unlink()
    path.mkdir()
    assert "no file" in refusal(read_header, baked)
    path.rmdir()
    os.mkfifo(path)
    assert "no file" in refusal(read_header, baked)
    path.unlink()
    path.symlink_to("none")
    assert "No such file" in refusal(read_header, baked)
    path.unlink()
    assert read_header(baked) is None


@given(content=st.binary(max_size=40))
def test_any_bytes_are_a_file_of_gates_or_refused(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("any") / "file"
    path.write_bytes(content)
    for kind in (Header, Gates):
        assert "is no file of okr bake" in refusal(parsed, path, kind)


def test_a_header_is_written_and_read_back(baked: Path) -> None:
    header = read_header(baked)
    assert Header.model_validate_json(header.model_dump_json()) == header
    assert (header.setting.epsilon, header.setting.zone, header.setting.strength) == (np.inf, "boundary", 0.5)


def test_a_gate_of_another_dtype_is_no_gate(model: Path, tmp_path: Path) -> None:
    gates = known(model)
    held = load_file(model / SECOND)
    for dtype in (torch.int8, torch.float64, torch.float8_e4m3fn):
        held[gate_name(1)] = held[gate_name(1)].to(dtype)
        save_file(held, model / SECOND)
        assert f"has no gate {gate_name(1)} of 8 experts" in refusal(bake, model, tmp_path / "o", KEY, gates, 0.5)
