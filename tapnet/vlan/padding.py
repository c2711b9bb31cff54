"""The shortest frame of a VLAN: what enters a hub with fewer than 60 bytes (without FCS) is padded with zeros there.

Emulated transmitters, TAP devices, namespaces and VXLAN hand over frames of any length; a real transmitter sends none below
60 bytes, and a real receiver drops shorter ones as runts. QEMU's cards padded what they received until QEMU 9; QEMU 10's do
not, and lose it. The hub pads at its entrance (``Hub.forward``), a stream wire where it splits what it has read
(``backends.framing``), because a train passes the hub uncut. So whatever leaves is whole: wires, TAP, cards, captures.

What has less than an Ethernet header is no frame: it is dropped and counted ("runt"; "empty" where there is nothing).

The cards have a ``pad`` of their own (``nic_models``), because the two rooms do not know each other.
Ref: IEEE 802.3, 4.2.3.3 (minimum frame size: 64 octets with FCS).
"""

from __future__ import annotations

MIN_FRAME = 60
MIN_HEADER = 14  # two addresses and a type
_ZEROS = bytes(MIN_FRAME)


def pad(frame: bytes) -> bytes:
    """``frame`` with zeros up to ``MIN_FRAME`` bytes."""
    return frame + _ZEROS[len(frame) :]
