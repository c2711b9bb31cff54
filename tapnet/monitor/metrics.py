"""Counters in the text format of Prometheus, as text: what ``--metrics`` serves.

Names begin with ``tapnet_``, counters end in ``_total``, labels are a port's name, kind and VLAN ("" on a private wire).
All is worked out at each call from the same reports that the monitors give (docs/monitor.md lists the names).

Ref: Prometheus, "Exposition formats", text format 0.0.4.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from typing import Any

from .. import __version__
from .commands import reports
from .commands.control import Control

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})

Sample = tuple[Mapping[str, object], float]


def family(name: str, kind: str, text: str, samples: Iterable[Sample]) -> list[str]:
    """The lines of one metric; none without samples."""
    rows = []
    for labels, value in samples:
        inside = ",".join(f'{key}="{str(what).translate(_ESCAPES)}"' for key, what in labels.items())
        rows.append(f"{name}{{{inside}}} {value:.17g}" if inside else f"{name} {value:.17g}")
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}", *rows] if rows else []


def exposition(control: Control) -> str:
    """All metrics of an instance."""
    instance = control.instance
    lines = family(
        "tapnet_info", "gauge", "The instance.",
        [({"name": instance.name, "version": __version__, "mode": instance.mode or ""}, 1)],
    )  # fmt: skip
    lines += _ports(reports.ports(control))
    lines += family(
        "tapnet_card_events_total", "counter", "What the cards counted by themselves.",
        [({"card": row["name"], "event": event}, count)
         for row in reports.cards(control) for event, count in sorted(row["counters"].items())],
    )  # fmt: skip
    lines += _switches(reports.switches(control))
    lines += _nats(control)
    lines += _process()
    return "\n".join(lines) + "\n"


def _ports(rows: list[dict[str, Any]]) -> list[str]:
    plugged = [
        ({"port": row["name"], "kind": row["kind"], "vlan": "" if row["vlan"] is None else row["vlan"]}, row)
        for row in rows
        if row["link"] is not None
    ]
    lines = []
    for name, kind, key, text in (
        ("link", "gauge", "link", "1 where the cable is plugged in."),
        ("sent_frames_total", "counter", "tx-frames", "Frames that the port sent into its VLAN."),
        ("sent_bytes_total", "counter", "tx-bytes", "Bytes that the port sent into its VLAN."),
        ("received_frames_total", "counter", "rx-frames", "Frames that the port got from its VLAN."),
        ("received_bytes_total", "counter", "rx-bytes", "Bytes that the port got from its VLAN."),
        ("queue_frames", "gauge", "queue", "Frames that wait for the port."),
        ("queue_bytes", "gauge", "queue-bytes", "Bytes that wait for the port."),
        ("queue_high_frames", "gauge", "queue-high", "The most frames that ever waited for the port."),
    ):
        lines += family(f"tapnet_port_{name}", kind, text, [(labels, row[key]) for labels, row in plugged])
    return lines + family(
        "tapnet_port_dropped_frames_total", "counter", "Frames that the port lost, by reason.",
        [(labels | {"reason": reason}, count)
         for labels, row in plugged for reason, count in sorted(row["drops"].items())],
    )  # fmt: skip


def _switches(rows: list[dict[str, Any]]) -> list[str]:
    lines = []
    for name, kind, key, text in (
        ("addresses", "gauge", "addresses", "Addresses that a VLAN's switch has learned."),
        ("refused_total", "counter", "refused", "Addresses that its full table did not take."),
        ("moved_total", "counter", "moved", "Addresses that came in by another port."),
        ("flooded_frames_total", "counter", "flooded", "Frames that went to every port."),
        ("local_frames_total", "counter", "local", "Frames that stayed behind the port they came from."),
    ):
        lines += family(
            f"tapnet_switch_{name}", kind, text, [({"vlan": row["vlan"]}, row[key]) for row in rows]
        )
    return lines


def _nats(control: Control) -> list[str]:
    flows: dict[tuple[str, str], int] = {}
    for row in reports.flows(control):
        key = row["netdev"], row["protocol"].lower()
        flows[key] = flows.get(key, 0) + 1
    leases = {nat.name: 0 for nat in control.instance.usernets}
    for row in reports.leases(control):
        leases[row["netdev"]] += row["state"] == "bound"
    events: list[Sample] = []
    for netdev, layers in reports.counters(control).items():
        for layer, counted in layers.items():
            if isinstance(counted, dict):
                events += [
                    ({"netdev": netdev, "layer": layer, "event": event}, count)
                    for event, count in sorted(counted.items())
                    if isinstance(count, int | float)
                ]
    return [
        *family(
            "tapnet_nat_flows", "gauge", "Flows of a NAT, redirections included.",
            [({"netdev": netdev, "protocol": protocol}, count) for (netdev, protocol), count in sorted(flows.items())],
        ),
        *family(
            "tapnet_nat_leases", "gauge", "DHCP leases in force.",
            [({"netdev": netdev}, count) for netdev, count in sorted(leases.items())],
        ),
        *family("tapnet_nat_events_total", "counter", "What a NAT counted.", events),
    ]  # fmt: skip


def _process() -> list[str]:
    """What every exporter tells of its process, under the usual names."""
    lines: list[str] = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        with open("/proc/self/stat") as file:
            fields = file.read().rpartition(") ")[2].split()
        cpu = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        lines += family(
            "process_cpu_seconds_total", "counter", "User and system time of the process.", [({}, cpu)]
        )
        resident = int(fields[21]) * os.sysconf("SC_PAGE_SIZE")
        lines += family("process_resident_memory_bytes", "gauge", "Resident memory.", [({}, resident)])
        count = len(os.listdir("/proc/self/fd"))
        lines += family("process_open_fds", "gauge", "Open descriptors.", [({}, count)])
    return lines
