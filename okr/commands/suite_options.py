"""The options of ``okr run --suite``."""

from collections.abc import Mapping
from typing import Annotated

import typer

from okr.errors import InvalidConfig

SuiteName = Annotated[str | None, typer.Option("--suite", help="Then measure: quality, attacks, baselines or all.")]
Quick = Annotated[bool, typer.Option("--quick", help="Small suites: fewer, shorter texts and fewer strengths.")]
SuiteSamples = Annotated[int | None, typer.Option(help="Texts of each method in a suite.")]
SuiteTokens = Annotated[int | None, typer.Option(help="New tokens of each text in a suite.")]
SuiteDecoys = Annotated[int | None, typer.Option(help="Decoy keys of a suite's text tests, at most.")]
Judge = Annotated[str | None, typer.Option(help="Model that judges texts: embedded name, preset, folder or hub id.")]
Paraphraser = Annotated[str | None, typer.Option(help="Sequence-to-sequence model that paraphrases, as an attack.")]
Pairs = Annotated[str | None, typer.Option(help='JSONL of human paraphrases: {"a": "...", "b": "..."}.')]
Choices = Annotated[
    str | None, typer.Option(help='JSONL of questions: {"question": "...", "choices": [...], "answer": 0}.')
]
HumanEval = Annotated[
    bool, typer.Option("--human-eval", help="Measure HumanEval pass@1: runs what the model writes, in a sandbox.")
]

SUITE_OPTIONS = (
    "suite", "quick", "suite_samples", "suite_tokens", "suite_decoys", "judge", "paraphraser", "pairs", "choices",
    "human_eval",
)  # fmt: skip


def check_no_suite_options(asked: Mapping[str, object]) -> None:
    """Refuse options of suites where no suite was asked for."""
    given = [name for name, value in asked.items() if value not in (None, False)]
    if given:
        raise InvalidConfig(f"--{given[0].replace('_', '-')} belongs to a suite: add --suite")
