"""Whatever a user can get wrong: exit code 2, one clear line, no traceback, nothing left behind."""

import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from small_runs import save_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

import okr.experiment.runner as runner
import okr.experiment.tasks as work
from okr.cli import execute

Edit = Callable[[Path], object]


def flags(model: Path | None, output: Path, *more: str, preset: str = "tiny") -> list[str]:
    sizes = ("--samples", "4", "--max-length", "6", "--batch-size", "2")
    chosen = () if model is None else ("--model", str(model))
    return ["run", preset, *chosen, "--output-dir", str(output), *sizes, *more]


def refused(capfd: pytest.CaptureFixture, words: list[str], output: Path) -> str:
    """The one line of a command that must fail, which must leave ``output`` as it was."""
    before = output.exists()
    assert execute(words) == 2
    printed = capfd.readouterr()
    assert "Traceback" not in printed.err
    assert printed.out == ""
    assert output.exists() == before
    said = re.sub(r"\rLoading weights[^\r\n]*\n?", "", printed.err)  # transformers' own bar
    assert said.startswith("okr: ")
    assert said.count("\n") == 1
    return said


@pytest.fixture
def copy(deepseek_folder: Path, tmp_path: Path) -> Callable[[Edit], Path]:
    """A copy of the checkpoint, changed by the given function."""

    def make(edit: Edit) -> Path:
        folder = tmp_path / "copy"
        shutil.copytree(deepseek_folder, folder)
        edit(folder)
        return folder

    return make


def edit_config(**changes: object) -> Edit:
    def edit(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return edit


def cut_weights(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


@pytest.mark.parametrize("quick", ["0", "1"])
def test_no_model_for_deepseek_moe(
    quick: str, tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUICK_TEST", quick)
    monkeypatch.setenv("DEEPSEEK_MOE_LOCAL_PATH", str(tmp_path / "nowhere"))
    line = refused(capfd, ["run", "deepseek-moe", "--output-dir", str(tmp_path / "out")], tmp_path / "out")
    assert str(tmp_path / "nowhere") in line
    assert "DEEPSEEK_MOE_LOCAL_PATH" in line
    assert "unset it" in line


def test_a_damaged_checkpoint(copy: Callable[[Edit], Path], tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    line = refused(capfd, flags(copy(cut_weights), tmp_path / "out"), tmp_path / "out")
    assert "model.safetensors is damaged or incomplete" in line


def test_more_experts_a_token_than_there_are(
    copy: Callable[[Edit], Path], tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    line = refused(capfd, flags(copy(edit_config(num_experts_per_tok=17)), tmp_path / "out"), tmp_path / "out")
    assert "17" in line
    assert "16" in line


def test_a_model_without_routers(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    config = LlamaConfig(
        vocab_size=384, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    with torch.random.fork_rng():
        LlamaForCausalLM(config).save_pretrained(tmp_path / "dense")
    save_tokenizer(tmp_path / "dense")
    words = flags(tmp_path / "dense", tmp_path / "out")
    assert execute(words) == 2
    printed = capfd.readouterr().err
    assert "未找到任何gate层" in printed.splitlines()[-1]
    assert "model.layers.0.mlp" in printed, "the discovery log is shown"
    assert "Traceback" not in printed
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("done", [0, 1])
def test_out_of_memory(
    done: int, deepseek_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_batch, calls = work.make_batch, []

    def exhausted(*arguments: object) -> dict:
        calls.append(1)
        if len(calls) > done:
            raise torch.OutOfMemoryError(
                "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.15 GiB of which "
                "1.19 GiB is free."
            )
        return make_batch(*arguments)

    monkeypatch.setattr(work, "make_batch", exhausted)
    out = tmp_path / "out"
    assert execute(flags(deepseek_folder, out)) == 2
    line = capfd.readouterr().err.splitlines()[-1]
    for part in ("out of memory", "batch size 2", "max length 6", "2.00 GiB", "79.15 GiB", "quantis", "max_memory"):
        assert part in line
    assert out.exists() == bool(done), "what was finished is kept, what never began is not"


def test_an_output_folder_that_cannot_be_made(
    deepseek_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    (tmp_path / "file").write_text("mine")
    out = tmp_path / "file" / "out"
    assert "cannot write to the output folder" in refused(capfd, flags(deepseek_folder, out), out)
    assert (tmp_path / "file").read_text() == "mine"


def test_an_output_folder_that_holds_something(
    deepseek_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    line = refused(capfd, flags(deepseek_folder, tmp_path / "out"), tmp_path / "out")
    assert "is not empty: add --resume" in line
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(("name", "text"), [("p.txt", ""), ("p.txt", " \n\n"), ("p.jsonl", "\n")])
def test_an_empty_prompt_file(
    name: str, text: str, deepseek_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    (tmp_path / name).write_text(text)
    words = flags(deepseek_folder, tmp_path / "out", "--prompts", str(tmp_path / name))
    assert "holds no prompt: write one a line" in refused(capfd, words, tmp_path / "out")


def test_a_prompt_file_that_is_not_what_it_says(
    deepseek_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    (tmp_path / "p.jsonl").write_text('{"text": "fine"}\n{"prompt": "not"}\n')
    words = flags(deepseek_folder, tmp_path / "out", "--prompts", str(tmp_path / "p.jsonl"))
    assert "line 2: expected" in refused(capfd, words, tmp_path / "out")


def test_a_malformed_configuration_file(deepseek_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    (tmp_path / "run.toml").write_text("epsilon = = 1")
    words = flags(deepseek_folder, tmp_path / "out", "--config", str(tmp_path / "run.toml"))
    assert "is not valid TOML" in refused(capfd, words, tmp_path / "out")


@pytest.mark.parametrize("epsilon", ["-1", "nan", "much"])
def test_an_epsilon_that_is_none(
    epsilon: str, deepseek_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    line = refused(capfd, flags(deepseek_folder, tmp_path / "out", "--epsilon", epsilon), tmp_path / "out")
    assert "--epsilon" in line


def test_more_tokens_than_the_model_has_positions(
    deepseek_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    line = refused(capfd, flags(deepseek_folder, tmp_path / "out", "--max-length", "512"), tmp_path / "out")
    assert "leaves no room for a prompt: the model has 512 positions" in line


def test_a_disc_that_fills_up_keeps_what_was_finished(
    deepseek_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"

    def full(*arguments: object) -> dict:
        raise runner.InvalidConfig(f"cannot write {out / 'results.json'}: No space left on device")

    monkeypatch.setenv("OKR_QUALITY_PASSAGES", "2")
    with monkeypatch.context() as patch:
        patch.setattr(runner, "write_atomically", full)
        assert execute(flags(deepseek_folder, out)) == 2
    assert "No space left" in capfd.readouterr().err
    assert not (out / "results.json").exists()
    assert execute(flags(deepseek_folder, out, "--resume")) == 0
    assert (out / "results.json").exists()


def test_ctrl_c_says_how_to_continue_and_that_works(
    deepseek_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_batch, calls = work.make_batch, []

    def interrupted(*arguments: object) -> dict:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return make_batch(*arguments)

    monkeypatch.setenv("OKR_QUALITY_PASSAGES", "2")
    words = flags(deepseek_folder, tmp_path / "out")
    monkeypatch.setattr("sys.argv", ["okr", *words])
    with monkeypatch.context() as patch:
        patch.setattr(work, "make_batch", interrupted)
        assert execute(words) == 130
    line = capfd.readouterr().err.splitlines()[-1]
    assert line.startswith("okr: stopped; to continue: okr run ")
    again = shlex.split(line.partition("to continue: okr ")[2])
    made = []
    monkeypatch.setattr(work, "make_batch", lambda *arguments: made.append(1) or make_batch(*arguments))
    assert execute(again) == 0
    assert len(made) == 2, "the two finished batches are not made again"
