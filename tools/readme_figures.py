"""Whether the README still says what its command gives: ``python tools/readme_figures.py RESULTS.json``.

Every run makes a key of its own, so figures that depend on it may differ by the noise between keys; the others may not.
"""

import json
import re
import sys
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"
RUN = (
    r"found (\d+) of (\d+) texts with the key at p ≤ 0\.001, the largest p being ([\d.e-]+), "
    r"and (\d+) of (\d+) without it, all at p = 1\."
)


def written(text: str) -> list[float]:
    """The figures of the run in README.md: found and texts, largest p, controls found and controls."""
    found = re.search(RUN, " ".join(text.split()))
    assert found, f"README.md does not say: {RUN}"
    return [float(figure) for figure in found.groups()]


def differences(results: dict, text: str) -> list[str]:
    """Each figure that is off by more than noise, in words."""
    summary, quality = results["summary"], results["quality"]
    cost = float(re.search(r"cost (-?[\d.]+) nats per token", text)[1])
    found, texts, largest, controls_found, controls = written(text)
    pairs = {  # what is written, what came out, by how much they may differ
        "found": ([found, texts], [summary["watermarked_samples"], summary["total_samples"]], 0),
        "controls": ([controls], [summary["control_samples"]], 0),
        "controls found": ([controls_found], [summary["control_watermarked_samples"]], 2),  # 3 of 24: once in 500,000
        "largest p-value": ([largest], [summary["largest_p_value"]], 1e-6),
        "smallest p-value of a control": ([1], [summary["control_smallest_p_value"]], 0.999),
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
