"""A PHY as its driver sees it: the basic registers of IEEE 802.3 clause 22, auto-negotiation, and the link.

What it is
* Seven registers: BMCR BMSR PHYID1 PHYID2 ANAR ANLPAR ANER. A chip maps them into its own space (RTL8139:
  0x62..0x6b) or reaches them by a management register (PCnet: BCR33/34, ``read``/``write`` by number).
* The partner at the other end of the cable is ideal: it answers every negotiation with ``partner`` (100
  Mbit/s full duplex and pause, unless told otherwise).
* Plugging the cable gives link at once. A negotiation that the driver starts (BMCR reset or restart, ANE
  switched on) takes ``AUTONEG_NS``: link and "complete" are down until then, and come up in ``run``.

Data flow: the owner calls ``set_cable`` and the register functions; ``on_link(up)`` is called at each change
of ``link``. Timers: one, the end of a negotiation (``deadline``). It does no I/O and has no clock but the
``now`` given.

Ref: IEEE 802.3-2018 clause 22.2.4 (registers 0..6), clause 28 (auto-negotiation).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

AUTONEG_NS = 100_000_000  # clause 28 leaves 1-3 s to real partners; short, so that no DHCP client gives up

BMCR, BMSR, PHYID1, PHYID2, ANAR, ANLPAR, ANER = range(7)

# BMCR
BMCR_RESET = 0x8000
BMCR_LOOPBACK = 0x4000
BMCR_SPEED100 = 0x2000
BMCR_ANE = 0x1000
BMCR_POWER_DOWN = 0x0800
BMCR_ISOLATE = 0x0400
BMCR_RESTART = 0x0200
BMCR_FULL = 0x0100
BMCR_SELF_CLEARING = BMCR_RESET | BMCR_RESTART

# BMSR
BMSR_ABILITIES = 0x7809  # 100 full and half, 10 full and half, auto-negotiation, extended registers
BMSR_AN_COMPLETE = 0x0020
BMSR_LINK = 0x0004

# ANAR and ANLPAR
AN_ACK = 0x4000
AN_PAUSE = 0x0400
AN_100FULL = 0x0100
AN_100 = 0x0080
AN_10FULL = 0x0040
AN_10 = 0x0020
AN_SELECTOR = 0x0001
AN_ALL = AN_PAUSE | AN_100FULL | AN_100 | AN_10FULL | AN_10 | AN_SELECTOR
ANAR_WRITABLE = 0xBFFF  # all but the acknowledge bit

ANER_PARTNER_ABLE = 0x0001

_STATE = ("bmcr", "anar", "partner", "cable", "link", "deadline", "dropped")


def _ignore(_up: bool) -> None:
    pass


class Phy:
    """One PHY.

    now       nanoseconds of the machine's clock
    on_link   called with the new state at each change of ``link``
    bmcr      power-on value of BMCR
    writable  bits of BMCR that the driver can set (the self-clearing ones act if they are in it)
    partner   abilities of the other end
    ident     PHYID1, PHYID2
    latch     BMSR's link bit latches low until it has been read (802.3; not documented for the RTL8139)
    """

    def __init__(
        self,
        now: Callable[[], int],
        on_link: Callable[[bool], None] = _ignore,
        *,
        bmcr: int = BMCR_ANE,
        writable: int = 0xFF80,
        partner: int = AN_ALL,
        ident: tuple[int, int] = (0, 0),
        latch: bool = True,
    ) -> None:
        self.now = now
        self.on_link = on_link
        self.power_on = bmcr
        self.writable = writable
        self.partner = partner
        self.ident = ident
        self.latch = latch
        self.bmcr = bmcr
        self.anar = AN_ALL
        self.cable = True
        self.link = True
        self.deadline: int | None = None  # when the running negotiation ends
        self.dropped = False  # link was down since BMSR was last read

    # registers

    def read(self, register: int) -> int:
        """Value of register 0..31; those that are not there read 0."""
        if register == BMCR:
            return self.bmcr
        if register == BMSR:
            return self.read_bmsr()
        if register == ANAR:
            return self.anar
        if register == ANLPAR:
            return self.anlpar()
        if register == ANER:
            return ANER_PARTNER_ABLE if self.complete() else 0
        if register in (PHYID1, PHYID2):
            return self.ident[register - PHYID1]
        return 0

    def write(self, register: int, value: int) -> None:
        """Write register 0..31; read-only ones ignore it."""
        if register == BMCR:
            self.write_bmcr(value)
        elif register == ANAR:
            self.anar = value & ANAR_WRITABLE

    def read_bmsr(self) -> int:
        """BMSR; a latched loss of link is shown once."""
        value = BMSR_ABILITIES
        if self.complete():
            value |= BMSR_AN_COMPLETE
        if self.link and not (self.latch and self.dropped):
            value |= BMSR_LINK
        self.dropped = not self.link
        return value

    def write_bmcr(self, value: int) -> None:
        """BMCR: reset and restart act and clear themselves, the rest is stored."""
        if value & self.writable & BMCR_RESET:
            self.reset()
            self._negotiate()
            return
        old = self.bmcr
        keep = ~self.writable | BMCR_SELF_CLEARING
        self.bmcr = (old & keep | value & ~keep) & 0xFFFF
        started = value & self.writable & BMCR_RESTART or not old & BMCR_ANE
        if self.bmcr & BMCR_ANE and started:
            self._negotiate()
        elif (old ^ self.bmcr) & (BMCR_ANE | BMCR_POWER_DOWN | BMCR_ISOLATE):
            if not self.bmcr & BMCR_ANE:
                self.deadline = None
            self._settle()

    def anlpar(self) -> int:
        """What the partner advertised in the last negotiation; 0 before its end."""
        return self.partner | AN_ACK if self.complete() else 0

    # link

    def complete(self) -> bool:
        """Auto-negotiation is enabled and has ended."""
        return bool(self.bmcr & BMCR_ANE) and self.link

    def speed100(self) -> bool:
        """Whether the link runs (or would run) at 100 Mbit/s."""
        if self.bmcr & BMCR_ANE:
            return bool(self.anar & self.partner & (AN_100FULL | AN_100))
        return bool(self.bmcr & BMCR_SPEED100)

    def full_duplex(self) -> bool:
        """Whether the link is full duplex."""
        if self.bmcr & BMCR_ANE:
            common = self.anar & self.partner
            return bool(common & AN_100FULL) or (not common & AN_100 and bool(common & AN_10FULL))
        return bool(self.bmcr & BMCR_FULL)

    def pause(self) -> bool:
        """Whether both ends agreed on PAUSE frames."""
        return self.complete() and bool(self.anar & self.partner & AN_PAUSE) and self.full_duplex()

    def set_cable(self, up: bool) -> None:
        """Plug or pull the cable."""
        self.cable = up
        if not up:
            self.deadline = None
        self._settle()

    def reset(self) -> None:
        """Registers to their power-on values; the link is as the cable is."""
        self.bmcr = self.power_on
        self.anar = AN_ALL
        self.deadline = None
        self._settle()

    def run(self, now: int) -> None:
        """End a negotiation whose time has come."""
        if self.deadline is not None and now >= self.deadline:
            self.deadline = None
            self._settle()

    def _negotiate(self) -> None:
        if self.cable:
            self.deadline = self.now() + AUTONEG_NS
        self._settle()

    def _settle(self) -> None:
        up = self.cable and self.deadline is None and not self.bmcr & (BMCR_POWER_DOWN | BMCR_ISOLATE)
        if up == self.link:
            return
        self.link = up
        if not up:
            self.dropped = True
        self.on_link(up)

    # state

    def snapshot(self) -> dict[str, Any]:
        """JSON-able state."""
        return {name: getattr(self, name) for name in _STATE}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from ``snapshot()``'s data; ``on_link`` is not called."""
        if set(state) != set(_STATE):
            raise ValueError("not a snapshot of a PHY")
        for name in _STATE:
            setattr(self, name, state[name])
