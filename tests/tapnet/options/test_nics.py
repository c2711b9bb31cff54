"""Defaults of cards: models, slots, ports, lines, MACs, interface names, names."""

import pytest

from tapnet.errors import OptionError
from tapnet.options.parse import parse


def cards(*values, command="run", machine="pc"):
    """The NICs of several -net nic options."""
    argv = ["-M", machine]
    for value in values:
        argv += ["-net", f"nic{',' if value else ''}{value}"]
    return parse(argv, command).nics


def column(name, *values, **kwargs):
    return [getattr(nic, name) for nic in cards(*values, **kwargs)]


def test_default_model_follows_the_machine():
    assert column("model", "", "model=pcnet") == ["ne2k_pci", "pcnet"]
    assert column("model", "", machine="isapc") == ["ne2k_isa"]
    assert column("model", "model=ne2k_isa", "model=ne2k_pci") == ["ne2k_isa", "ne2k_pci"]


def test_slots_count_up_from_three_round_the_given_ones():
    assert column("slot", "", "addr=4", "", "model=ne2k_isa", "addr=0x3") == [5, 4, 6, None, 3]
    assert column("slot", "model=rtl8139,vfio-user=/s", "") == [None, 3]


def test_slots_run_out():
    assert len(cards(*[""] * 29)) == 29
    with pytest.raises(OptionError, match="no PCI slot is left"):
        cards(*[""] * 30)


def test_isa_settings_are_the_next_free_ones():
    isa = "model=ne2k_isa"
    assert column("iobase", isa, f"{isa},iobase=0x300", isa) == [0x320, 0x300, 0x340]
    assert column("irq", isa, f"{isa},irq=9", isa) == [10, 9, 11]
    assert cards("", machine="isapc")[0].iobase == 0x300
    assert cards("", machine="isapc")[0].irq == 9
    assert column("iobase", isa, "", f"{isa},vfio-user=/s") == [0x300, None, None]
    with pytest.raises(OptionError, match="no default I/O base is left: give iobase="):
        cards(*[isa] * 7)


def macs(*values):
    return [mac.hex(":") for mac in column("mac", *values)]


def test_macs_count_up_round_the_given_ones():
    assert macs("", "", "") == [f"52:54:00:12:34:{n}" for n in (56, 57, 58)]
    taken = "macaddr=52:54:00:12:34:57"
    assert [mac[-2:] for mac in macs("", taken, "")] == ["56", "57", "58"]
    assert macs("mac=02:00:00:00:00:56", "")[1] == "52:54:00:12:34:56"


def test_macs_run_out():
    argv = [word for n in range(170) for word in ("-net", f"nic,model=direct,netns=/n{n}")]
    assert parse(argv[: 2 * 169]).nics[-1].mac[-1] == 0xFE
    with pytest.raises(OptionError, match="no default MAC is left"):
        parse(argv)


def test_interfaces_count_up_for_each_namespace():
    assert column("ifname", "", "ifname=eth1", "", command="exec") == ["eth0", "eth1", "eth2"]
    assert column("ifname", "netns=/a", "netns=/b", "netns=/a,ifname=eth0", "netns=7") == [
        "eth1",
        "eth0",
        "eth0",
        "eth0",
    ]
    assert column("ifname", "", "netns=/a", command="exec") == ["eth0", "eth0"]
    assert column("ifname", "") == [None]


def test_dhcp_is_on_for_exec_and_off_for_a_namespace_of_others():
    assert column("dhcp", "", "dhcp=off", "netns=/a", "netns=/a,dhcp=on", command="exec") == [
        True,
        False,
        False,
        True,
    ]
    assert column("dhcp", "", "netns=/a") == [False, False]
    assert column("dhcp", "model=rtl8139,vfio-user=/s", command="exec") == [False]


def test_direct():
    nic = cards("model=direct,netns=4711,mtu=65520")[0]
    assert (nic.netns, nic.mtu, nic.slot, nic.iobase, nic.ifname) == (4711, 65520, None, None, "eth0")
    assert cards("model=direct", command="exec")[0].netns is None


def test_names():
    assert column("name", "", "model=pcnet", "", "id=x", "id=y,name=z") == [
        "ne2k_pci.0",
        "pcnet.0",
        "ne2k_pci.1",
        "x",
        "z",
    ]
    assert column("name", "", "name=ne2k_pci.0") == ["ne2k_pci.1", "ne2k_pci.0"]


def test_tx_delay():
    assert column(
        "tx_delay", "model=rtl8139,tx-delay=wire", "tx-delay=none", "", "vfio-user=/s,tx-delay=wire"
    ) == [
        True,
        False,
        False,
        True,
    ]


def test_revisions():
    assert column("rev", "model=rtl8139,rev=0x10", "model=rtl8139") == [0x10, None]
