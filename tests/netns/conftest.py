"""Namespace tests need root; the machine that runs them has it (make test), others skip by name."""

from __future__ import annotations

import os

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/netns" in str(item.path):
            item.add_marker(pytest.mark.root)
            if os.geteuid() != 0:
                item.add_marker(pytest.mark.skip(reason="namespace tests run as root"))


@pytest.fixture(params=["tap/asyncio", "veth/asyncio", "tap/uvloop", "veth/uvloop"])
def kind(request: pytest.FixtureRequest) -> str:
    """Both ways of making a guest's interface, on both loops."""
    return str(request.param)
