"""The table of NIC models: what options may name, and how each is built and plugged in.

``MODELS[name]`` has the bus, a title for ``-net nic,model=help``, the words that ``info network`` uses, and
``build``; a card's module is imported when its model is asked for. ``plug`` builds a card, wires its interrupt and puts it into a machine. ``pci_function`` builds a
PCI card without a machine, for an owner that offers the function itself (vfio-user).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from .bus.machine import IsaLocation, Machine, Slot
from .bus.pci import Bar, Identity, PciFunction
from .card import Card

Tx = Callable[..., bool]
Build = Callable[[bytes, Tx, Callable[[], None], Callable[[bool], None], Callable[[], int]], Card]


@dataclass(frozen=True, slots=True)
class Model:
    """One NIC model. ``build(mac, tx, rx_ready, set_irq, now)`` makes the card.

    features: TUN_F_* bits that ``receive`` takes in ``vnet``. identity, bars: PCI cards. ports, defaults: ISA
    cards. revisions: other PCI revisions that ``rev=`` can ask for, and what builds them.
    """

    name: str
    bus: Literal["pci", "isa"]
    title: str
    info: str
    build: Build
    identity: Identity | None = None
    bars: tuple[Bar, ...] = ()
    ports: int = 0
    defaults: tuple[tuple[int, int], ...] = ()
    features: int = 0
    revisions: Mapping[int, Build] = field(default_factory=dict)


def _ne2k_pci() -> Model:
    from .ne2000.pci import BARS, IDENTITY, Ne2000Pci

    title = "RealTek RTL8029(AS), NE2000 for PCI"
    return Model("ne2k_pci", "pci", title, "ne2000 pci", Ne2000Pci, identity=IDENTITY, bars=BARS)


def _ne2k_isa() -> Model:
    from .ne2000.isa import DEFAULTS, PORTS, Ne2000Isa

    title = "Novell NE2000 for ISA (I/O 0x300, IRQ 9)"
    return Model("ne2k_isa", "isa", title, "ne2000", Ne2000Isa, ports=PORTS, defaults=DEFAULTS)


def _rtl8139() -> Model:
    from .rtl8139.pci import BARS, IDENTITY, Rtl8139CPci, Rtl8139Pci
    from .rtl8139.registers import REV_C

    return Model(
        "rtl8139",
        "pci",
        "Realtek RTL8139C+ (rev=0x10: RTL8139C)",
        "rtl8139 pci",
        Rtl8139Pci,
        identity=IDENTITY,
        bars=BARS,
        revisions={REV_C: Rtl8139CPci},
    )


def _pcnet() -> Model:
    from .pcnet.pci import BARS, IDENTITY, PcnetPci

    return Model(
        "pcnet", "pci", "AMD Am79C970A, PCnet-PCI II", "pcnet", PcnetPci, identity=IDENTITY, bars=BARS
    )


class _Models(Mapping[str, Model]):
    """The table; a model's module is imported when the model is first looked up."""

    def __init__(self, makers: dict[str, Callable[[], Model]]) -> None:
        self._makers = makers
        self._made: dict[str, Model] = {}

    def __getitem__(self, name: str) -> Model:
        model = self._made.get(name)
        if model is None:
            model = self._made[name] = self._makers[name]()
        return model

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)

    def __contains__(self, name: object) -> bool:
        return name in self._makers


MODELS: Mapping[str, Model] = _Models(
    {"ne2k_pci": _ne2k_pci, "ne2k_isa": _ne2k_isa, "rtl8139": _rtl8139, "pcnet": _pcnet}
)
DEFAULT_PCI, DEFAULT_ISA = "ne2k_pci", "ne2k_isa"


def default_model(kind: str) -> str:
    """The model that ``-net nic`` means on a machine of this kind."""
    return DEFAULT_ISA if kind == "isapc" else DEFAULT_PCI


def pci_function(
    model: str,
    mac: bytes,
    tx: Tx,
    rx_ready: Callable[[], None],
    now: Callable[[], int],
    rev: int | None = None,
) -> PciFunction:
    """A PCI card as a function of its own: configuration space, regions, ``card``. Raises ValueError.

    ``rev`` is a PCI revision that the model can have, None its own. A card with ``attach`` is told its
    function.
    """
    entry = _lookup(model)
    if entry.identity is None:
        raise ValueError(f"model={model}: not a PCI card")
    identity, build = entry.identity, entry.build
    if rev is not None and rev != identity.revision:
        if rev not in entry.revisions:
            known = ", ".join(f"{n:#x}" for n in (identity.revision, *entry.revisions))
            raise ValueError(f"rev={rev:#x}: {model} has revision {known}")
        identity, build = replace(identity, revision=rev), entry.revisions[rev]
    function = PciFunction(identity, entry.bars)
    card: Any = build(mac, tx, rx_ready, function.set_irq, now)
    function.card = card
    if hasattr(card, "attach"):
        card.attach(function)
    return function


def plug(
    machine: Machine,
    model: str,
    mac: bytes,
    tx: Tx,
    rx_ready: Callable[[], None],
    *,
    name: str = "",
    addr: int | None = None,
    iobase: int | None = None,
    irq: int | None = None,
    rev: int | None = None,
) -> Slot:
    """Build a card and plug it in. The wire calls the slot's ``receive`` and ``tx_ready``.

    ``addr`` is the PCI slot, ``rev`` the revision (``pci_function``); ``iobase`` and ``irq`` are for ISA, by
    default the first pair that is free. Raises ValueError for unknown models, wrong keys, taken places.
    """
    entry = _lookup(model)
    if entry.bus == "pci":
        if iobase is not None or irq is not None:
            raise ValueError(f"{name or model}: iobase and irq are for ISA cards")
        return machine.plug_pci(pci_function(model, mac, tx, rx_ready, machine.now, rev), addr, name)
    if addr is not None or rev is not None:
        raise ValueError(f"{name or model}: {'addr' if addr is not None else 'rev'} is for PCI cards")
    taken = [slot.location for slot in machine.slots if isinstance(slot.location, IsaLocation)]
    if iobase is None:
        iobase = next(
            (io for io, _ in entry.defaults if all(io != t.iobase for t in taken)), entry.defaults[0][0]
        )
    if irq is None:
        wanted = dict(entry.defaults).get(iobase)
        lines = ([wanted] if wanted is not None else []) + [line for _, line in entry.defaults]
        irq = next((line for line in lines if all(line != t.irq for t in taken)), lines[0])
    name = name or f"{model}.{sum(slot.card.model == model for slot in machine.slots)}"
    card = entry.build(mac, tx, rx_ready, machine.isa_irq(irq, name), machine.now)
    return machine.plug_isa(card, iobase, irq, entry.ports, name)


def _lookup(model: str) -> Model:
    if model not in MODELS:
        raise ValueError(f"model={model}: models are {', '.join(MODELS)}")
    return MODELS[model]
