"""Tests of texts in stages: okr.detect's own decision, never more often right than it may be."""

import pytest

import okr
from okr.routing import Setting
from okr.suites.samples import Bench, Made
from okr.suites.text_tests import okr_p, staged

SETTING = Setting(float("inf"), "boundary", 3.0)


@pytest.mark.parametrize("seed", range(4))
def test_one_stage_asks_what_detect_answers(bench: Bench, seed: int) -> None:
    tokens = tuple(range(3 + seed, 60 + seed))
    made = Made(tokens, 5)
    p = okr_p(bench.engine, made, bench.key(seed), SETTING, lengths=[99], decoys=9, temperature=1.0, stages=(9,))
    verdict = okr.detect(
        bench.loaded.model, list(tokens), bench.key(seed), epsilon=float("inf"), zone="boundary", strength=3.0,
        prompt_length=5, decoys=9, alpha=0.1,
    )  # fmt: skip
    assert (p[0] == pytest.approx(0.1)) == (verdict.p_value == pytest.approx(0.1))


def test_a_text_is_given_up_with_the_level_of_the_last_stage_it_passed(bench: Bench) -> None:
    """Keyed greedily chosen text passes; p is one of the levels of the stages, whatever the text."""
    found = set()
    for seed in range(6):
        made = Made(tuple(range(10 * seed + 3, 10 * seed + 33)), 1)
        found |= set(
            okr_p(bench.engine, made, bench.key(seed), SETTING, lengths=[5, 29], decoys=9, temperature=1.0,
                  stages=(1, 3, 9))
        )  # fmt: skip
    assert found <= {1.0, 1 / 2, 1 / 4, 1 / 10}
    assert len(found) > 1


def test_stages_end_with_all_decoys() -> None:
    assert staged(999) == (9, 19, 49, 99, 199, 499, 999)
    assert staged(99) == (9, 19, 49, 99)
    assert staged(19) == (9, 19)
