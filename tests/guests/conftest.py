"""Guests need root (chroot, debootstrap). The kit builds itself at first use: that alone may take minutes."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.guests import vm

KIT_S = 900  # the first test may build the kit


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/guests" in str(item.path):
            item.add_marker(pytest.mark.root)
            item.add_marker(pytest.mark.timeout(KIT_S))
            if os.geteuid() != 0:
                item.add_marker(pytest.mark.skip(reason="VMs need root: their QEMU runs by chroot"))


@pytest.fixture(scope="session")
def host() -> Iterator[vm.Host]:
    """The servers that guests talk to."""
    made = vm.Host()
    yield made
    made.close()


@pytest.fixture(scope="module")
def lab() -> Iterator[vm.Lab]:
    """A folder that tapnet and QEMU share, emptied of processes at the end."""
    with vm.lab() as made:
        yield made
