"""For all tests: hypothesis judges what a program does, never how fast this machine is."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("tapnet", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tapnet")
