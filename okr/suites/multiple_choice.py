"""Multiple-choice accuracy on a user's questions: the choice with the least loss per token is the answer."""

import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic import model_validator as validator

from okr.errors import InvalidConfig
from okr.intervals import share
from okr.loaders import Loaded
from okr.loaders.prediction import predict
from okr.suites.cells import Outcome
from okr.suites.figures import Figure
from okr.suites.samples import Bench
from okr.validation import first_problem

MOST_BYTES = 50_000_000


class Question(BaseModel):
    """One line of the file; ``answer`` counts the choices from 0."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    question: str = Field(min_length=1, max_length=100_000)
    choices: list[str] = Field(min_length=2, max_length=100)
    answer: int = Field(ge=0)

    @validator(mode="after")
    def _answer_is_a_choice(self) -> "Question":
        if self.answer >= len(self.choices):
            raise ValueError(f"answer {self.answer} is none of {len(self.choices)} choices, counted from 0")
        if not all(choice.strip() for choice in self.choices):
            raise ValueError("a choice is empty")
        return self


def read_questions(path: Path) -> list[Question]:
    """The questions of a JSONL file. Raises InvalidConfig with the line that is wrong."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise InvalidConfig(f"{path} is larger than {MOST_BYTES // 1_000_000} MB: ask fewer questions")
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise InvalidConfig(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InvalidConfig(f"{path} is not UTF-8 text") from None
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found.append(Question.model_validate(json.loads(line)))
        except ValidationError as error:
            raise InvalidConfig(f"{path}, line {number}: {first_problem(error).line()}") from None
        except (ValueError, RecursionError):
            raise InvalidConfig(f"{path}, line {number}: not JSON") from None
    if not found:
        raise InvalidConfig(f"{path} holds no question: write one a line")
    return found


def choices_cell(bench: Bench, method: str) -> Outcome:
    """Accuracy with its Clopper-Pearson interval, under one key for okr."""
    assert bench.options.choices is not None
    questions = read_questions(Path(bench.options.choices))
    session = bench.engine.recorded() if method == "none" else bench.watermarked("okr", bench.key(3_000_000))
    with session:
        right = [answered(bench.loaded, question) == question.answer for question in questions]
    value, low, high = share(sum(right), len(right))
    common = {"measure": "multiple choice", "unit": "share right", "method": method, "samples": len(right)}
    return Outcome([Figure(value=value, low=low, high=high, **common)])  # type: ignore[arg-type]


def answered(loaded: Loaded, question: Question) -> int:
    """Which choice the model finds most likely, per token, after the question."""
    losses = [_loss(loaded, question.question, choice) for choice in question.choices]
    return losses.index(min(losses))


def _loss(loaded: Loaded, question: str, choice: str) -> float:
    """Mean loss of the choice in nats per token; a question that does not fit the model loses its beginning."""
    before = loaded.tokenizer(question)["input_ids"]
    own = loaded.tokenizer(f" {choice.strip()}", add_special_tokens=False)["input_ids"]
    positions = getattr(loaded.model.config, "max_position_embeddings", None)
    if positions is not None and not loaded.model.config.is_encoder_decoder:
        before = before[-max(1, positions - len(own)) :]
    return predict(loaded, before, own).loss()
