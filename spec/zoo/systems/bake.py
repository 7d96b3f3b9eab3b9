"""Bakers and inspectors that get one thing wrong."""

from importlib import import_module
from typing import Any

import numpy as np
import torch
from scipy.special import log_ndtr

import okr as package
from okr.routing import Key

from . import Change, broken

okr: Any = package
arithmetic: Any = import_module("okr.baking.arithmetic")
baking: Any = import_module("okr.baking.baking")
inspection: Any = import_module("okr.baking.inspection")


@broken(
    "the step rounded to the dtype of the weight before it is added",
    fails=("OKR-BAKE-001", "OKR-BAKE-004"),
    passes=("OKR-BAKE-003", "OKR-BAKE-005"),
)
def step_rounded_first(change: Change) -> None:
    def with_key(weight: Any, signs: Any, size: float) -> Any:
        return weight + (size * signs.t().float()).to(weight.dtype)

    change(arithmetic, "with_key", with_key)


@broken(
    "the norm left out",
    fails=("OKR-BAKE-001", "OKR-BAKE-002", "OKR-BAKE-004"),
    passes=("OKR-BAKE-003", "OKR-BAKE-005"),
)
def norm_left_out(change: Change) -> None:
    change(arithmetic, "step", lambda strength, norm: float(np.float32(strength)))


@broken(
    "the projection laid into the weight untransposed",
    fails=("OKR-BAKE-001",),
    passes=("OKR-BAKE-003", "OKR-BAKE-005"),
)
def untransposed(change: Change) -> None:
    right = arithmetic.with_key

    def with_key(weight: Any, signs: Any, size: float) -> Any:
        return right(weight, signs.reshape(signs.shape[::-1]).t(), size)

    change(arithmetic, "with_key", with_key)


@broken(
    "any number taken for a strength",
    fails=("OKR-BAKE-002",),
    passes=("OKR-BAKE-001", "OKR-BAKE-003"),
)
def any_strength(change: Change) -> None:
    def step(strength: float, norm: float) -> float:
        with np.errstate(all="ignore"):
            return float(np.float32(np.divide(strength, norm)))

    change(arithmetic, "step", step)


@broken(
    "one stream for all checkpoints of a key",
    fails=("OKR-BAKE-003",),
    passes=("OKR-BAKE-001", "OKR-BAKE-005"),
)
def one_stream(change: Change) -> None:
    stream = Key.stream
    change(Key, "stream", lambda key, label, count: stream(key, b"", count))


@broken(
    "the key added a second time in place of being taken out",
    fails=("OKR-BAKE-004",),
    passes=("OKR-BAKE-001", "OKR-BAKE-003"),
)
def added_twice(change: Change) -> None:
    change(arithmetic, "without_key", arithmetic.with_key)


@broken(
    "the weight itself in place of its polar factor",
    fails=("OKR-BAKE-005", "OKR-BAKE-006"),
    passes=("OKR-BAKE-001", "OKR-BAKE-003"),
)
def not_whitened(change: Change) -> None:
    def products(weight: Any, signs: Any) -> Any:
        unit = weight.double() / torch.linalg.matrix_norm(weight.double()).clamp_min(1e-300)
        return (unit @ torch.from_numpy(signs).double()).numpy(), 1

    change(inspection, "products", products)


@broken(
    "directions that a weight lacks counted",
    fails=("OKR-BAKE-005",),
    passes=("OKR-BAKE-001", "OKR-BAKE-003"),
)
def lacking_directions(change: Change) -> None:
    change(inspection, "LEAST_SIZE", 0.0)


@broken(
    "the z of the sites added as if each were the only one",
    fails=("OKR-BAKE-005",),
    passes=("OKR-BAKE-001", "OKR-BAKE-003"),
)
def sites_added(change: Change) -> None:
    evidence = inspection.evidence

    def added(tables: Any, ranks: Any) -> Any:
        return evidence(tables, [1] + [0] * (len(ranks) - 1))

    change(inspection, "evidence", added)


@broken(
    "the best order taken as if it had been the only one",
    fails=("OKR-BAKE-006",),
    passes=("OKR-BAKE-001", "OKR-BAKE-003"),
)
def orders_not_counted(change: Change) -> None:
    change(inspection, "gammaln", lambda number: 0.0)


@broken(
    "the normal tail without the constant of the bound",
    fails=("OKR-BAKE-006",),
    passes=("OKR-BAKE-001", "OKR-BAKE-003"),
)
def bare_tail(change: Change) -> None:
    change(inspection, "log_sign_sum_p", lambda z: float(log_ndtr(-z)))


@broken(
    "the columns of the projection left in their order, whatever the order of the experts",
    fails=("OKR-BAKE-007",),
    passes=("OKR-BAKE-001", "OKR-BAKE-005", "OKR-BAKE-006"),
)
def columns_left(change: Change) -> None:
    beyond = inspection.beyond

    def in_place(weight: Any, original: Any) -> Any:
        rest, order = beyond(weight, original)
        return rest, np.arange(len(order))

    change(inspection, "beyond", in_place)


@broken(
    "the original not subtracted",
    fails=("OKR-BAKE-007",),
    passes=("OKR-BAKE-001", "OKR-BAKE-005", "OKR-BAKE-006"),
)
def original_kept(change: Change) -> None:
    beyond = inspection.beyond
    change(inspection, "beyond", lambda weight, original: (weight.double(), beyond(weight, original)[1]))


@broken(
    "originals restored whatever the tag says",
    fails=("OKR-BAKE-003",),
    passes=("OKR-BAKE-001", "OKR-BAKE-004", "OKR-BAKE-005"),
)
def tag_not_looked_at(change: Change) -> None:
    class Trusting(str):
        def __ne__(self, other: object) -> bool:
            return False

        __hash__ = str.__hash__

    class Tag(bytes):
        def hex(self, *arguments: Any) -> str:
            return Trusting(super().hex(*arguments))

    tag = Key.tag
    change(Key, "tag", lambda self, content: Tag(tag(self, content)))


@broken(
    "gates of any shape inspected",
    fails=("OKR-BAKE-005",),
    passes=("OKR-BAKE-001", "OKR-BAKE-003", "OKR-BAKE-006", "OKR-BAKE-007"),
)
def any_shape_inspected(change: Change) -> None:
    change(inspection, "_weight", lambda checkpoint, gate, whole=False: checkpoint.tensor(gate.tensor))
