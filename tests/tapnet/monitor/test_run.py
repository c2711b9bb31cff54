"""Monitors of a real process: the public QMP client plugs cards in under a register-level client; a terminal; the end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pty
import select
import signal
import subprocess
import sys
import termios
from pathlib import Path

from qemu.qmp import ExecuteError, QMPClient

from tests.oracle.qtest_client import QtestClient
from tests.oracle.qtest_script import IO, LINE, SLOT, Ne2000, arp_request
from tests.tapnet.guest.qtest.test_run import Running
from tests.waiting import BOUND_S


def answered(client: QtestClient) -> bool:
    """Whether the NAT answers a driver's ARP request through the card in ``SLOT``."""
    client.set_config(SLOT, 0x10, IO)
    client.set_config(SLOT, 0x04, 1, 2)
    nic = Ne2000(client, IO, LINE)
    nic.start()
    nic.send(arp_request())
    client.command("settle")
    return bool(nic.inb(7) & 1)


def test_cards_and_nets_by_the_public_client(tmp_path: Path) -> None:
    async def scene() -> None:
        qmp = QMPClient("test")
        await connected(qmp, f"{tmp_path}/qmp")
        bus = await asyncio.to_thread(QtestClient.unix, f"{tmp_path}/bus")
        assert bus.config(SLOT, 0) == 0xFFFFFFFF
        for _ in range(2):
            await qmp.execute("netdev_add", {"type": "user", "id": "n"})
            card = {"driver": "ne2k_pci", "netdev": "n", "id": "hot", "addr": f"{SLOT:x}"}
            await qmp.execute("device_add", card)
            assert await asyncio.to_thread(answered, bus)
            (row,) = await qmp.execute("query-rx-filter")
            assert row["x-tapnet-receiving"] and row["name"] == "hot"
            (row,) = [r for r in await qmp.execute("x-tapnet-ports") if r["name"] == "hot"]
            assert row["tx-frames"] == 1 and row["rx-frames"] >= 1
            await qmp.execute("netdev_del", {"id": "n"})
            assert not await asyncio.to_thread(answered, bus), "the cable is out"
            with qmp.listener("DEVICE_DELETED") as events:
                await qmp.execute("device_del", {"id": "hot"})
                assert (await events.get())["data"]["device"] == "hot"
            assert bus.config(SLOT, 0) == 0xFFFFFFFF and bus.inb(IO) == 0xFF
        with contextlib.suppress(ExecuteError):
            await qmp.execute("device_del", {"id": "hot"})
            raise AssertionError("it is gone")
        bus.close()
        with qmp.listener("SHUTDOWN") as events:
            os.kill(running.process.pid, signal.SIGTERM)
            assert (await events.get())["data"] == {"guest": False, "reason": "host-signal"}
        with contextlib.suppress(EOFError):
            await qmp.disconnect()

    async def bounded() -> None:
        async with asyncio.timeout(BOUND_S):
            await scene()

    with Running(
        "-net", "none", "-qtest", f"unix:{tmp_path}/bus,server=on,wait=off",
        "-qmp", f"unix:{tmp_path}/qmp,server=on,wait=off",
    ) as running:  # fmt: skip
        asyncio.run(bounded())
        assert running.process.wait(BOUND_S) == 0
        assert "Traceback" not in running.process.stderr.read()
    assert list(tmp_path.iterdir()) == []


async def connected(qmp: QMPClient, path: str) -> None:
    """Connect to a process that may still be starting."""
    while not os.path.exists(path):
        await asyncio.sleep(0.02)
    await qmp.connect(path)


def test_a_person_at_a_terminal(tmp_path: Path) -> None:
    """-monitor stdio: the tab key, the history, and the terminal's mode afterwards."""
    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    environment = {**os.environ, "TERM": "dumb", "XDG_STATE_HOME": str(tmp_path / "state")}
    with Running("-net", "nic", "-net", "user", "-monitor", "stdio",
                 stdin=theirs, stdout=theirs, env=environment) as running:  # fmt: skip
        seen = b""

        def until(text: bytes) -> None:
            nonlocal seen
            seen = b""
            while text not in seen:
                assert select.select([ours], [], [], BOUND_S)[0], seen
                seen += os.read(ours, 4096)

        until(b"(tapnet) ")
        os.write(ours, b"info sta\t\n")
        until(b"VM status: running\r\n(tapnet) ")
        os.write(ours, b"set_link ne2\toff\n")
        until(b"off\r\n(tapnet) ")
        os.write(ours, b"\x10\x10\n")  # the line before the last
        until(b"VM status: running\r\n(tapnet) ")
        os.write(ours, b"info ports\n")
        until(b"down")
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(BOUND_S) == 0
    assert termios.tcgetattr(theirs) == before
    os.close(ours)
    os.close(theirs)


def test_history_is_kept_at_quit(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "dumb", "XDG_STATE_HOME": str(tmp_path / "state")}
    with Running("-net", "nic", "-net", "user", "-monitor", "stdio",
                 stdin=theirs, stdout=theirs, env=environment) as running:  # fmt: skip
        os.write(ours, b"info name\nquit\n")
        assert running.process.wait(BOUND_S) == 0
    os.close(ours)
    os.close(theirs)
    lines = (tmp_path / "state" / "tapnet" / "history").read_text().splitlines()
    assert lines[-2:] == ["info name", "quit"]


def test_the_way_over_a_pipe() -> None:
    played = subprocess.run(
        [sys.executable, "-m", "tapnet", "run", "-net", "nic", "-net", "user", "-monitor", "stdio"],
        input="netdev_add user,id=n\ninfo ports\nnetdev_del n\nquit\n",
        capture_output=True, text=True, timeout=BOUND_S,
    )  # fmt: skip
    assert played.returncode == 0
    assert "n           backend  -     up    user redirector" in played.stdout
