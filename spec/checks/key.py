"""Chapter KEY, the schedule: what a secret expands to."""

import numpy as np
from hypothesis import strategies as st

from spec import oracle, strategies
from spec.cases import ProjectionCase
from spec.checks import check
from spec.subject import Subject
from spec.verdicts import Violation, require


def _matches(subject: Subject, case: ProjectionCase) -> None:
    got, expected = subject.projection(case), oracle.projection(case.secret, **case.arguments())
    if not np.array_equal(got, expected):
        raise Violation("the projection differs", expected=expected.tolist().__repr__(), got=got.tolist().__repr__())


@check("OKR-KEY-001", lambda: st.binary(max_size=15))
def short_secrets_are_refused(subject: Subject, secret: bytes) -> None:
    require(
        subject.refuses("projection", secret, stack="decoder", layer=0, hidden_size=4, num_experts=4),
        f"a secret of {len(secret)} bytes was accepted",
    )
    subject.projection(ProjectionCase(bytes(16)))


@check("OKR-KEY-002", lambda: strategies.projections(sizes=st.just(8)))
def stream_is_shake256_of_the_header(subject: Subject, case: ProjectionCase) -> None:
    _matches(subject, case)


@check("OKR-KEY-003", lambda: strategies.projections())
def layout_is_row_major_msb_first(subject: Subject, case: ProjectionCase) -> None:
    """Sorted by content first, so that a wrong layout shows as the same bits in other places."""
    _matches(subject, case)


@check("OKR-KEY-004", lambda: strategies.projections())
def entries_are_signs(subject: Subject, case: ProjectionCase) -> None:
    got = subject.projection(case)
    require(bool((np.abs(got) == 1).all()), "an entry is neither +1 nor -1", got=got.tolist())


@check("OKR-KEY-005", lambda: st.tuples(strategies.projections(sizes=st.just(12)), st.integers(0, 5)))
def every_field_separates(subject: Subject, drawn: tuple[ProjectionCase, int]) -> None:
    """Changing one field changes the matrix; moving a byte from one field to the next does too."""
    case, field = drawn
    other = {
        0: ProjectionCase(case.secret + b"\x00", case.stack, case.layer, 12, 12),
        1: ProjectionCase(case.secret, case.stack + "x", case.layer, 12, 12),
        2: ProjectionCase(case.secret, case.stack, case.layer ^ 1, 12, 12),
        3: ProjectionCase(case.secret, case.stack, case.layer ^ 256, 12, 12),
        4: ProjectionCase(case.secret, case.stack, case.layer, 12, 11),
        5: ProjectionCase(case.secret + case.stack[:1].encode(), case.stack[1:], case.layer, 12, 12),
    }[field]
    one, two = subject.projection(case), subject.projection(other)
    same = one.ravel()[:132].tolist() == two.ravel()[:132].tolist()
    require(not same, "two different sites or secrets have one projection", got=f"{case} and {other}")


@check("OKR-KEY-006", lambda: strategies.projections())
def expansion_is_repeatable(subject: Subject, case: ProjectionCase) -> None:
    require(
        np.array_equal(subject.projection(case), subject.projection(case)), "a second call gave another projection"
    )
