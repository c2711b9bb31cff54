"""From converted values to cards: what each model takes, and every default filled in.

``check`` looks at one card by itself; ``place`` gives a list of them their slots, ports, interrupt lines,
MACs, interface names and names, explicit ones first, so that a default never collides with a later option.

Ref: QEMU's defaults: MACs from 52:54:00:12:34:56, the first free one up to :FE; NE2000 ISA at 0x300 IRQ 9,
then other settings of its jumpers; the first PCI card in slot 3.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from ..config import MODELS, Nic
from ..errors import OptionError
from ..text import nearest, shown
from . import tables as keys
from .given import Given

PCI_MODELS = ("ne2k_pci", "rtl8139", "pcnet")
CARD_MTU = 1500
MAC_PREFIX = bytes.fromhex("5254001234")
MAC_FIRST, MAC_LAST = 0x56, 0xFE
FIRST_SLOT, LAST_SLOT = 3, 31
ISA_PORTS = (0x300, 0x320, 0x340, 0x360, 0x280, 0x380)
ISA_IRQS = (9, 10, 11, 3, 4, 5)
ISA_SPAN = 0x20
IRQS = (3, 4, 5, 6, 7, 9, 10, 11, 12, 14, 15)
BUS_PORTS = ((0x4D0, 2), (0xCF8, 8))  # of the machine itself: ELCR, PCI configuration
REVISIONS = (0x10, 0x20)


@dataclass(slots=True)
class Card:
    """One card while its defaults are being filled in."""

    given: Given
    vlan: int | None
    netdev: str | None
    model: str = ""

    def get(self, key: str) -> Any:
        """The value of ``key`` or None."""
        return self.given.values.get(key)


def known_model(origin: str, model: str) -> None:
    """Refuse an unknown model, with a hint. Raises OptionError."""
    if model in keys.MODEL_HELP:
        return
    if model in keys.MODEL_HINTS:
        raise OptionError(f"{origin}: unknown model {shown(model)} (it is spelt {keys.MODEL_HINTS[model]})")
    near = nearest(model, MODELS, 0.75) or f" (known: {' '.join(MODELS)})"
    raise OptionError(f"{origin}: unknown model {shown(model)}{near}")


def check_model(given: Given) -> None:
    """Checks that need nothing but the option itself."""
    model = given.get("model")
    if model is None:
        return
    known_model(given.origin, model)
    if model in keys.LATER_MODELS:
        given.unbuilt.append(f"{given.origin}: model={model} is not built yet")


def check(card: Card, machine: str, command: str) -> None:
    """Settle the model of one card and check its keys. Raises OptionError."""
    given = card.given
    model = given.get("model") or ("ne2k_isa" if machine == "isapc" else "ne2k_pci")
    card.model = model
    in_guest = command == "exec" or "netns" in given.values
    if model in PCI_MODELS and machine == "isapc":
        raise given.error(f"model={model} is a PCI card, -M isapc has ISA slots only (use model=ne2k_isa)")
    for key in ("iobase", "irq"):
        if key in given.values and model != "ne2k_isa":
            raise given.error(f"{key}= goes with model=ne2k_isa, not with {model}")
        if key in given.values and "vfio-user" in given.values:
            raise given.error(f"{key}= means nothing behind vfio-user=: there the card is a PCI function")
    for key in ("addr",):
        if key in given.values and model not in PCI_MODELS:
            raise given.error(f"{key}= is a PCI slot; {model} is no PCI card")
        if key in given.values and "vfio-user" in given.values:
            raise given.error(f"{key}= means nothing behind vfio-user=: the VM gives the slot")
    bus = given.get("bus")
    if bus is not None and bus != ("pci.0" if model in PCI_MODELS else "isa.0"):
        raise given.error(f"bus={bus}: {model} does not go there")
    if "rev" in given.values and (model != "rtl8139" or given.get("rev") not in REVISIONS):
        raise given.error(f"rev={given.get('rev'):#x}: only model=rtl8139 has one, 0x10 or 0x20")
    if "tx-delay" in given.values and model == "direct":
        raise given.error("tx-delay= goes with an emulated card, not with model=direct")
    given.alone("netns", "vfio-user")
    if model == "direct":
        if "vfio-user" in given.values:
            raise given.error("model=direct is no card that vfio-user= could serve")
        if not in_guest:
            raise given.error("model=direct needs netns=PATH|PID (or tapnet exec)")
    for key in ("ifname", "mtu", "dhcp"):
        if key in given.values and (not in_guest or "vfio-user" in given.values):
            raise given.error(f"{key}= needs netns=PATH|PID (or tapnet exec)")
    if given.get("mtu", 0) > CARD_MTU and model != "direct":
        raise given.error(f"mtu={given.get('mtu')}: more than {CARD_MTU} needs model=direct")
    irq, base = given.get("irq"), given.get("iobase")
    if irq is not None and irq not in IRQS:
        hint = " (on an AT bus that line is irq=9)" if irq == 2 else f" (one of {', '.join(map(str, IRQS))})"
        raise given.error(f"irq={irq}: not a line of an ISA slot{hint}")
    if base is not None:
        if base % 0x10:
            raise given.error(f"iobase={base:#x}: not a multiple of 0x10")
        for start, size in BUS_PORTS:
            if base < start + size and start < base + ISA_SPAN:
                raise given.error(f"iobase={base:#x}: overlaps the machine's own port {start:#x}")


# ---- defaults ---------------------------------------------------------------------------------------------


def place(cards: list[Card], command: str) -> list[Nic]:
    """NICs of ``cards``, in order, every default filled in. Raises OptionError."""
    macs = _macs(cards)
    slots = _slots(cards)
    ports = _ports(cards)
    interfaces = _interfaces(cards, command)
    names = _names(cards)
    nics = []
    for number, card in enumerate(cards):
        given = card.given
        iobase, irq = ports[number]
        in_guest = (command == "exec" or "netns" in given.values) and "vfio-user" not in given.values
        nics.append(
            Nic(
                origin=given.origin,
                name=names[number],
                id=given.get("id"),
                model=card.model,
                mac=macs[number],
                vlan=card.vlan,
                netdev=card.netdev,
                slot=slots[number],
                iobase=iobase,
                irq=irq,
                rev=given.get("rev"),
                tx_delay=given.get("tx-delay") == "wire",
                netns=given.get("netns"),
                vfio_user=given.get("vfio-user"),
                ifname=interfaces[number],
                mtu=given.get("mtu"),
                dhcp=given.get("dhcp", in_guest and "netns" not in given.values),
                impair=given.get("impair"),
            )
        )
    return nics


def _macs(cards: list[Card]) -> list[bytes]:
    chosen = [card.get("macaddr") or card.get("mac") for card in cards]
    used = {mac[5] for mac in chosen if mac is not None and mac[:5] == MAC_PREFIX}
    free = (byte for byte in range(MAC_FIRST, MAC_LAST + 1) if byte not in used)
    found: list[bytes] = []
    for card, mac in zip(cards, chosen):
        if mac is None:
            byte = next(free, None)
            if byte is None:
                raise card.given.error("no default MAC is left: give macaddr=")
            mac = MAC_PREFIX + bytes([byte])
        found.append(mac)
    return found


def _slots(cards: list[Card]) -> list[int | None]:
    used: dict[int, Card] = {}
    for card in cards:
        slot = card.get("addr")
        if slot is None:
            continue
        if slot in used:
            raise card.given.error(f"addr={slot:#x}: the slot is taken by {used[slot].given.origin}")
        used[slot] = card
    free = (slot for slot in range(FIRST_SLOT, LAST_SLOT + 1) if slot not in used)
    found: list[int | None] = []
    for card in cards:
        slot = card.get("addr")
        if slot is None and card.model in PCI_MODELS and card.get("vfio-user") is None:
            slot = next(free, None)
            if slot is None:
                raise card.given.error("no PCI slot is left")
        found.append(slot)
    return found


def _ports(cards: list[Card]) -> list[tuple[int | None, int | None]]:
    """(iobase, irq) of each; (None, None) for what is not in an ISA slot."""
    isa = [card.model == "ne2k_isa" and card.get("vfio-user") is None for card in cards]
    bases: dict[int, Card] = {}
    lines: dict[int, Card] = {}
    for card in cards:
        base, irq = card.get("iobase"), card.get("irq")
        if base is not None:
            clash = next((b for b in bases if abs(b - base) < ISA_SPAN), None)
            if clash is not None:
                raise card.given.error(
                    f"iobase={base:#x}: overlaps the card at {clash:#x} ({bases[clash].given.origin})"
                )
            bases[base] = card
        if irq is not None:
            if irq in lines:
                raise card.given.error(
                    f"irq={irq}: taken by {lines[irq].given.origin}; ISA lines are not shared"
                )
            lines[irq] = card
    found: list[tuple[int | None, int | None]] = []
    for card, on_bus in zip(cards, isa):
        base, irq = card.get("iobase"), card.get("irq")
        if on_bus and base is None:
            base = next((b for b in ISA_PORTS if all(abs(b - used) >= ISA_SPAN for used in bases)), None)
            if base is None:
                raise card.given.error("no default I/O base is left: give iobase=")
            bases[base] = card
        if on_bus and irq is None:
            irq = next((line for line in ISA_IRQS if line not in lines), None)
            if irq is None:
                raise card.given.error("no default IRQ is left: give irq=")
            lines[irq] = card
        found.append((base, irq))
    return found


def _interfaces(cards: list[Card], command: str) -> list[str | None]:
    """eth0, eth1 ... in order, for each namespace by itself."""
    used: dict[object, set[str]] = {}
    spaces: list[object] = []
    for card in cards:
        space = card.get("netns")
        if space is None:
            space = "" if command == "exec" and card.get("vfio-user") is None else None
        spaces.append(space)
        chosen = card.get("ifname")
        if space is None or chosen is None:
            continue
        taken = used.setdefault(space, set())
        if chosen in taken or chosen == "lo":
            raise card.given.error(f"ifname={chosen}: already there in that namespace")
        taken.add(chosen)
    found: list[str | None] = []
    for card, space in zip(cards, spaces):
        chosen = card.get("ifname")
        if space is not None and chosen is None:
            taken = used.setdefault(space, set())
            chosen = next(name for n in range(len(cards) + 1) if (name := f"eth{n}") not in taken)
            taken.add(chosen)
        found.append(chosen)
    return found


def _names(cards: list[Card]) -> list[str]:
    """name=, id=, or MODEL.N."""
    used: dict[str, Card] = {}
    for card in cards:
        for key in ("name", "id"):
            chosen = card.get(key)
            if chosen is None:
                continue
            if used.get(chosen, card) is not card:
                raise card.given.error(f"{key}={chosen}: already the name of {used[chosen].given.origin}")
            used[chosen] = card
    counts: Counter[str] = Counter()
    found = []
    for card in cards:
        chosen = card.get("name") or card.get("id")
        number = counts[card.model]
        counts[card.model] += 1
        while chosen is None or (chosen in used and used[chosen] is not card):
            chosen = f"{card.model}.{number}"
            number += 1
        used[chosen] = card
        found.append(chosen)
    return found
