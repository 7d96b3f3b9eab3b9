"""The evidence in swaps in plain Python, and a check of it against its vectors. Standard library only.

``python stdlib_evidence.py FOLDER`` reads 4-evidence.json in FOLDER and says how many answers are right. Copy it as the
start of a port of the verification; stdlib_vectors.py is that of a router.
"""

import hashlib
import json
import math
import struct
import sys
from pathlib import Path
from typing import Any

Row = list[float]
Site = tuple[str, int]


def f32(x: float) -> float:
    """The nearest float32 number, as a float; overflow gives an infinity."""
    try:
        return float(struct.unpack("f", struct.pack("f", x))[0])
    except OverflowError:
        return math.copysign(math.inf, x)


def projection(secret: bytes, site: Site, hidden_size: int, experts: int) -> list[list[int]]:
    numbers = b"".join(n.to_bytes(4, "big") for n in (site[1], hidden_size, experts))
    header = b"OKR-v1\0" + len(secret).to_bytes(2, "big") + secret + site[0].encode() + b"\0" + numbers
    stream = hashlib.shake_256(header).digest(-(-hidden_size * experts // 8))
    signs = [2 * (stream[i // 8] >> (7 - i % 8) & 1) - 1 for i in range(hidden_size * experts)]
    return [signs[i : i + experts] for i in range(0, len(signs), experts)]


def pool(c: Row, top_k: int, epsilon: float, zone: str) -> set[int]:
    """The experts that compete; none at a token that is no opportunity."""
    if not all(x < math.inf for x in c):
        return set()
    ranked = [*sorted(c, reverse=True), -math.inf]
    lower = f32((ranked[0] if zone == "max" else ranked[top_k - 1]) - f32(epsilon))
    upper = math.inf if zone == "max" or epsilon == math.inf else f32(ranked[top_k] + f32(epsilon))
    locked = {e for e, x in enumerate(c) if x > upper}
    found = {e for e, x in enumerate(c) if x > -math.inf and x >= lower} - locked
    return found if len(found) > top_k - len(locked) > 0 else set()


def swap_weights(c: Row, h: Row, ran: list[int], given: dict[str, Any]) -> Row:
    top_k, strength = given["top_k"], float(given["strength"])
    weights = [0.0] * len(c)
    if min(ran) < 0 or not all(map(math.isfinite, h)):
        return weights
    native = sorted(range(len(c)), key=lambda e: (-c[e], e))[:top_k]
    swapped = set(ran) ^ set(native)
    near = swapped & pool(c, top_k, float(given["epsilon"]), given["zone"]) & pool(c, top_k, 4 * strength, "boundary")
    for e in near:
        weights[e] = (1 if e in ran else -1) / (1 + len(swapped - near))
    return weights


def answer(given: dict[str, Any]) -> dict[str, Any]:
    totals: dict[Site, list[Row]] = {}
    weights = []
    for part in given["shown"]:
        choice, hidden = ([[float(x) for x in row] for row in part[name]] for name in ("choice", "hidden"))
        tokens = list(zip(choice, hidden, part["experts"], strict=True))
        weights.append([swap_weights(c, h, ran, given) for c, h, ran in tokens])
        total = totals.setdefault((part["stack"], part["layer"]), [[0.0] * len(choice[0]) for _ in hidden[0]])
        for h, v in zip(hidden, weights[-1], strict=True):
            norm = math.sqrt(math.fsum(x * x for x in h)) or 1.0
            for row, x in zip(total, h, strict=True):
                row[:] = [w + x / norm * size if size else w for w, size in zip(row, v, strict=True)]
    secret, entries = bytes.fromhex(given["secret"]), []
    for site, total in totals.items():
        signs = projection(secret, site, len(total), len(total[0]))
        entries += [(w, s) for row, line in zip(total, signs, strict=True) for w, s in zip(row, line, strict=True)]
    squared = math.fsum(w * w for w, _ in entries)
    z = math.fsum(w * s for w, s in entries) / math.sqrt(squared) if squared > 1e-12 else 0.0
    p = min(1.0, max(1e-300, math.erfc(z / math.sqrt(2)) / (4 * math.erfc(1))))
    return {"weights": weights, "swaps": sum(x > 0 for w in weights for v in w for x in v), "z": z, "p_value": p}


def close(a: Any, b: Any) -> bool:
    if isinstance(a, list):
        return len(a) == len(b) and all(map(close, a, b))
    return math.isclose(a, b, rel_tol=1e-6, abs_tol=0 if b else 1e-9)


if __name__ == "__main__":
    vectors = json.loads((Path(sys.argv[1]) / "4-evidence.json").read_text())["vectors"]
    answers = {v["id"]: answer(v["input"]) for v in vectors}
    wrong = [
        v for v in vectors if not all(close(answers[v["id"]][name], v["expected"][name]) for name in v["expected"])
    ]
    for vector in wrong:
        print(f"{vector['id']}: hunts {vector['hunts']}")
    print(f"{len(vectors) - len(wrong)} of {len(vectors)} vectors answered right")
    sys.exit(1 if wrong else 0)
