"""Many files at the command line: each by itself, all of them pooled, and what becomes of one that cannot be judged."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
import torch

import okr
from okr.cli import execute
from okr.commands.findings import Refusals, sift
from okr.errors import InvalidText
from okr.routing import Key

SETTING = {"epsilon": 2.0, "zone": "max", "strength": 4.0}
WORDS = ["--epsilon", "2", "--zone", "max", "--strength", "4"]
SOFT = ["--epsilon", "inf", "--zone", "boundary", "--strength", "2", "--decoys", "19", "--alpha", "0.05"]


def complaints(err: str) -> list[str]:
    """What the command itself said on stderr, the bar of loading weights apart."""
    return [line for line in err.splitlines() if line.startswith("okr: ")]


@pytest.fixture(scope="module")
def traces(deepseek_folder: Path, key_file: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Seven unmarked traces of 16 tokens and one marked of 100, the last."""
    folder, loaded = tmp_path_factory.mktemp("traces"), okr.load(deepseek_folder)
    torch.manual_seed(0)
    options = {"do_sample": True, "pad_token_id": 0, "eos_token_id": None}
    with okr.record(loaded.model) as session:
        made = session.generate(input_ids=torch.randint(3, 384, (7, 4)), max_new_tokens=12, **options).traces
    with okr.watermark(loaded.model, Key.load(key_file), **SETTING) as session:
        made += session.generate(input_ids=torch.randint(3, 384, (1, 4)), max_new_tokens=96, **options).traces
    paths = [str(folder / f"{number}.safetensors") for number in range(len(made))]
    for trace, path in zip(made, paths, strict=True):
        trace.save(path)
    return paths


def test_one_marked_trace_does_not_make_all_of_them_marked(
    traces: list[str], deepseek_folder: Path, key_file: Path, capfd: pytest.CaptureFixture
) -> None:
    words = ["verify", str(deepseek_folder), *traces, "--key", str(key_file), *WORDS]
    assert execute(words) == 1
    lines = capfd.readouterr().out.splitlines()
    assert [line.partition(": ")[0] for line in lines[:-2]] == traces
    assert [": watermarked under key" in line for line in lines[:-2]] == [False] * 7 + [True]
    assert lines[-2].startswith("1 of 8 found watermarked, each by a test of its own at alpha 0.001; 1 after Holm's")
    assert lines[-1].startswith("pooled test of all 8: at least one of them was made under key ")
    assert execute([*words, "--pooled"]) == 0
    assert capfd.readouterr().out.splitlines() == lines[-1:]
    assert execute(["verify", str(deepseek_folder), traces[-1], "--key", str(key_file)]) == 0
    assert capfd.readouterr().out == lines[-3].partition(": ")[2] + "\n"


def test_json_holds_each_and_pooled(
    traces: list[str], deepseek_folder: Path, key_file: Path, capfd: pytest.CaptureFixture
) -> None:
    words = ["verify", str(deepseek_folder), *traces, "--key", str(key_file), *WORDS, "--json", "--decoys", "99"]
    assert execute(words) == 1
    said = json.loads(capfd.readouterr().out)
    assert (said["watermarked"], said["refused"]) == (False, [])
    assert [file["file"] for file in said["files"]] == traces
    assert [file["watermarked"] for file in said["files"]] == [False] * 7 + [True]
    assert said["files"][-1]["adjusted_p"] == pytest.approx(8 * said["files"][-1]["p_value"])
    model, key = okr.load(deepseek_folder).model, Key.load(key_file)
    pooled = okr.verify(model, [okr.Trace.load(path) for path in traces], key, **SETTING, decoys=99)
    assert said["pooled"] == json.loads(json.dumps(pooled.as_dict()))
    assert execute([*words, "--pooled"]) == 0
    both = json.loads(capfd.readouterr().out)
    assert both == {**said, "watermarked": True, "files": [{"file": path} for path in traces]}


def test_a_trace_that_cannot_be_judged_is_named_and_costs_only_itself(
    traces: list[str],
    deepseek_folder: Path,
    switch_folder: Path,
    key_file: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture,
) -> None:
    with okr.record(okr.load(switch_folder).model) as session:
        foreign = session.generate(input_ids=torch.tensor([[3, 4, 5]]), max_new_tokens=4, do_sample=False).traces[0]
    foreign.save(tmp_path / "foreign.safetensors")
    (tmp_path / "damaged.safetensors").write_bytes(Path(traces[0]).read_bytes()[:-1])
    bad = [str(tmp_path / name) for name in ("foreign.safetensors", "damaged.safetensors", "missing.safetensors")]
    words = ["verify", str(deepseek_folder), "--key", str(key_file), *WORDS]
    assert execute([*words, bad[1], traces[-1], *bad[::2], "--json"]) == 2
    printed = capfd.readouterr()
    said = json.loads(printed.out)
    assert [file["file"] for file in said["files"]] == [traces[-1]]
    assert said["files"][0]["watermarked"] is True
    assert {refusal["file"] for refusal in said["refused"]} == set(bad)
    errors = complaints(printed.err)
    assert len(errors) == 3
    assert all(any(path in line for line in errors) for path in bad)
    assert "another model" in next(line for line in errors if bad[0] in line)
    assert execute([*words, *bad]) == 2
    printed = capfd.readouterr()
    assert printed.out == ""
    assert len(complaints(printed.err)) == 1


def test_a_refusal_names_its_file_whatever_the_file_is_called() -> None:
    """A name of one letter is part of almost every message, and was then left out."""
    refused: Refusals = []

    def make(number: int) -> int:
        if number:
            raise InvalidText("a text of 1 tokens says nothing")
        return number

    assert sift([("b", 0), ("a", 1), ("text", 1)], make, refused) == [("b", 0)]
    said = "a text of 1 tokens says nothing"
    assert refused == [("a", f"a: {said}"), ("text", f"text: {said}")]


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_the_name_of_a_file_costs_no_result(
    encoding: str, traces: list[str], deepseek_folder: Path, key_file: Path, warm: Path, tmp_path: Path
) -> None:
    """Names that are not UTF-8, and terminals that lack their letters."""
    for number, name in enumerate((b"Gr\xfc\xdfe", "Gr\u00fc\u00dfe".encode())):
        (tmp_path / os.fsdecode(name)).write_bytes(Path(traces[number]).read_bytes())
    files = sorted(str(path) for path in tmp_path.iterdir())
    words = ["verify", str(deepseek_folder), *files, "--key", str(key_file), *WORDS]
    code = (
        "import runpy, sys\n"
        f"sys.stdout, sys.stderr = (open(number, 'w', encoding={encoding!r}, errors='strict') for number in (1, 2))\n"
        "runpy.run_module('okr.cli', run_name='__main__', alter_sys=True)"
    )
    done = subprocess.run([warm / "python", "-c", code, *words], capture_output=True, check=False)
    assert done.returncode == 1, done.stderr
    assert len(done.stdout.splitlines()) == 4
    assert rb"Gr\udcfc\udcdfe: not watermarked" in done.stdout
    assert ("Gr\u00fc\u00dfe" if encoding == "utf-8" else r"Gr\xfc\xdfe").encode() in done.stdout


def test_a_trace_without_a_setting_is_named_before_the_model_is_loaded(
    traces: list[str], key_file: Path, capfd: pytest.CaptureFixture
) -> None:
    assert execute(["verify", "no such model", traces[-1], traces[2], "--key", str(key_file)]) == 2
    assert capfd.readouterr().err.startswith(f"okr: {traces[2]}: this trace was recorded without a key: say which")


def test_attribution_of_several_traces_says_that_they_are_one_test(
    traces: list[str], deepseek_folder: Path, key_file: Path, capfd: pytest.CaptureFixture
) -> None:
    words = ["attribute", str(deepseek_folder), *traces[-2:], "--key", str(key_file), *WORDS]
    assert execute(words) == 0
    assert re.match(r"2 traces as one test, made at least in part under: key ", capfd.readouterr().out)


LONG = "It is a truth universally acknowledged, that a single man in possession of a good fortune"


def test_texts_are_judged_one_by_one_and_pooled(
    deepseek_folder: Path, key_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    """Two files, one of them with two texts: as okr.detect says of each and of all."""
    one, two = tmp_path / "one.txt", tmp_path / "two.txt"
    texts = [LONG, LONG[::-1], LONG.upper()]
    one.write_text(texts[0] + "\n")
    two.write_text(f"{texts[1]}\n---\n{texts[2]}\n---\n")
    words = ["detect", str(deepseek_folder), str(one), str(two), "--key", str(key_file), *SOFT, "--separator", "---"]
    assert execute([*words, "--json"]) in (0, 1)
    said = json.loads(capfd.readouterr().out)
    assert [file["file"] for file in said["files"]] == [str(one), f"{two}:1", f"{two}:2"]
    loaded, key = okr.load(deepseek_folder), Key.load(key_file)
    ids = [[1, *loaded.tokenizer(text, add_special_tokens=False)["input_ids"]] for text in texts]
    options = {"epsilon": float("inf"), "zone": "boundary", "strength": 2.0, "decoys": 19}
    alone = [okr.detect(loaded.model, row, key, **options) for row in ids]
    assert [file["p_value"] for file in said["files"]] == [verdict.p_value for verdict in alone]
    pooled = okr.detect(loaded.model, ids, key, **options)
    assert said["pooled"] == json.loads(json.dumps(pooled.as_dict()))
    assert execute([*words, "--pooled"]) == (0 if pooled.watermarked else 1)
    assert capfd.readouterr().out == pooled.on_several(3) + "\n"


def test_a_blank_text_is_refused_and_a_short_one_cannot_be_told(
    deepseek_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    blank, letter, long = (tmp_path / f"{name}.txt" for name in ("blank", "letter", "long"))
    blank.write_text(" \n\n")
    letter.write_text("a\n")
    long.write_text(LONG)
    for number in range(20):  # before, one key in a hundred found the letter: at 0.05 one in twenty
        Key(bytes([number]) * 16).save(tmp_path / f"{number}.json")
        words = ["detect", str(deepseek_folder), str(letter), "--key", str(tmp_path / f"{number}.json"), *SOFT]
        assert execute(words) == 1
        assert capfd.readouterr().out == "cannot tell: 1 judged token, at least 16 are needed (p = 1)\n"
    words = ["detect", str(deepseek_folder), str(blank), "--key", str(tmp_path / "0.json"), *SOFT]
    assert execute(words) == 2
    assert capfd.readouterr().err == f"okr: {blank} holds no text\n"
    assert execute([*words, str(long), str(letter)]) == 2
    printed = capfd.readouterr()
    assert complaints(printed.err) == [f"okr: {blank} holds no text"]
    assert [line.partition(": ")[0] for line in printed.out.splitlines()[:2]] == [str(long), str(letter)]
    assert execute([*words, str(long), "--prompt", str(long), "--prompt", str(long)]) == 2
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", f"okr: {blank} holds no text\n")


def test_a_file_of_json_lines_brings_its_prompts(
    deepseek_folder: Path, key_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    path, text, prompt = tmp_path / "texts.jsonl", tmp_path / "text.txt", tmp_path / "prompt.txt"
    path.write_text(json.dumps({"text": LONG[20:], "prompt": LONG[:20]}) + "\n")
    text.write_text(LONG[20:])
    prompt.write_text(LONG[:20])
    words = ["detect", str(deepseek_folder), "--key", str(key_file), *SOFT, "--json"]
    assert execute([*words, str(path)]) in (0, 1)
    lines = json.loads(capfd.readouterr().out)["files"]
    assert execute([*words, str(text), "--prompt", str(prompt)]) in (0, 1)
    assert json.loads(capfd.readouterr().out)["files"] == [lines[0] | {"file": str(text)}]


def test_of_many_json_lines_a_blank_one_costs_only_itself(
    deepseek_folder: Path, key_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in (LONG, "", LONG.upper())))
    words = ["detect", str(deepseek_folder), str(path), "--key", str(key_file), *SOFT]
    assert execute(words) == 2
    printed = capfd.readouterr()
    assert [line.partition(": ")[0] for line in printed.out.splitlines()[:2]] == [f"{path}:1", f"{path}:3"]
    assert complaints(printed.err) == [f"okr: {path}:2: the text is blank"]
    assert execute([*words, "--separator", "--- "]) == 2
    assert "--separator must be one line" in capfd.readouterr().err
