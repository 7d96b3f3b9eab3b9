"""The samples of a run as a table in CSV."""

import csv
import io

from okr.experiment.results import Results

COLUMNS = (
    "group", "sample_id", "watermarked", "p_value", "hit_rate", "chance_rate", "swaps", "opportunities", "free_slots",
    "new_tokens", "tokens_needed", "trace",
)  # fmt: skip


def samples_csv(results: Results) -> str:
    """A line for each sample of both groups, under a line of names. What is not known is empty."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for group, samples in (("watermarked", results.detailed_results), ("control", results.control_results)):
        for sample in samples:
            values = sample.verdict.model_dump() | {
                "group": group,
                "sample_id": sample.sample_id,
                "new_tokens": sample.new_tokens,
                "trace": _harmless(sample.trace),
            }
            writer.writerow([values[name] for name in COLUMNS])
    return buffer.getvalue()


def _harmless(text: str) -> str:
    """``text`` such that no spreadsheet takes it for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
