"""What a monitor can ask of a running instance: one ``Control``, called by the human monitor and by QMP.

``Instance`` is the interface that ``tapnet.instance.instance`` and ``tapnet.service.run`` provide; everything here is
worked out from it at each call, so nothing can go stale. Answers are text without a final line feed; an
error that the person at the monitor made is a ``ControlError`` whose text is the answer. No I/O, no clock:
idle times come with the rows.

Formats: ``info network`` as QEMU 0.8 prints it, ``info usernet`` as libslirp does, with the idle time behind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from ... import __version__
from ...backends.user.report import FlowRow, ForwardRow, UserNet
from ...capture.captures import Captures
from ...capture.tracing import Tracer
from ...config import Endpoint, HostForward, Impairment
from ...errors import NotFound, Refused
from ...options import grammars as rules
from ...vlan.events import LINK, SHUTDOWN, Events
from ...vlan.hub import Hub
from ...vlan.patchbay import ACCEPTED, BACKEND, NIC
from ...vlan.port import Port

if TYPE_CHECKING:
    from ...instance.filterwatch import FilterWatch
    from ...instance.live import Live
    from ...vlan.patchbay import Patchbay

_ORDER = {BACKEND: 0, NIC: 1, ACCEPTED: 2}

ANY = "0.0.0.0"
_ADDRESS_WIDTH = 15


class Device(Protocol):
    """One member of a VLAN or of a private wire."""

    @property
    def name(self) -> str:
        """Unique name, for set_link."""

    @property
    def kind(self) -> str:
        """BACKEND, NIC, or ACCEPTED: a connection that a listening backend took in."""

    @property
    def info(self) -> str:
        """QEMU 0.8's words, e.g. "user redirector"; "" while there is nothing to show (a listening
        socket)."""

    @property
    def port(self) -> Port | None:
        """Its port; None while it has none (a listening socket)."""


class Instance(Protocol):
    """A running tapnet, as its monitors see it."""

    @property
    def name(self) -> str:
        """--name; the pid by default."""

    @property
    def pid(self) -> int:
        """Of the emulator."""

    @property
    def mode(self) -> str | None:
        """user or tap, if one was chosen."""

    @property
    def status(self) -> str:
        """running, paused, or what else "VM status:" should say."""

    @property
    def vlans(self) -> Mapping[int, Sequence[Device]]:
        """VLAN number -> its devices in option order."""

    @property
    def wires(self) -> Sequence[Sequence[Device]]:
        """Private pairs outside the VLANs; either end may be missing."""

    @property
    def usernets(self) -> Sequence[UserNet]:
        """The NATs in option order."""

    @property
    def patchbay(self) -> Patchbay:
        """What is plugged where."""

    @property
    def filter_watch(self) -> FilterWatch:
        """Told when a receive filter is asked for."""

    @property
    def live(self) -> Live:
        """Adds and removes."""

    @property
    def tracer(self) -> Tracer:
        """What -d and "log" trace."""

    @property
    def events(self) -> Events:
        """What happens, for QMP."""

    @property
    def hubs(self) -> Mapping[int, Hub]:
        """VLAN number -> its hub."""

    @property
    def captures(self) -> Captures:
        """Captures that run."""

    def impair(self, port: Port, impairment: Impairment) -> None:
        """Make, or change, the bad cable of a port (``tapnet.vlan.faults``)."""

    def shutdown(self) -> None:
        """End the instance soon; returns at once."""

    async def set_mode(self, mode: str, vlan: int | None) -> Mapping[int, Sequence[Device]]:
        """Swap NAT and TAP of all VLANs, or of one; the backends of that mode. Raises ControlError."""


class Control:
    """The requests."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self._told = False

    def info_network(self, verbose: bool = False) -> str:
        """VLANs and their devices: backends in option order, NICs, then accepted connections."""
        lines: list[str] = []
        for number, devices in sorted(self.instance.vlans.items()):
            lines.append(f"VLAN {number} devices:")
            for device in _ordered(devices):
                lines += _device_lines(device, "  ", verbose, devices)
        wires = [wire for wire in self.instance.wires if wire]
        if wires:
            lines.append("Devices not on any VLAN:")
        for wire in wires:
            lead = "  "
            for device in sorted(wire, key=lambda d: d.kind != NIC):
                shown = _device_lines(device, lead, verbose, wire)
                lines += shown
                if shown:
                    lead = "   \\ "
        return "\n".join(lines)

    def info_vlans(self) -> str:
        """VLAN numbers and how many devices each has."""
        return "\n".join(
            f"VLAN {number}: {len(devices)} device{'' if len(devices) == 1 else 's'}"
            for number, devices in sorted(self.instance.vlans.items())
        )

    def info_ports(self) -> str:
        """Names for set_link and its like, one a line."""
        rows = [("NAME", "KIND", "VLAN", "LINK", "WHAT")]
        for number, devices in (
            *sorted(self.instance.vlans.items()),
            *((None, wire) for wire in self.instance.wires),
        ):
            for device in _ordered(devices):
                link = "-" if device.port is None else "up" if device.port.link else "down"
                rows.append(
                    (device.name, device.kind, "-" if number is None else str(number), link, device.info)
                )
        return columns(rows)

    def _nats(self, name: str | None) -> Sequence[UserNet]:
        return self.instance.usernets if name is None else [self.usernet(name)]

    def info_usernet(self, netdev: str | None = None) -> str:
        """Flows of every NAT, with idle times and queue sizes."""
        tables = []
        for nat in self._nats(netdev):
            number = -1 if nat.vlan is None else nat.vlan
            lines = [f"VLAN {number} ({nat.name}):", *_usernet_table(list(nat.rows()))]
            for row in nat.filters():
                lines.append(f"  {row['action']} {row['text'] or 'all else'}: {row['hits']}")
            tables.append("\n".join(lines))
        return "\n".join(tables)

    def info_status(self) -> str:
        """As QEMU says it."""
        return f"VM status: {self.instance.status}"

    def info_version(self) -> str:
        """Version number."""
        return __version__

    def info_name(self) -> str:
        """Name of the instance."""
        return self.instance.name

    def instance_data(self) -> dict[str, object]:
        """Name, pid, VLANs and mode."""
        instance = self.instance
        return {
            "name": instance.name,
            "pid": instance.pid,
            "vlans": sorted(instance.vlans),
            "mode": instance.mode,
        }

    def info_instance(self) -> str:
        """What ``tapnet ps`` shows, one "key: value" a line."""
        data = self.instance_data() | {"vlans": ",".join(map(str, sorted(self.instance.vlans)))}
        return "\n".join(f"{key}: {value or '-'}" for key, value in data.items())

    def devices(self) -> Iterator[Device]:
        """All devices, those on private wires included."""
        for _, devices in sorted(self.instance.vlans.items()):
            yield from devices
        for wire in self.instance.wires:
            yield from wire

    def set_link(self, name: str, up: bool) -> None:
        """Plug or pull one device's cable. On a private wire a backend's cable is its NIC's as well. A backend that is to
        make its connection again tries at once when it is plugged, or was.

        Raises NotFound.
        """
        device = next((d for d in self.devices() if d.name == name and d.port is not None), None)
        if device is None or device.port is None:
            raise NotFound(name)
        device.port.set_link(up)
        self.instance.events.emit(LINK, name=name, up=up)
        reconnect = getattr(getattr(device, "backend", None), "reconnect", None)
        if up and reconnect is not None:
            reconnect()
        for wire in self.instance.wires:
            if device.kind != NIC and device in wire:
                for other in wire:
                    if other.kind == NIC and other.port is not None:
                        other.port.set_link(up)

    # ---- mode ----------------------------------------------------------------------------------------------

    async def set_mode(self, mode: str, vlan: int | None = None) -> list[dict[str, Any]]:
        """Swap; the backends that are plugged now."""
        found = await self.instance.set_mode(mode, vlan)
        return [{"vlan": n, "name": device.name} for n, devices in found.items() for device in devices]

    async def show_mode(self, mode: str, vlan: int | None = None) -> str:
        """The same for a person."""
        found = await self.instance.set_mode(mode, vlan)
        return "\n".join(
            f"VLAN {number}: {device.info}" for number, devices in found.items() for device in devices
        )

    # ---- redirections --------------------------------------------------------------------------------------

    def usernet(self, name: str | None) -> UserNet:
        """A NAT by its name, the first by default. Raises Refused."""
        nats = self.instance.usernets
        if name is None:
            if not nats:
                raise Refused("user mode network stack not in use")
            return nats[0]
        found = next((nat for nat in nats if nat.name == name), None)
        if found is None:
            known = any(device.name == name and device.kind == BACKEND for device in self.devices())
            raise Refused("invalid device specified" if known else f"unrecognized netdev id '{name}'")
        return found

    def hostfwd_add(self, rule: str, name: str | None = None) -> None:
        """Add a redirection to a NAT, the first by default. Raises Refused."""
        nat = self.usernet(name)
        try:
            forward = rules.hostfwd(rule)
        except ValueError as error:
            raise Refused(f"Invalid host forwarding rule '{rule}' ({_qemu_reason(str(error))})") from None
        try:
            nat.add_forward(forward)
        except ValueError as error:
            raise Refused(f"Could not set up host forwarding rule '{rule}': {error}") from None

    def _hostfwd_remove(self, rule: str, name: str | None) -> bool:
        nat = self.usernet(name)
        matches = _matcher(rule)
        number = next((row.number for row in nat.forwards() if matches(row)), None)
        return number is not None and nat.remove_forward(number)

    def hostfwd_remove(self, rule: str, name: str | None = None) -> str:
        """End a redirection: by the text that added it, by its part before the guest, or by its number."""
        gone = self._hostfwd_remove(rule, name)
        return f"host forwarding rule for {rule} {'removed' if gone else 'not found'}"

    def hostfwd_gone(self, rule: str, name: str | None = None) -> None:
        """The same; Refused if there is none."""
        if not self._hostfwd_remove(rule, name):
            raise Refused(f"host forwarding rule for {rule} not found")

    def info_hostfwd(self, netdev: str | None = None) -> str:
        """Redirections of every NAT, with their numbers."""
        lines = []
        for nat in self._nats(netdev):
            lines.append(f"VLAN {-1 if nat.vlan is None else nat.vlan} ({nat.name}):")
            for number, forward, port in nat.forwards():
                bound = (
                    f" (port {port})"
                    if isinstance(forward.listen, Endpoint) and not forward.listen.port
                    else ""
                )
                lines.append(f"  {number:>3}  {forward.text}{bound}")
        return "\n".join(lines)

    def quit(self) -> None:
        """End the instance."""
        self.ending("host-qmp-quit")
        self.instance.shutdown()

    def ending(self, reason: str) -> None:
        """Tell that the instance ends, once."""
        if not self._told:
            self._told = True
            self.instance.events.emit(SHUTDOWN, guest=False, reason=reason)


def columns(rows: Sequence[tuple[str, ...]]) -> str:
    """A table, two blanks between the columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


# How QEMU calls what our parser finds wrong with a rule (net/slirp.c).
_QEMU_REASONS = (
    ('no ":" in the rule', "No : separators"),
    ("bad protocol", "Bad protocol name"),
    ('no ":" after', "Missing : separator"),
    ("bad host address", "Bad host address"),
    ('"[" without', "Bad host address"),
    ('no "-" after', "Bad host port separator"),
    ("bad host port", "Bad host port"),
    ("not PORT-[GUEST]:PORT", "Missing guest address"),
    ("bad guest address", "Bad guest address"),
    ("bad guest port", "Bad guest port"),
)


def _qemu_reason(ours: str) -> str:
    return next((theirs for start, theirs in _QEMU_REASONS if ours.startswith(start)), ours)


def _matcher(text: str) -> Callable[[ForwardRow], bool]:
    """What hostfwd_remove was given, as a test of rows. Raises Refused."""
    if text.isascii() and text.isdigit():
        return lambda row: row.number == int(text)
    try:
        whole = rules.hostfwd(text)
    except ValueError:
        pass
    else:
        return lambda row: _same(row.forward, whole)
    try:
        protocol, listen, count = rules.hostfwd_listen(text)
    except ValueError:
        raise Refused("invalid format") from None

    def matches(row: ForwardRow) -> bool:
        forward = row.forward
        if forward.protocol != protocol or forward.count != count:
            return False
        if isinstance(listen, Endpoint) and isinstance(forward.listen, Endpoint):
            ports = (forward.listen.port, row.port)
            return (forward.listen.host or ANY) == (listen.host or ANY) and listen.port in ports
        return forward.listen == listen

    return matches


def _same(one: HostForward, other: HostForward) -> bool:
    return (one.protocol, _bound(one), one.guest, one.guest_port, one.count) == (
        other.protocol,
        _bound(other),
        other.guest,
        other.guest_port,
        other.count,
    )


def _bound(forward: HostForward) -> object:
    listen = forward.listen
    return (listen.host or ANY, listen.port) if isinstance(listen, Endpoint) else listen


def _ordered(devices: Sequence[Device]) -> list[Device]:
    return sorted(devices, key=lambda device: _ORDER.get(device.kind, 0))


PEERS_SHOWN = 8


def _peers(device: Device, group: Sequence[Device]) -> str:
    """The other ports of its wire."""
    names = [other.name for other in group if other is not device and other.port is not None]
    more = len(names) - PEERS_SHOWN
    return ", ".join(names[:PEERS_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _device_lines(device: Device, lead: str, verbose: bool, group: Sequence[Device] = ()) -> list[str]:
    if not verbose:
        return [lead + device.info] if device.info else []
    lines = [lead + (device.info or f"{device.name}: no connection")]
    port = device.port
    if port is not None:
        counters = port.counters
        drops = " ".join(f"{reason}={count}" for reason, count in sorted(counters.drops.items()) if count)
        lines.append(
            f"{' ' * len(lead)}  {device.name}: link {'up' if port.link else 'down'},"
            f" sent {counters.tx_frames} frames {counters.tx_bytes} bytes,"
            f" received {counters.rx_frames} frames {counters.rx_bytes} bytes,"
            f" queue {len(port.queue)} (highest {counters.queue_high}),"
            f" dropped {drops or '0'}"
        )
        lines.append(f"{' ' * len(lead)}  {device.name}: peers {_peers(device, group) or 'none'}")
    where = getattr(device, "where", None)
    if where is not None:
        lines.append(f"{' ' * len(lead)}  {device.name}: at {where()}")
    events = getattr(device, "events", None)
    if events is not None:
        counted = " ".join(f"{reason}={count}" for reason, count in sorted(events().items()) if count)
        lines.append(f"{' ' * len(lead)}  {device.name}: the card counted {counted or 'nothing'}")
    status = getattr(getattr(device, "backend", None), "status", None)
    if status is not None:
        lines.append(f"{' ' * len(lead)}  {device.name}: {status()}")
    return lines


def _usernet_table(rows: Sequence[FlowRow]) -> list[str]:
    wide = max([_ADDRESS_WIDTH, *(len(row.source) for row in rows), *(len(row.dest) for row in rows)])
    lines = [
        f"  {'Protocol[State]':<18}{'FD':>3} {'Source Address':>{wide}}  Port "
        f"{'Dest. Address':>{wide}}  Port RecvQ SendQ   Idle"
    ]
    for row in rows:
        what = f"{row.protocol}[{row.state}]"
        fd = "" if row.fd < 0 else str(row.fd)
        source, dest = row.source or "*", row.dest or "*"
        lines.append(
            f"  {what:<17} {fd:>3} {source:>{wide}} {row.source_port:>5} {dest:>{wide}} {row.dest_port:>5}"
            f" {row.recv_queue:>5} {row.send_queue:>5} {row.idle:>5.0f}s"
        )
    return lines
