"""What monitors report as data: ports, flows, leases, redirections, cards, receive filters, counters; and as text.

Worked out from the instance at each call. JSON-able; names of members are part of the interface (docs/monitor.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ...backends.user.report import UserNet
from ...config import Endpoint, UnixPath
from ...errors import NotFound, Refused
from ...vlan.patchbay import NIC
from .control import Control, Device, columns

Row = dict[str, Any]


def placed(control: Control) -> Iterator[tuple[int | None, Device]]:
    """Every device with its VLAN; None: on a private wire."""
    for number, devices in sorted(control.instance.vlans.items()):
        for device in devices:
            yield number, device
    for wire in control.instance.wires:
        for device in wire:
            yield None, device


def _label(device: Device) -> str | None:
    what = getattr(device, "what", None)
    return what.id if what is not None else None


def ports(control: Control) -> list[Row]:
    """Every port with its counters."""
    rows = []
    for vlan, device in placed(control):
        row: Row = {
            "name": device.name,
            "id": _label(device),
            "kind": device.kind,
            "vlan": vlan,
            "info": device.info,
            "link": None,
        }
        port = device.port
        if port is not None:
            counters = port.counters.as_dict()
            row |= {"link": port.link, "queue": len(port.queue), "queue-bytes": port.queued_bytes}
            row |= {key.replace("_", "-"): value for key, value in counters.items()}
        rows.append(row)
    return rows


def _nats(control: Control, name: str | None) -> list[UserNet]:
    nats = list(control.instance.usernets)
    if name is None:
        return nats
    found = [nat for nat in nats if nat.name == name]
    if not found:
        raise NotFound(name)
    return found


def flows(control: Control, netdev: str | None = None) -> list[Row]:
    """Flows of the NATs, newest first."""
    return [
        {
            "netdev": nat.name,
            "protocol": row.protocol,
            "state": row.state,
            "fd": row.fd,
            "source": row.source,
            "source-port": row.source_port,
            "dest": row.dest,
            "dest-port": row.dest_port,
            "recv-queue": row.recv_queue,
            "send-queue": row.send_queue,
            "idle": row.idle,
        }
        for nat in _nats(control, netdev)
        for row in nat.rows()
    ]


def leases(control: Control, netdev: str | None = None) -> list[Row]:
    """DHCP leases of the NATs, by address."""
    return [
        {"netdev": nat.name} | {key.replace("_", "-"): value for key, value in row.items()}
        for nat in _nats(control, netdev)
        for row in nat.leases()
    ]


def leases_text(control: Control, netdev: str | None = None) -> str:
    """The same as a table."""
    rows = [("NETDEV", "ADDRESS", "MAC", "STATE", "EXPIRES", "HOST NAME")]
    for row in leases(control, netdev):
        left = "never" if row["expires"] is None else f"{row['expires']:.0f}s"
        rows.append((row["netdev"], row["address"], row["mac"], row["state"], left, row["hostname"] or "-"))
    return columns(rows)


def forwards(control: Control, netdev: str | None = None) -> list[Row]:
    """Redirections of the NATs, oldest first."""
    rows = []
    for nat in _nats(control, netdev):
        for number, forward, port in nat.forwards():
            listen = forward.listen
            row: Row = {"netdev": nat.name, "number": number, "rule": forward.text}
            row |= {"protocol": forward.protocol, "guest-port": forward.guest_port, "count": forward.count}
            if isinstance(listen, Endpoint):
                row |= {"host": listen.host or "0.0.0.0", "port": port or listen.port}
            elif isinstance(listen, UnixPath):
                row["path"] = ("@" if listen.abstract else "") + listen.path
            rows.append(row)
    return rows


def counters(control: Control, netdev: str | None = None) -> dict[str, Row]:
    """What the NATs counted."""
    return {nat.name: nat.counters() for nat in _nats(control, netdev)}


def switches(control: Control) -> list[Row]:
    """VLANs that learn addresses."""
    rows = []
    for number, place in sorted(control.instance.patchbay.vlans.items()):
        table = place.hub.table
        if table is not None:
            row: Row = {"vlan": number, "addresses": len(table)}
            row |= {key: getattr(table, key) for key in ("refused", "moved", "flooded", "local")}
            rows.append(row)
    return rows


def addresses(control: Control, vlan: int | None = None) -> list[Row]:
    """What the switches have learned."""
    return [
        {"vlan": number, "mac": row.mac.hex(":"), "port": row.port.name, "age": row.age}
        for number, place in sorted(control.instance.patchbay.vlans.items())
        if place.hub.table is not None and vlan in (None, number)
        for row in place.hub.table.rows()
    ]


def addresses_text(control: Control, vlan: int | None = None) -> str:
    """The same as a table."""
    rows = [("VLAN", "MAC", "PORT", "AGE")]
    for row in addresses(control, vlan):
        rows.append((str(row["vlan"]), row["mac"], row["port"], f"{row['age']:.0f}s"))
    return columns(rows)


# ---- cards ---------------------------------------------------------------------------------------------------


def cards(control: Control) -> list[Row]:
    """Every card: where it sits, what it counted."""
    rows = []
    for vlan, device in placed(control):
        if device.kind != NIC:
            continue
        what: Any = getattr(device, "what", None)
        where, events = getattr(device, "where", None), getattr(device, "events", None)
        row: Row = {"name": device.name, "id": _label(device), "vlan": vlan, "info": device.info}
        if what is not None:
            row |= {"model": what.model, "mac": what.mac.hex(":"), "netdev": what.netdev}
        row["where"] = where() if where is not None else None
        row["counters"] = dict(events()) if events is not None else {}
        rows.append(row)
    return rows


def cards_text(control: Control) -> str:
    """The same, as QEMU's "info qtree" shows a tree: the bus, and what sits on it."""
    lines = []
    for row in cards(control):
        lines.append(f'dev: {row.get("model") or row["info"]}, id "{row["name"]}"')
        lines.append(f'  mac = "{row.get("mac")}"')
        if row["vlan"] is not None:
            lines.append(f"  vlan = {row['vlan']}")
        else:
            lines.append(f'  netdev = "{row.get("netdev") or ""}"')
        lines.append(f'  at = "{row["where"] or "-"}"')
    return "\n".join(lines)


def rx_filters(control: Control, name: str | None = None) -> list[Row]:
    """QEMU's query-rx-filter: what each card's receiver lets pass. Raises NotFound, Refused."""
    rows = []
    for _, device in placed(control):
        if device.kind != NIC or name not in (None, device.name, _label(device)):
            continue
        row = rx_filter(device)
        if row is None:
            if name is not None:
                raise Refused(f"net client({name}) doesn't support rx-filter querying")
            continue
        rows.append(row)
    if name is not None and not rows:
        raise NotFound(name)
    control.instance.filter_watch.asked(name)
    return rows


def rx_filter(device: Device) -> Row | None:
    """One card's filter; None: it has none."""
    card: Any = getattr(device, "card", None)
    if card is None:
        return None
    found = card.rx_filter()
    return {
        "name": device.name,
        "promiscuous": found.promiscuous,
        "multicast": found.multicast,
        "unicast": found.unicast,
        "vlan": "all",
        "broadcast-allowed": found.broadcast,
        "multicast-overflow": False,
        "unicast-overflow": False,
        "main-mac": found.mac.hex(":"),
        "vlan-table": [],
        "unicast-table": [],
        "multicast-table": [],
        "x-tapnet-receiving": found.receiving,
        "x-tapnet-multicast-hash": f"{found.hash:016x}",
    }
