"""For all tests: hypothesis judges what a program does, never how fast this machine is; what a test starts does not
inherit how the tests were started, nor what their caller has set (``surroundings``).
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings

from tests import surroundings

settings.register_profile("tapnet", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile(
    "quick", deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=15
)  # make unit
settings.load_profile("tapnet")
surroundings.settle()
