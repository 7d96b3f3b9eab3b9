"""Implementations that misbehave as programs, not as routers."""

import os
import time

import numpy as np

from okr.spec.implementations.numpy_router import NumpyRouter


class Hangs(NumpyRouter):
    """Never answers where a score is NaN."""

    def sound(self, c, top_k):
        while np.isnan(c).any():
            time.monotonic()
        return super().sound(c, top_k)


class HangsAtOnce(NumpyRouter):
    def zone(self, c, top_k, epsilon, zone):
        while True:
            time.monotonic()


class Crashes(NumpyRouter):
    def sound(self, c, top_k):
        if np.isnan(c).any():
            raise RuntimeError("no NaN please")
        return super().sound(c, top_k)


class EndsTheProcess(NumpyRouter):
    """Where a score is NaN."""

    def sound(self, c, top_k):
        if np.isnan(c).any():
            os._exit(5)
        return super().sound(c, top_k)


class CrashesAtOnce(NumpyRouter):
    def zone(self, c, top_k, epsilon, zone):
        raise RuntimeError("not today")


class WrongShape(NumpyRouter):
    def sound(self, c, top_k):
        self.nan = np.isnan(c).any()
        return super().sound(c, top_k)

    def select(self, choice, key_scores, **setting):
        answer = super().select(choice, key_scores, **setting)
        return answer._replace(indices=answer.indices[:, :0]) if self.nan else answer


class WrongDtype(WrongShape):
    def select(self, choice, key_scores, **setting):
        answer = NumpyRouter.select(self, choice, key_scores, **setting)
        return answer._replace(indices=answer.indices.astype(float)) if self.nan else answer


class Mutates(NumpyRouter):
    def select(self, choice, key_scores, **setting):
        answer = super().select(choice, key_scores, **setting)
        if np.isnan(choice).any():
            choice[:] = 0
        return answer


class Quits(NumpyRouter):
    """Ends the process where a score is NaN: with exit status 0 if it could."""

    def sound(self, c, top_k):
        if np.isnan(c).any():
            raise SystemExit(0)
        return super().sound(c, top_k)


class Speechless(NumpyRouter):
    def sound(self, c, top_k):
        class Error(BaseException):
            def __str__(self):
                raise ValueError

        if np.isnan(c).any():
            raise Error
        return super().sound(c, top_k)


class Lazy(NumpyRouter):
    def select(self, choice, key_scores, **setting):
        class Answer:
            @property
            def indices(self):
                raise RuntimeError("not computed after all")

        return Answer() if np.isnan(choice).any() else super().select(choice, key_scores, **setting)


class Unmakable:
    def __init__(self):
        raise RuntimeError("no licence")


class Nameless(NumpyRouter):
    @property
    def name(self):
        raise RuntimeError("no name")


class OnlySelect:
    name = "only select"
    select = NumpyRouter().select


class Nothing:
    """Has no function at all."""
