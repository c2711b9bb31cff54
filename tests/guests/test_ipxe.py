"""Network boot: iPXE's own drivers, an independent family, from Debian's option ROMs (``romfile=`` of QEMU).

Debian 13's pxe-ne2k_pci.rom names no PCI device (ids 0000:0000), so no BIOS starts it, on QEMU's own card neither;
here it gets the ids of the RTL8029, and its checksum again.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

from tests.guests import vm

KIB = 1 << 10
CARDS = (  # model, PCI ids, bytes to fetch, how the ROM gets its script
    ("ne2k_pci", (0x10EC, 0x8029), 64 * KIB, "tftp"),
    ("rtl8139", (0x10EC, 0x8139), 1024 * KIB, "http"),
    ("pcnet", (0x1022, 0x2000), 1024 * KIB, "tftp"),
)
PCIR, IDS = 0x18, 4  # pointer to the PCI data structure; vendor and device in it (PCI Firmware 3.0, 5.1)
LENGTH, SPARE = 2, 6  # of the header: 512-byte units; iPXE's byte that makes the sum 0


def option_rom(lab: vm.Lab, model: str, ids: tuple[int, int]) -> str:
    """Debian's ROM for the card; its name in the lab, QEMU's side."""
    rom = bytearray((lab.root / f"usr/share/qemu/pxe-{model}.rom").read_bytes())
    at = struct.unpack_from("<H", rom, PCIR)[0] + IDS
    struct.pack_into("<HH", rom, at, *ids)
    rom[SPARE] = (rom[SPARE] - sum(rom[: rom[LENGTH] * 512])) & 0xFF
    (lab.folder / "rom").write_bytes(rom)
    return f"{lab.inside}/rom"


@pytest.mark.parametrize(("model", "ids", "size", "scheme"), CARDS, ids=[card[0] for card in CARDS])
def test_dhcp_then_tftp_and_http(
    host: vm.Host, tmp_path: Path, model: str, ids: tuple[int, int], size: int, scheme: str
) -> None:
    """The ROM asks DHCP, fetches the script that DHCP names, the script fetches a file by TFTP and by HTTP."""
    sources = {"tftp": f"tftp://10.0.2.2/{size}", "http": f"http://10.0.2.2:{host.port}/{size}"}
    fetches = "".join(f"imgfetch --name {name} {url} || echo FAILED\n" for name, url in sources.items())
    script = f"""#!ipxe
echo SCRIPT ${{net0/mac}} ${{net0/ip}} ${{net0/gateway}} ${{net0/dns}} .
{fetches}imgstat
echo DONE
"""
    host.pages["boot.ipxe"] = script.encode()
    (tmp_path / "boot.ipxe").write_text(script)
    (tmp_path / str(size)).write_bytes(host.content[:size])
    bootfile = {"tftp": "boot.ipxe", "http": f"http://10.0.2.2:{host.port}/boot.ipxe"}[scheme]
    with vm.lab() as lab:
        lab.tapnet(
            *("-net", f"nic,model={model},vfio-user=card.sock"),
            *("-net", f"user,tftp={tmp_path},bootfile={bootfile}"),
        )
        device = vm.vfio(f"{lab.inside}/card.sock", romfile=option_rom(lab, model, ids), bootindex=1)
        one = lab.vm(device, kernel=None, ready=None, extra=("-machine", "graphics=off"))
        said = one.expect(r"SCRIPT (\S+) (\S+) (\S+) (\S+) \.", 120)
        assert said.groups() == ("52:54:00:12:34:56", "10.0.2.15", "10.0.2.2", "10.0.2.3")
        fetched = one.expect(r"tftp\s*:\s*(\d+) bytes.*?http\s*:\s*(\d+) bytes.*?DONE", 240)
        assert [int(n) for n in fetched.groups()] == [size, size]
        assert not re.search("FAILED", one.console())
        assert str(size) in host.served
