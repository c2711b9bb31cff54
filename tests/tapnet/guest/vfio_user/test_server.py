"""The socket of a card: who may have its path, what becomes of it, what outlives a session."""

from __future__ import annotations

import errno
import os
import socket
import time
from pathlib import Path
from unittest import mock

import pytest

from nic_models import models
from tapnet.guest.vfio_user import wire
from tapnet.guest.vfio_user.server import ServeError, VfioUserServer, isa_function
from tests.tapnet.vfio_kit import Rig, descriptors, fake, version

MAC = b"\x52\x54\0\x12\x34\x56"


def serve(rig: Rig, path: Path) -> VfioUserServer:
    return VfioUserServer(rig.loop, str(path), fake()[0], time.monotonic_ns)


@pytest.fixture
def rig(tmp_path: Path):
    made = Rig(tmp_path)
    yield made
    made.close()


def test_only_its_owner_may_connect(rig: Rig) -> None:
    assert rig.path.stat().st_mode & 0o777 == 0o600


def test_a_path_in_use_is_refused(rig: Rig) -> None:
    with pytest.raises(ServeError, match=r"vfio-user=.*somebody listens there already"):
        serve(rig, rig.path)
    rig.client().call(wire.GET_INFO, bytes(16))


def test_a_stale_socket_is_replaced(rig: Rig, tmp_path: Path) -> None:
    path = tmp_path / "stale.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    serve(rig, path).close()
    assert not path.exists()


@pytest.mark.parametrize("what", ["file", "folder"])
def test_what_is_no_socket_is_left_alone(rig: Rig, tmp_path: Path, what: str) -> None:
    path = tmp_path / "other"
    path.write_text("mine") if what == "file" else path.mkdir()
    with pytest.raises(ServeError, match="vfio-user="):
        serve(rig, path)
    assert path.exists()


def test_paths_that_cannot_be(rig: Rig, tmp_path: Path) -> None:
    for path in (tmp_path / "no" / "folder.sock", tmp_path / ("long" * 50)):
        with pytest.raises(ServeError, match="vfio-user="):
            serve(rig, path)


def test_close_removes_only_its_own_socket(rig: Rig, tmp_path: Path) -> None:
    path = tmp_path / "b.sock"
    server = serve(rig, path)
    path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        server.close()
        server.close()
        assert path.exists()


def test_close_ends_the_client(rig: Rig) -> None:
    client = rig.client()
    rig.server.close()
    assert client.ended() and not rig.path.exists()


def test_close_refuses_who_waits_in_order(rig: Rig) -> None:
    """A socket closed over a VERSION that waits makes QEMU abort, and with it a running VM that was to get the card."""
    first = rig.client()
    waiting = [rig.client(greet=False, session=False) for _ in range(3)]
    before = descriptors()
    null = os.open("/dev/null", os.O_RDONLY)
    waiting[0].send(waiting[0].message(wire.VERSION, version()))
    waiting[1].send(waiting[1].message(wire.VERSION, version()), [null])
    waiting[1].send(waiting[1].message(wire.GET_INFO, bytes(16)))
    waiting[2].send(b"\xff" * 100)
    os.close(null)
    rig.server.close()
    assert first.ended() and waiting[2].ended()
    for client, asked in ((waiting[0], (wire.VERSION,)), (waiting[1], (wire.VERSION, wire.GET_INFO))):
        for command in asked:
            _, answered, flags, error, _ = client.get()
            assert (answered, flags, error) == (command, wire.REPLY | wire.ERROR, errno.ESHUTDOWN)
        assert client.ended()
    assert descriptors() == before - 2  # the session's and the listener


def test_without_descriptors_the_next_client_waits(rig: Rig) -> None:
    with mock.patch.object(rig.server, "_socket", wraps=rig.server._socket) as listening:
        listening.accept.side_effect = OSError(errno.EMFILE, "Too many open files")
        client = rig.client(greet=False, session=False)
        rig.until(lambda: listening.accept.called)
        for _ in range(100):
            rig.turn()
        assert listening.accept.call_count == 1
    client.call(wire.VERSION, version())  # a second later
    assert rig.server.sessions == 1


def test_the_cable_outlives_a_client(tmp_path: Path) -> None:
    function = models.pci_function(
        "rtl8139", MAC, lambda frame, vnet=b"": True, lambda: None, time.monotonic_ns
    )
    rig = Rig(tmp_path, function)
    bmsr, link = 0x64, 0x04
    rig.server.set_link(False)
    for _ in range(2):
        client = rig.client()
        assert not client.read(0, bmsr, 2)[0] & link
        client.close()
    rig.server.set_link(True)
    client = rig.client()
    rig.until(lambda: client.read(0, bmsr, 2)[0] & link)
    rig.close()


def test_an_eeprom_that_a_client_wrote_is_gone_with_it(tmp_path: Path) -> None:
    """The subsystem ids in it, too: the next client has the card of the first."""
    function = models.pci_function(
        "rtl8139", MAC, lambda frame, vnet=b"": True, lambda: None, time.monotonic_ns
    )
    rig = Rig(tmp_path, function)
    config = rig.client().read(wire.CONFIG_REGION, 0, 64)
    eeprom = function.card.config.eeprom
    eeprom.words[:10] = range(0x1111, 0x111B)
    eeprom.words[0] = 0x8129
    rig.clients[0].call(wire.RESET)
    assert rig.clients[0].read(wire.CONFIG_REGION, 0, 64) != config
    rig.clients[0].close()
    client = rig.client()
    assert client.read(wire.CONFIG_REGION, 0, 64) == config
    assert client.read(0, 0, 4) == MAC[:4]
    rig.close()


def test_frames_without_a_client_are_taken_and_lost(tmp_path: Path) -> None:
    """A hub whose VM is away does not fill up."""
    for model in ("ne2k_pci", "rtl8139", "pcnet"):
        folder = tmp_path / model
        folder.mkdir()
        function = models.pci_function(
            model, MAC, lambda frame, vnet=b"": True, lambda: None, time.monotonic_ns
        )
        rig = Rig(folder, function)
        for _ in range(3):
            assert all(rig.server.receive(b"\xff" * 60) for _ in range(1000))
            rig.client().close()
            rig.until(lambda rig=rig: rig.server.session is None)
        rig.close()


def test_the_isa_card_is_a_bare_function(tmp_path: Path) -> None:
    function = isa_function("ne2k_isa", MAC, lambda frame, vnet=b"": True, lambda: None, time.monotonic_ns)
    rig = Rig(tmp_path, function)
    client = rig.client()
    config = client.read(wire.CONFIG_REGION, 0, 64)
    assert config[9:12] == b"\0\0\xff" and config[0x3D] == 1 and config[0x10] & 1
    sizes = [
        wire.REGION_INFO.unpack(
            client.call(wire.GET_REGION_INFO, wire.REGION_INFO.pack(32, 0, index, 0, 0, 0))
        )[4]
        for index in range(2)
    ]
    assert sizes == [32, 0]
    assert client.read(0, 0, 1) == b"\x21"  # CR: stopped, remote DMA aborted
    rig.close()
