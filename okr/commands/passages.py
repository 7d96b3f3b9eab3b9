"""How ``okr verify --passages`` says, and shows, where in traces a key acted."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from okr.commands.findings import Addition
from okr.errors import InvalidConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from okr.detection import Spans
    from okr.engines import Engine
    from okr.routing import Key
    from okr.traces import Trace

_WIDTH = 60  # the most characters of a span that a line shows


def check_options(passages: bool, pooled: bool, html: Path | None) -> None:
    """Raise InvalidConfig if the options cannot be asked for together."""
    if passages and pooled:
        raise InvalidConfig("--passages looks into each trace by itself: leave out --pooled")
    if html is not None and not passages:
        raise InvalidConfig("--html shows the spans of --passages: give both")


def located(
    engine: "Engine",
    tokenizer: "PreTrainedTokenizerBase",
    names: Sequence[str],
    traces: "Sequence[Trace]",
    key: "Key",
    options: dict[str, Any],
    html: Path | None,
) -> list[Addition]:
    """The spans of every trace, for JSON and in lines. They are written to ``html`` too if it is given."""
    from okr.detection import locate
    from okr.loaders.pieces import pieces

    found = [locate(engine, trace, key, **options) for trace in traces]
    texts = [pieces(tokenizer, trace.token_ids.tolist()) for trace in traces]
    if html is not None:
        _write(html, names, texts, found)
    return [_addition(text, spans) for text, spans in zip(texts, found, strict=True)]


def _addition(text: Sequence[str], found: "Spans") -> Addition:
    spans = [{"text": "".join(text[span.start : span.end])} for span in found.spans]
    document = found.as_dict()
    document["spans"] = [span | words for span, words in zip(document["spans"], spans, strict=True)]
    lines = [f"  {found}"]
    if found:
        lines.append(f"  {'tokens':>13} {'swaps':>6} {'p':>9}  text")
    for span, words in zip(found.spans, spans, strict=True):
        place = f"{span.start} to {span.end - 1}"
        lines.append(f"  {place:>13} {span.swaps:>6} {span.p_value:>9.2g}  {_shortened(words['text'])}")
    return Addition({"passages": document}, lines)


def _shortened(text: str) -> str:
    """``text`` on one line, its middle left out if it is long."""
    flat = " ".join(text.split())
    half = (_WIDTH - 3) // 2
    return flat if len(flat) <= _WIDTH else f"{flat[:half]} … {flat[-half:]}"


def _write(path: Path, names: Sequence[str], texts: Sequence[Sequence[str]], found: "Sequence[Spans]") -> None:
    """Write the page of coloured texts to ``path``."""
    from okr.jobs.folders import write_atomically
    from okr.pages.coloured_text import Coloured, page

    items = [
        Coloured(
            title=name,
            caption=str(spans),
            pieces=text,
            swaps=[0] * spans.first + list(spans.swaps),
            spans=[(span.start, span.end, f"p = {span.p_value:.2g}") for span in spans.spans],
        )
        for name, text, spans in zip(names, texts, found, strict=True)
    ]
    write_atomically(path, page(items))
