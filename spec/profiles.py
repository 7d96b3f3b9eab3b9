"""How hard the suite looks: smoke in seconds, ci in minutes and always the same cases, thorough at leisure."""

from dataclasses import dataclass

from hypothesis import HealthCheck, Phase, Verbosity, settings
from hypothesis.internal.conjecture import providers
from hypothesis.internal.constants_ast import Constants

# Hypothesis also draws constants that it finds in whatever local modules happen to be imported, so that one seed gives
# other cases in another process. The suite's cases must depend on the suite alone.
_NO_CONSTANTS = Constants()
providers._get_local_constants = lambda: _NO_CONSTANTS
providers.CONSTANTS_CACHE.cache.clear()


@dataclass(frozen=True)
class Profile:
    """``cases`` per check; ``random``: new cases each run."""

    name: str
    cases: int
    random: bool = False
    shrink: bool = True

    def settings(self, share: float = 1.0) -> settings:
        """For one check. Nothing depends on the clock or on earlier runs, so equal runs give equal reports."""
        phases = [Phase.generate, Phase.shrink] if self.shrink else [Phase.generate]
        return settings(
            max_examples=max(1, int(self.cases * share)),
            derandomize=not self.random,
            database=None,
            deadline=None,
            phases=phases,
            print_blob=False,
            report_multiple_bugs=False,
            verbosity=Verbosity.quiet,
            suppress_health_check=list(HealthCheck),
        )


PROFILES = {
    profile.name: profile
    for profile in (Profile("smoke", 12), Profile("ci", 150), Profile("thorough", 3000, random=True))
}
