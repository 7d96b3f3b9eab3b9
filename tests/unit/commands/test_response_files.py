"""verify and attribute on the responses of serving engines, and the choice of the engine."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import okr
from okr.cli import execute
from okr.commands.findings import Refusals
from okr.commands.trace_files import read_traces
from okr.engines.vllm import serving
from okr.errors import InvalidTrace
from okr.routing import Key
from okr.traces import Trace

SETTING = {"epsilon": 2.0, "zone": "max", "strength": 4.0}
NUMBERS = ["--epsilon", "2", "--zone", "max", "--strength", "4"]
PROMPT = 4


def choice(trace: Trace) -> dict[str, Any]:
    rows = np.zeros((len(trace.experts), 3, 4), int)  # layer 0 is dense
    rows[:, 1:] = trace.experts
    ids = trace.token_ids.tolist()
    return {"prompt_token_ids": ids[:PROMPT], "token_ids": ids[PROMPT:], "routed_experts": rows.tolist()}


def response(*traces: Trace, key_id: str | None = None) -> dict[str, Any]:
    made: dict[str, Any] = {"id": "cmpl-1", "choices": [choice(trace) for trace in traces]}
    return made if key_id is None else made | {"okr_key_id": key_id, "okr_setting": SETTING}


@pytest.fixture(scope="module")
def traces(deepseek_folder: Path, key_file: Path) -> list[Trace]:
    """One trace without the key and two under it, of 60 tokens."""
    model = okr.load(deepseek_folder).model
    torch.manual_seed(0)
    prompt, options = torch.randint(3, 384, (2, PROMPT)), {"max_new_tokens": 56, "do_sample": True, "pad_token_id": 0}
    with okr.record(model) as session:
        made = list(session.generate(input_ids=prompt[:1], eos_token_id=None, **options).traces)
    with okr.watermark(model, Key.load(key_file), **SETTING) as session:
        return made + list(session.generate(input_ids=prompt, eos_token_id=None, **options).traces)


@pytest.fixture
def file(tmp_path: Path) -> Any:
    def write(content: Any, name: str = "response.json") -> str:
        (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
        return str(tmp_path / name)

    return write


def said(words: list[str], capfd: pytest.CaptureFixture) -> dict[str, Any]:
    assert execute([*words, "--json", *(["--decoys", "99"] if words[0] == "verify" else [])]) in (0, 1, 2)
    found: dict[str, Any] = json.loads(capfd.readouterr().out)
    return found


def refused(words: list[str], capfd: pytest.CaptureFixture) -> str:
    """The one line of a command that must fail."""
    assert execute(words) == 2
    printed = capfd.readouterr()
    assert printed.out == ""
    lines = [line for line in printed.err.splitlines() if line.startswith("okr: ")]
    assert len(lines) == 1
    assert "Traceback" not in printed.err
    return lines[0]


def test_a_response_is_judged_as_the_trace_that_is_in_it(
    traces: list[Trace], deepseek_folder: Path, key_file: Path, file: Any, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    traces[1].save(tmp_path / "trace.safetensors")
    words = ["verify", str(deepseek_folder), "--key", str(key_file)]
    of_file = said([*words, str(tmp_path / "trace.safetensors")], capfd)
    named = file(response(traces[1], key_id=traces[1].header.key_id))
    of_response = said([*words, named], capfd)
    assert of_response["watermarked"] is True
    of_response["files"][0].pop("file")
    of_file["files"][0].pop("file")
    assert of_response == of_file
    unnamed = file(response(traces[1]))
    assert said([*words, *NUMBERS, unnamed], capfd)["files"][0]["p_value"] == of_file["files"][0]["p_value"]
    assert "epsilon" in refused([*words, unnamed], capfd)


def test_every_answer_is_judged_by_itself_beside_traces(
    traces: list[Trace], deepseek_folder: Path, key_file: Path, file: Any, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    traces[2].save(tmp_path / "trace.safetensors")
    name = file(response(*traces, key_id=traces[1].header.key_id))
    words = ["verify", str(deepseek_folder), name, str(tmp_path / "trace.safetensors"), "--key", str(key_file)]
    found = said([*words, "--alpha", "0.01"], capfd)
    assert [each["file"] for each in found["files"]] == [f"{name}[{n}]" for n in range(3)] + words[3:4]
    assert [each["watermarked"] for each in found["files"]] == [False, True, True, True]
    assert found["refused"] == []


def test_a_response_names_its_key_to_attribute(
    traces: list[Trace], deepseek_folder: Path, key_file: Path, file: Any, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    Key(bytes(32)).save(tmp_path / "other.json")
    name = file(response(*traces[1:], key_id=traces[1].header.key_id))
    words = ["attribute", str(deepseek_folder), name, "--key", str(key_file), "--key", str(tmp_path / "other.json")]
    assert said(words, capfd)["key_id"] == Key.load(key_file).id


def test_an_answer_that_cannot_be_judged_costs_only_itself(
    traces: list[Trace], deepseek_folder: Path, key_file: Path, file: Any, capfd: pytest.CaptureFixture
) -> None:
    made = response(*traces[1:], key_id=traces[1].header.key_id)
    del made["choices"][0]["routed_experts"]
    broken, empty = file(made), file({"choices": []}, "empty.json")
    found = said(["verify", str(deepseek_folder), broken, empty, "--key", str(key_file)], capfd)
    assert [each["file"] for each in found["files"]] == [f"{broken}[1]"]
    assert [each["file"] for each in found["refused"]] == [f"{broken}[0]", empty]
    assert "has no routed_experts" in found["refused"][0]["error"]
    assert "has no choices" in found["refused"][1]["error"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "neither a trace nor the JSON of a response"),
        ('{"choices": [{}]} x', "neither a trace nor the JSON of a response"),
        ("  \n{]", "neither a trace nor the JSON of a response"),
        ('{"a":' * 100_000, "neither a trace nor the JSON of a response"),
        ("[]", "not a safetensors file"),
        ("", "not a safetensors file"),
        ("{}", "has no choices"),
        ('{"choices": []}', "has no choices"),
        ('{"choices": [[]]}', "a list is no response"),
        ('{"choices": [{}, {}]}', "has no token ids"),
        ('{"choices": 7}', "has no choices"),
        ('{"object": "error", "message": "no such model"}', "has no choices"),
        ('{"meta_info": {}, "output_ids": [1]}', "put the prompt's into it as input_ids"),
    ],
)
def test_what_is_no_response_is_refused_with_its_name(
    content: str, reason: str, deepseek_folder: Path, key_file: Path, file: Any, capfd: pytest.CaptureFixture
) -> None:
    name = file(content)
    line = refused(["verify", str(deepseek_folder), name, "--key", str(key_file), *NUMBERS], capfd)
    assert line.startswith(f"okr: {name}")
    assert reason in line


def test_a_file_in_no_encoding_of_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_bytes(b'{"a": "\xff"}')
    with pytest.raises(InvalidTrace, match="neither a trace nor"):
        read_traces([tmp_path / "r.json"], Refusals())


def test_a_trace_whose_size_looks_like_the_beginning_of_json_is_a_trace(traces: list[Trace], tmp_path: Path) -> None:
    """A trace begins with the size of its header, whose bytes may be a space and a brace."""
    size = int.from_bytes(b" {", "little")
    traces[0].save(tmp_path / "t.safetensors")
    content = (tmp_path / "t.safetensors").read_bytes()
    before = struct.unpack("<Q", content[:8])[0]
    padded = struct.pack("<Q", size) + content[8 : 8 + before].ljust(size) + content[8 + before :]
    (tmp_path / "t.safetensors").write_bytes(padded)
    [(_, found)] = read_traces([tmp_path / "t.safetensors"], Refusals())
    assert isinstance(found, Trace)
    assert found.digest() == traces[0].digest()


ENGINES = {
    "verify": ["verify", "tiny", "none.safetensors"],
    "detect": ["detect", "tiny", "text.txt", *NUMBERS],
    "attribute": ["attribute", "tiny", "none.safetensors"],
}


@pytest.mark.parametrize("command", ENGINES)
@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--engine", "sglang"], "--engine must be transformers or vllm, got 'sglang'"),
        (["--engine", ""], "--engine must be transformers or vllm"),
        (["--engine-options", "{}"], "add --engine vllm"),
        (["--engine", "transformers", "--engine-options", "{}"], "add --engine vllm"),
        (["--engine", "vllm", "--engine-options", "{"], "must be a JSON object"),
        (["--engine", "vllm", "--engine-options", "[1]"], "must be a JSON object"),
        (["--engine", "vllm", "--engine-options", "[" * 100_000], "must be a JSON object"),
        (["--engine", "vllm", "--device", "cpu"], "vLLM places models itself: leave --device out"),
        (["--engine", "vllm", "--quantization", "8bit"], "leave --quantization out"),
        (["--engine", "vllm", "--max-memory", "1GiB"], "leave --max-memory out"),
    ],
    ids=range(10),
)
def test_a_wrong_engine_is_one_line_before_anything_is_read(
    command: str, words: list[str], reason: str, file: Any, key_file: Path, capfd: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    file("a text", "text.txt")
    assert reason in refused([*ENGINES[command], "--key", str(key_file), *words], capfd)


@pytest.mark.parametrize("command", ENGINES)
def test_without_vllm_its_engine_is_refused_in_one_line(
    command: str, traces: list[Trace], key_file: Path, file: Any, tmp_path: Path, capfd: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(serving, "is_installed", lambda: False)
    monkeypatch.chdir(tmp_path)
    file("a text of some words", "text.txt")
    traces[1].save(tmp_path / "none.safetensors")
    words = [*ENGINES[command], "--key", str(key_file), "--engine", "vllm", "--engine-options", '{"max_num_seqs": 2}']
    assert "vLLM is not installed here: pip install vllm" in refused(words, capfd)
