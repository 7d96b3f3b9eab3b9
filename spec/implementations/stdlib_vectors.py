"""A router in plain Python, and a check of it against the static vectors. Standard library only.

``python stdlib_vectors.py FOLDER [ANSWERS.json]`` reads the vector files in FOLDER, says how many answers are legal
and, if asked, writes its answers for ``okr conform vectors:ANSWERS.json``. Copy it as the start of a port.
"""

import hashlib
import json
import math
import struct
import sys
from pathlib import Path
from typing import Any

Row = list[float]
Matrix = list[Row]


def f32(x: float) -> float:
    """The nearest float32 number, as a float; overflow gives an infinity."""
    try:
        return float(struct.unpack("f", struct.pack("f", x))[0])
    except OverflowError:
        return math.copysign(math.inf, x)


def projection(secret: bytes, stack: str, layer: int, hidden_size: int, num_experts: int) -> list[str]:
    numbers = b"".join(n.to_bytes(4, "big") for n in (layer, hidden_size, num_experts))
    header = b"OKR-v1\0" + len(secret).to_bytes(2, "big") + secret + stack.encode() + b"\0" + numbers
    count = hidden_size * num_experts
    stream = hashlib.shake_256(header).digest(-(-count // 8))
    signs = ["+" if stream[i // 8] >> (7 - i % 8) & 1 else "-" for i in range(count)]
    return ["".join(signs[i : i + num_experts]) for i in range(0, count, num_experts)]


def key_scores(hidden: Matrix, signs: list[str]) -> Matrix:
    scores, columns = [], [*zip(*signs, strict=True)]
    for h in hidden:
        norm = math.sqrt(math.fsum(x * x for x in h)) or 1.0
        scores.append([math.fsum(x if s == "+" else -x for x, s in zip(h, c, strict=True)) / norm for c in columns])
    return scores


def select_token(c: Row, g: Row, top_k: int, epsilon: float, zone: str, strength: float) -> list[int]:
    experts = range(len(c))
    native = sorted(experts, key=lambda e: (math.isnan(c[e]), -c[e], e))[:top_k]
    candidates = [e for e in experts if c[e] > -math.inf]
    if not all(x < math.inf for x in c) or len(candidates) < top_k or not all(map(math.isfinite, g)):
        return native
    ranked = [*sorted(c, reverse=True), -math.inf]
    lower = f32((ranked[0] if zone == "max" else ranked[top_k - 1]) - f32(epsilon))
    upper = math.inf if zone == "max" or epsilon == math.inf else f32(ranked[top_k] + f32(epsilon))
    locked = [e for e in candidates if c[e] > upper]
    pool = [e for e in candidates if c[e] >= lower and e not in locked]
    free = top_k - len(locked)
    if not len(pool) > free > 0:
        return native
    if strength < math.inf:
        g = [f32(x + f32(f32(min(strength, 3e38)) * y)) for x, y in zip(c, g, strict=True)]
    best = sorted(pool, key=lambda e: (-g[e], e))[:free]
    return sorted(locked + best, key=lambda e: (-c[e], e))


def matrix(rows: list[list[str]]) -> Matrix:
    return [[float.fromhex(x) for x in row] for row in rows]


def answer(function: str, given: dict[str, Any]) -> dict[str, Any]:
    if function == "projection":
        return {"projection": projection(**{**given, "secret": bytes.fromhex(given["secret"])})}
    if function == "key_scores":
        scores = key_scores(matrix(given["hidden"]), given["projection"])
        return {"key_scores": [[x.hex() for x in row] for row in scores]}
    epsilon, strength = float.fromhex(given["epsilon"]), float.fromhex(given["strength"])
    tokens = zip(matrix(given["choice"]), matrix(given["key_scores"]), strict=True)
    return {"indices": [select_token(c, g, given["top_k"], epsilon, given["zone"], strength) for c, g in tokens]}


def legal(function: str, got: Any, expected: Any) -> bool:
    if function == "projection":
        return bool(got["projection"] == expected)
    if function == "key_scores":
        ranges = zip(matrix(got["key_scores"]), matrix(expected["low"]), matrix(expected["high"]), strict=True)
        return all(lo <= x <= hi for rows in ranges for x, lo, hi in zip(*rows, strict=True))
    rows = zip(got["indices"], expected, strict=True)
    return all(taken in ok if ok else len(set(taken)) == len(taken) for taken, ok in rows)


if __name__ == "__main__":
    files = sorted(Path(sys.argv[1]).glob("[1-3]-*.json"))  # the others are for what verifies, and what bakes
    vectors = [vector for path in files for vector in json.loads(path.read_text())["vectors"]]
    answers = {vector["id"]: answer(vector["function"], vector["input"]) for vector in vectors}
    wrong = [v for v in vectors if not legal(v["function"], answers[v["id"]], v["expected"])]
    for vector in wrong:
        print(f"{vector['id']}: hunts {vector['hunts']}")
    if len(sys.argv) > 2:
        Path(sys.argv[2]).write_text(json.dumps({"answers": answers}))
    print(f"{len(vectors) - len(wrong)} of {len(vectors)} vectors answered legally")
    sys.exit(1 if wrong else 0)
