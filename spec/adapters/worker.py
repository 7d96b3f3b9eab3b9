"""Any Python implementation behind JSON lines: ``cmd:python -m okr.spec.adapters.worker module:object``.

Runs it in a process of its own, so that native code that hangs or dies is seen; and shows the protocol.
"""

import json
import sys
from typing import Any

import numpy as np

from ..codec import floats, signs, unfloat, unfloats, unsigns
from . import load


def reply(implementation: Any, function: str, given: dict[str, Any]) -> dict[str, Any]:
    """The answer to one request, as JSON."""
    if not hasattr(implementation, function):
        return {"unsupported": True}
    if function == "projection":
        secret = bytes.fromhex(given.pop("secret"))
        return {"projection": signs(np.asarray(implementation.projection(secret, **given)))}
    if function == "key_scores":
        matrix = unsigns(given["projection"])
        hidden = unfloats(given["hidden"], matrix.shape[0]).astype(np.float32)
        return {"key_scores": floats(np.asarray(implementation.key_scores(hidden, matrix)))}
    experts = given.pop("experts")
    choice, key = (unfloats(given.pop(name), experts).astype(np.float32) for name in ("choice", "key_scores"))
    setting = {**given, "epsilon": unfloat(given["epsilon"]), "strength": unfloat(given["strength"])}
    answer = implementation.select(choice, key, **setting)
    names = ("indices", "opportunity", "pool", "locked")
    parts = {name: getattr(answer, name, None) for name in names} if hasattr(answer, "indices") else {"indices": answer}
    return {name: np.asarray(part).tolist() for name, part in parts.items() if part is not None}


def main(name: str) -> None:
    """Answer requests until the input ends."""
    implementation = load(name)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = reply(implementation, request["function"], request["arguments"])
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
