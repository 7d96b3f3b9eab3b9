"""What a user gives to a suite: files and options, hostile or wrong; and programs that models write."""

import re
import sys
from pathlib import Path

import pytest

from okr.cli import execute
from okr.errors import InvalidConfig
from okr.jobs.tasks import NotAvailable
from okr.suites import human_eval
from okr.suites.human_eval import passes
from okr.suites.multiple_choice import answered, read_questions
from okr.suites.options import QUICK, suite_options, suites_of
from okr.suites.paraphrase import read_pairs
from okr.suites.samples import Bench

ASKED = {"suite": "all", "quick": False, "human_eval": False}
GOOD = '{"question": "q", "choices": ["a", "b"], "answer": 1}'


@pytest.mark.parametrize(
    "line",
    [
        "not json", "[]", "{}", '{"question": "q", "choices": ["a"], "answer": 0}',
        GOOD.replace("1", "2"), GOOD.replace("1", "-1"), GOOD.replace("1", '"1"'), GOOD.replace("1", "true"),
        '{"question": "", "choices": ["a", "b"], "answer": 0}', '{"question": "q", "choices": ["a", " "], "answer": 0}',
        '{"question": "q", "choices": "ab", "answer": 0}', '{"question": 1, "choices": ["a", "b"], "answer": 0}',
        "[" * 100_000, "null", "1e999", '{"question": "q", "choices": ["a", "b"], "answer": 1.5}',
    ],
)  # fmt: skip
def test_a_question_that_is_wrong_is_named_by_its_line(line: str, tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text(f"{GOOD}\n{line}\n")
    with pytest.raises(InvalidConfig, match="line 2") as caught:
        read_questions(path)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read_are_said_to_be_so(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "empty").write_text("\n\n")
    for read in (read_questions, lambda path: read_pairs(str(path))):
        for name in ("binary", "empty", "nowhere"):
            with pytest.raises(InvalidConfig):
                read(tmp_path / name)
    (tmp_path / "pairs").write_text('{"a": "x", "b": "y"}\n' * 3 + '{"a": 1, "b": "y"}\n')
    with pytest.raises(InvalidConfig, match="line 4"):
        read_pairs(str(tmp_path / "pairs"))


def test_shipped_pairs_are_pairs() -> None:
    pairs = read_pairs(None)
    assert len(pairs) == 22
    for pair in pairs:
        a, b = (set(re.findall("[a-z]{4,}", text.lower())) for text in (pair.a, pair.b))
        assert pair.a != pair.b
        assert len(a & b) >= 0.45 * min(len(a), len(b))


def test_the_choice_with_the_least_loss_is_the_answer(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text(f"{GOOD}\n")
    question = read_questions(path)[0]
    assert answered(bench.loaded, question) in (0, 1)
    assert answered(bench.loaded, question.model_copy(update={"choices": ["b", "a"]})) == 1 - answered(
        bench.loaded, question
    )


def test_options() -> None:
    assert suites_of("all") == ("baselines", "quality", "attacks")
    assert suites_of("quality") == ("quality",)
    with pytest.raises(InvalidConfig, match="choose one of"):
        suites_of("speed")
    quick = suite_options(ASKED | {"quick": True, "suite_samples": 30})
    assert (quick.samples, quick.tokens) == (30, QUICK["tokens"])
    assert suite_options(ASKED).samples == 200
    assert suite_options(ASKED | {"suite_samples": 5}).attacked == 5
    with pytest.raises(InvalidConfig, match="--suite-samples"):
        suite_options(ASKED | {"suite_samples": 1})


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--quick"], "add --suite"),
        (["--judge", "x"], "add --suite"),
        (["--suite", "nothing"], "choose one of"),
        (["--suite", "quality", "--choices", "nowhere.jsonl"], "no file"),
        (["--suite", "attacks", "--pairs", "nowhere.jsonl"], "no file"),
        (["--suite", "quality", "--suite-tokens", "1"], "--suite-tokens"),
    ],
)
def test_wrong_options_are_one_line_and_leave_nothing(
    words: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert execute(["run", "tiny", "--output-dir", str(tmp_path / "out"), *words]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="limits on programs need a POSIX system")
@pytest.mark.parametrize(
    ("program", "good"),
    [
        ("assert 1 + 1 == 2", True),
        ("assert 1 + 1 == 3", False),
        ("while True: pass", False),
        ("x = bytearray(4 * 1024**3)", False),
        ("open('big', 'wb').write(b'x' * 2_000_000)", False),
        ("import os; assert not os.environ.get('HOME') and os.listdir('.') == []", True),
        ("syntax error", False),
        ("import os; os._exit(7)", False),
    ],
)
def test_programs_run_within_limits(program: str, good: bool) -> None:
    assert passes(program, seconds=1) is good


@pytest.mark.skipif(sys.platform == "win32", reason="limits on programs need a POSIX system")
def test_pass_at_1_counts_the_programs_that_pass(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = {"prompt": "def f():\n", "test": "def check(c):\n    assert c() == 1\n", "entry_point": "f"}
    bodies = iter(["    return 1\n", "    return 2\n", "    return\n", "    return 1.0\n"])
    monkeypatch.setattr(human_eval, "problems", lambda: {str(number): problem for number in range(4)})
    monkeypatch.setattr(human_eval, "completion", lambda bench, prompt: next(bodies))
    (found,) = human_eval.human_eval_cell(bench, "okr").figures
    assert (found.value, found.samples) == (0.5, 4)


def test_what_a_model_writes_ends_with_its_function(bench: Bench) -> None:
    text = human_eval.completion(bench, "def f():\n")
    assert not any(stop in text for stop in ("\ndef ", "\nclass "))


def test_without_its_package_humaneval_is_not_available(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "human_eval.data", None)
    with pytest.raises(NotAvailable, match=r"okr-watermark\[evidence\]"):
        human_eval.problems()
