"""Whether the README's table still says what its command gives: ``python tools/readme_figures.py RESULTS.json``.

Every run makes a key of its own, so figures that depend on it may differ by the noise between keys; the others may not.
"""

import json
import re
import sys
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"
ROW = r"^\| {} \| ([\d.e-]+)(?: of (\d+))? \| ([\d.e-]+)(?: of (\d+))? \|$"


def written(text: str, row: str) -> list[float]:
    """The figures of a row of the README's table."""
    found = re.search(ROW.format(re.escape(row)), text, re.MULTILINE)
    assert found, f"README.md has no row {row!r}"
    return [float(figure) for figure in found.groups() if figure]


def differences(results: dict, text: str) -> list[str]:
    """Each figure that is off by more than noise, in words."""
    summary, quality = results["summary"], results["quality"]
    cost = float(re.search(r"cost (-?[\d.]+) nats per token", text)[1])
    largest, smallest = written(text, "largest / smallest p-value")
    hit, control = written(text, "hit rate")
    keyed, unkeyed = written(text, "held-out loss, nats per token")
    pairs = {  # what is written, what came out, by how much they may differ
        "found": (
            written(text, "found watermarked (p ≤ 0.001)")[:2],
            [summary["watermarked_samples"], summary["total_samples"]],
            0,
        ),
        "controls found": ([0], [summary["control_watermarked_samples"]], 2),  # 3 of 24 at 0.001: once in 500,000 runs
        "largest p-value": ([largest], [summary["largest_p_value"]], 1e-6),
        "smallest p-value of a control": ([smallest], [summary["control_smallest_p_value"]], 0.999),
        "hit rate": ([hit], [summary["average_hit_rate"]], 5e-4),
        "control hit rate": ([control], [summary["control_average_hit_rate"]], 0.05),
        "unkeyed loss": ([unkeyed], [quality["loss_unkeyed"]], 2e-3),
        "keyed loss": ([keyed], [quality["loss_keyed"]], 0.002),
        "cost": ([cost], [quality["cost"]], 0.002),
    }
    return [
        f"{name}: README.md says {said}, the run gave {came_out}"
        for name, (said, came_out, noise) in pairs.items()
        if any(abs(a - b) > noise for a, b in zip(said, came_out, strict=True))
    ]


if __name__ == "__main__":
    found = differences(json.loads(Path(sys.argv[1]).read_text("utf-8")), README.read_text("utf-8"))
    print("\n".join(found) or "the README's figures are those of its command")
    sys.exit(bool(found))
