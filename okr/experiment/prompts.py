"""What samples are started from: shipped passages, or a file."""

from pathlib import Path

from okr.errors import InvalidConfig
from okr.experiment.config import RunConfig
from okr.loaders.written_files import decoded, holds_json_lines, strings_of


def read_prompts(config: RunConfig) -> list[str]:
    """``config.samples`` prompts; where there are fewer different ones they start over.

    A file holds one prompt a line, plain or (``.jsonl``, ``.ndjson``, ``.json``) as ``{"text": ...}``; empty lines do
    not count. Raises InvalidConfig.
    """
    if config.prompts is None:
        from okr.loaders import passages  # the package behind it imports torch

        found = [" ".join(passage.text.split()[: config.prompt_words]) for passage in passages()]
    else:
        found = prompts_in(Path(config.prompts))
    return [found[index % len(found)] for index in range(config.samples)]


def prompts_in(path: Path) -> list[str]:
    """The prompts of a file, one a line. Raises InvalidConfig."""
    try:
        lines = decoded(path.read_bytes()).split("\n")
    except OSError as error:
        raise InvalidConfig(f"cannot read prompt file {path}: {error.strerror}") from None
    except ValueError:
        raise InvalidConfig(f"prompt file {path} is not UTF-8 text") from None
    if holds_json_lines(path):
        lines = [_text(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    found = [line.strip() for line in lines if line.strip()]
    if not found:
        raise InvalidConfig(f"prompt file {path} holds no prompt: write one a line")
    return found


def _text(path: Path, number: int, line: str) -> str:
    try:
        return strings_of(line, ["text"])["text"]
    except ValueError as error:
        raise InvalidConfig(f"prompt file {path}, line {number}: {error}") from None
