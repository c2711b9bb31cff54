"""The human monitor: words in, words out; with ``Control`` behind it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapnet import __version__
from tapnet.backends.user.report import FlowRow
from tapnet.monitor.commands.control import Control
from tapnet.monitor.commands.general import INFO
from tapnet.monitor.hmp import WORDS, Hmp, Reply
from tests.tapnet.monitor.kit import FakeInstance, seed_instance


@pytest.fixture
def lab() -> tuple[object, FakeInstance, Hmp]:
    loop, instance = seed_instance()
    return loop, instance, Hmp(Control(instance))


def test_info_network_in_the_seeds_words_and_order(lab) -> None:
    assert lab[2].execute("info network").text == (
        "VLAN 0 devices:\n"
        "  user redirector\n"
        "  tap: ifname=tap0 setup_script=/etc/qemu-ifup\n"
        "  ne2000 pci macaddr=52:54:00:12:34:56\n"
        "VLAN 1 devices:\n"
        "  ne2000 macaddr=52:54:00:12:34:57\n"
        "  socket: connection from 127.0.0.1:1472\n"
        "Devices not on any VLAN:\n"
        "  rtl8139 pci macaddr=52:54:00:12:34:58\n"
        "   \\ tap: fd=5\n"
    )


def test_info_network_v_shows_links_and_counters(lab) -> None:
    loop, instance, hmp = lab
    nic, nat = instance.vlans[0][0].port, instance.vlans[0][1].port
    nic.send(bytes(60))
    nat.send(bytes(100))
    loop.run()
    nat.counters.drop("malformed", 3)
    nat.set_link(False)
    lines = hmp.execute("info network -v").text.splitlines()
    assert lines[:7] == [
        "VLAN 0 devices:",
        "  user redirector",
        "    user.0: link down, sent 1 frames 100 bytes, received 1 frames 60 bytes,"
        " queue 0 (highest 1), dropped malformed=3",
        "    user.0: peers ne2k_pci.0, tap.0",
        "  tap: ifname=tap0 setup_script=/etc/qemu-ifup",
        "    tap.0: link up, sent 0 frames 0 bytes, received 2 frames 160 bytes, queue 0 (highest 2),"
        " dropped 0",
        "    tap.0: peers ne2k_pci.0, user.0",
    ]
    assert "  socket.0: no connection" in lines


def test_info_ports_lists_names(lab) -> None:
    lab[2].execute("set_link t1 off")
    lines = lab[2].execute("info ports").text.splitlines()
    assert [line.split()[:4] for line in lines] == [
        ["NAME", "KIND", "VLAN", "LINK"],
        ["user.0", "backend", "0", "up"],
        ["tap.0", "backend", "0", "up"],
        ["ne2k_pci.0", "nic", "0", "up"],
        ["socket.0", "backend", "1", "-"],
        ["ne2k_isa.0", "nic", "1", "up"],
        ["c0", "accepted", "1", "up"],
        ["t1", "backend", "-", "down"],
        ["rtl8139.0", "nic", "-", "down"],
    ]


def test_info_usernet_is_libslirps_table_with_idle_times(lab) -> None:
    _, instance, hmp = lab
    instance.usernets[0].flows = [
        FlowRow("TCP", "ESTABLISHED", 13, "10.0.2.15", 40000, "192.0.2.7", 80, 10, 1460, 0.4),
        FlowRow("UDP", "236 sec", 14, "10.0.2.15", 5353, "10.0.2.3", 53, 0, 0, 3.6),
        FlowRow("TCP", "HOST_FORWARD", -1, "*", 5555, "10.0.2.15", 23, 0, 0, 0),
        FlowRow("ICMP", "9 sec", 15, "fec0::5054:ff:fe12:3456", 7, "2001:db8::1", 0, 0, 0, 1000),
    ]
    text = hmp.execute("info usernet").text
    lines = text.splitlines()
    assert lines[0] == "VLAN 0 (user.0):"
    assert lines[6] == "VLAN -1 (u1):"
    assert (
        lines[7] == "  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ   Idle"
    )
    assert len(lines) == 8
    assert len({len(line) for line in lines[1:6]}) == 1, "columns line up"
    assert [line.split() for line in lines[2:6]] == [
        ["TCP[ESTABLISHED]", "13", "10.0.2.15", "40000", "192.0.2.7", "80", "10", "1460", "0s"],
        ["UDP[236", "sec]", "14", "10.0.2.15", "5353", "10.0.2.3", "53", "0", "0", "4s"],
        ["TCP[HOST_FORWARD]", "*", "5555", "10.0.2.15", "23", "0", "0", "0s"],
        ["ICMP[9", "sec]", "15", "fec0::5054:ff:fe12:3456", "7", "2001:db8::1", "0", "0", "0", "1000s"],
    ]


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("", ""),
        ("   ", ""),
        ("info status", "VM status: running\n"),
        ("info version", f"{__version__}\n"),
        ("info name", "lab\n"),
        ("info instance", "name: lab\npid: 4711\nvlans: 0,1\nmode: -\n"),
        ("info vlans", "VLAN 0: 3 devices\nVLAN 1: 3 devices\n"),
        ("help quit", "quit|q  -- end this instance\n"),
        ("? set_link", "set_link name on|off -- plug or pull the cable of a NIC or backend\n"),
        ("help info network", "info network [-v] -- show the VLANs (-v: with link state and counters)\n"),
        ("set_link tap.0 off", ""),
    ],
)
def test_answers(lab, line: str, text: str) -> None:
    assert lab[2].execute(line) == Reply(text, True, False)


SET_LINK_HINT = 'Try "help set_link" for more information\n'
INFO_HINT = 'Try "help info" for more information\n'


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("bogus", "unknown command: 'bogus'\n"),
        ("info bogus", "unknown command: 'info bogus'\n"),
        ("help bogus", "unknown command: 'bogus'\n"),
        ("help info bogus", "unknown command: 'info bogus'\n"),
        ("set_link nope on", "Error: Device 'nope' not found\n"),
        ("set_link socket.0 on", "Error: Device 'socket.0' not found\n"),
        ("set_link", f"set_link: string expected\n{SET_LINK_HINT}"),
        ("set_link tap.0", f"Expected 'on' or 'off'\n{SET_LINK_HINT}"),
        ("set_link tap.0 maybe", f"Expected 'on' or 'off'\n{SET_LINK_HINT}"),
        ("set_link tap.0 on on", f"set_link: extraneous characters at the end of line\n{SET_LINK_HINT}"),
        ("info status now", f"info status: extraneous characters at the end of line\n{INFO_HINT}"),
        ("info network -x", f"info network: unsupported option -x\n{INFO_HINT}"),
        (
            "quit now",
            'quit: extraneous characters at the end of line\nTry "help quit" for more information\n',
        ),
        ("set_link 'tap.0", "no closing quotation\n"),
    ],
)
def test_errors_in_qemus_words(lab, line: str, text: str) -> None:
    assert lab[2].execute(line) == Reply(text, False, False)


def test_help_and_info_list_every_command(lab) -> None:
    hmp = lab[2]
    listed = [line.split()[0] for line in hmp.execute("help").text.splitlines()]
    assert listed == sorted(listed)
    assert {name for line in listed for name in line.split("|")} == set(WORDS)
    text = hmp.execute("info").text
    assert text == hmp.execute("help info").text
    infos = [line.split()[1] for line in text.splitlines()]
    assert {name for line in infos for name in line.split("|")} == set(INFO)
    assert {"set_link", "hostfwd_add", "netdev_add", "device_del", "host_net_remove", "quit"} <= set(WORDS)
    assert {"network", "usernet", "status", "version", "vlans", "cards", "qtree", "leases"} <= set(INFO)


@pytest.mark.parametrize("word", ["quit", "q"])
def test_quit_leaves_the_end_to_the_server(lab, word: str) -> None:
    assert lab[2].execute(word) == Reply("", True, True)
    assert lab[1].ended == 0


@pytest.mark.parametrize(("off", "on"), [("off", "on"), ("down", "up")])
def test_set_link(lab, off: str, on: str) -> None:
    _, instance, hmp = lab
    nic, nat = instance.vlans[0][0].port, instance.vlans[0][1].port
    hmp.execute(f"set_link user.0 {off}")
    assert (nat.link, nic.link) == (False, True), "on a VLAN the others keep theirs"
    hmp.execute(f"set_link user.0 {on}")
    assert nat.link


def test_set_link_on_a_private_wire_takes_the_nic_along(lab) -> None:
    _, instance, hmp = lab
    backend, nic = (device.port for device in instance.wires[0])
    hmp.execute("set_link t1 off")
    assert (backend.link, nic.link) == (False, False)
    hmp.execute("set_link t1 on")
    assert (backend.link, nic.link) == (True, True)
    hmp.execute("set_link rtl8139.0 off")
    assert (backend.link, nic.link) == (True, False)


@given(st.text(max_size=80))
def test_no_line_raises(line: str) -> None:
    _, instance = seed_instance()
    reply = Hmp(Control(instance)).execute(line)
    assert reply.text == "" or reply.text.endswith("\n")
    assert instance.ended == 0
