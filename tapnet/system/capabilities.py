"""Whether this process has the capabilities that TAP devices and bridges need.

Ref: capabilities(7), proc(5) (CapEff).
"""

from __future__ import annotations

from pathlib import Path

from .finding import Finding

CAP_NET_RAW = 13
CAP_NET_ADMIN = 12


def read(path: Path) -> str:
    """The text of a file without the blanks around it; empty if it cannot be read."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def check_capabilities(status: Path = Path("/proc/self/status")) -> Finding:
    """CAP_NET_ADMIN: TAP devices and bridges of the host."""
    effective = 0
    for line in read(status).splitlines():
        if line.startswith("CapEff:"):
            effective = int(line.split()[1], 16)
    if effective >> CAP_NET_ADMIN & 1:
        return Finding("capabilities", True, "CAP_NET_ADMIN is there: TAP devices and bridges can be made")
    mend = "run as root, or systemd-run -p AmbientCapabilities=CAP_NET_ADMIN ..."
    return Finding("capabilities", False, "CAP_NET_ADMIN is missing (TAP devices, bridges)", mend, ("tap",))
