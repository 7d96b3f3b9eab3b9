"""Questions that several chapters ask: is this selection legal, which zone does an implementation really use."""

import math

import numpy as np

from . import oracle
from .cases import FloatArray, SelectCase, Selected, Setting
from .subject import Subject
from .verdicts import Violation


def legal(subject: Subject, case: SelectCase) -> Selected:
    """The implementation's selection, every token of which must be legal."""
    answer = subject.select(case)
    problem = oracle.problem(case, answer)
    if problem is not None:
        raise Violation(f"token {problem.token}: {problem.reason}", expected=problem.expected, got=problem.got)
    return answer


def native(case: SelectCase) -> np.ndarray:
    """The native selection of every (sound) token, int64 [T, k]."""
    picks = [oracle.native(choice, case.setting.top_k) for choice, _ in oracle.rows(case)]
    return np.array(picks, np.int64).reshape(case.tokens, case.setting.top_k)


def probe(subject: Subject, choice: FloatArray, setting: Setting) -> tuple[set[int], set[int]]:
    """Which zone an implementation really gives a token: the experts within reach, and those held whatever the key.

    At an opportunity an expert that the key alone favours runs if and only if it is in the zone, and one that the key
    alone disfavours runs if and only if it is locked. Elsewhere both are the native selection.
    """
    experts = len(choice)
    rows = np.repeat(choice[None], experts, axis=0)
    setting = Setting(setting.top_k, setting.epsilon, setting.zone, math.inf)
    favoured = subject.select(SelectCase(rows, np.eye(experts, dtype=np.float32), setting)).indices
    disfavoured = subject.select(SelectCase(rows, -np.eye(experts, dtype=np.float32), setting)).indices
    reach = {e for e in range(experts) if e in favoured[e]}
    held = {e for e in range(experts) if e in disfavoured[e]}
    return reach, held


def expected_probes(choice: FloatArray, setting: Setting) -> list[tuple[set[int], set[int]]]:
    """What ``probe`` may find."""
    row = choice.tolist()
    found = []
    for zone in oracle.zones(row, [0.0] * len(row), setting):
        if zone.opportunity:
            found.append((set(zone.pool | zone.locked), set(zone.locked)))
        else:
            stay = set(oracle.native(row, setting.top_k))
            found.append((stay, stay))
    return found
