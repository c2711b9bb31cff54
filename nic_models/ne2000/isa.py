"""NE2000 for the ISA bus: 32 ports at a jumpered base, one edge-triggered IRQ line.

Ref: Novell NE2000 user's guide (jumpers: base 0x300, IRQ 3 by default; QEMU's and ours is IRQ 9).
"""

from __future__ import annotations

from .board import Ne2000

PORTS = 32
# Base and IRQ of the first, second ... board when nothing is said
DEFAULTS = ((0x300, 9), (0x320, 10), (0x340, 11), (0x360, 3), (0x280, 4), (0x380, 5))


class Ne2000Isa(Ne2000):
    """The ISA board. Where it sits (iobase, irq) is the machine's business."""

    model = "ne2k_isa"
