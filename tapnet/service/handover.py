"""What a process of the service leaves for the next one of a restart, by systemd's descriptor store.

    wire.export() ─► Handover ─┐                                     ┌─► Handed.take(net) ─► wire.adopt(handover)
    ...                        ├─ save ─► systemd's store ─► load ─► ┤
    listening sockets ─────────┘                                     └─► passed.take(address)

``save`` is the last thing before the end, in one piece and with nothing running in between, so that what a peer sends
meanwhile waits in the kernel, and what was read and not yet delivered (half a frame, queues) is in the state. The state is
JSON in a memory file, with bytes in base64. A net whose configuration has changed over the restart is not handed over: its
connections are closed. At a plain stop systemd closes everything, so peers see the end then.

Nothing is left in the store while the process runs: after a crash there is no state that fits, connections end with the
process, and the next one begins anew.

Limits: ``ITEMS_MAX`` descriptors and ``STATE_MAX`` bytes. State of another version, or that cannot be read, is closed and
forgotten, with a line.
"""

from __future__ import annotations

import base64
import json
import logging
import os
from collections.abc import Iterable
from typing import Any

from ..system import notify, passed
from ..vlan.handover import Handed, Handover, close

VERSION = 1
STATE = passed.STORED + "state"
ITEMS_MAX = 1000
STATE_MAX = 256 << 20
_BYTES = "\0bytes"
log = logging.getLogger("tapnet.service")


def _plain(value: Any) -> Any:
    if isinstance(value, (bytes, bytearray)):
        return {_BYTES: base64.b64encode(value).decode()}
    raise TypeError(f"{type(value).__name__} cannot be handed over")


def _bytes(value: dict[str, Any]) -> Any:
    return base64.b64decode(value[_BYTES]) if set(value) == {_BYTES} else value


def save(items: Iterable[tuple[str, Handover]], listeners: Iterable[int]) -> bool:
    """Give everything to the manager; whether there is one that has taken it. The caller closes its copies."""
    rows, count = [], 0
    for label, handover in items:
        if count + len(handover.fds) > ITEMS_MAX:
            log.warning("tapnet: restart: more than %d descriptors: the rest is closed", ITEMS_MAX)
            break
        names = {}
        for role, fd in handover.fds.items():
            names[role] = f"{passed.STORED}{count}"
            notify.store(names[role], fd)
            count += 1
        rows.append({"net": label, "data": handover.data, "fds": names})
    for fd in listeners:
        if count < ITEMS_MAX:
            notify.store(passed.LISTENER, fd)
            count += 1
    if not count:
        return False
    state = os.memfd_create("tapnet-state", os.MFD_CLOEXEC)
    try:
        with open(state, "wb", closefd=False) as file:
            file.write(json.dumps({"version": VERSION, "nets": rows}, default=_plain).encode())
        notify.store(STATE, state)
    finally:
        os.close(state)
    return notify.barrier()


def load(found: dict[str, list[int]]) -> Handed:
    """From ``passed.inherit``'s answer. Has the manager forget all of it: nothing comes twice."""
    stored = {name: fds for name, fds in found.items() if name.startswith(passed.STORED)}
    for name in (*stored, passed.LISTENER):
        if stored:
            notify.forget(name)
    for name, fds in found.items():
        if name not in stored:
            log.warning(
                "tapnet: a descriptor %s was passed that is no listening socket", name or "without a name"
            )
            close(fds)
    state = stored.pop(STATE, [])
    items: dict[str, Handover] = {}
    try:
        rows = _read(state[0]) if state else []
        for row in rows:
            roles = {role: stored[name].pop() for role, name in row["fds"].items()}
            items[row["net"]] = Handover(row["data"], roles)
    except (KeyError, IndexError, TypeError, ValueError, OSError) as error:
        log.warning("tapnet: what the process before left cannot be used: %s", error or type(error).__name__)
        Handed(items).close()
        items = {}
    for fds in (state, *stored.values()):
        close(fds)
    return Handed(items)


def _read(fd: int) -> list[dict[str, Any]]:
    size = os.fstat(fd).st_size
    if size > STATE_MAX:
        raise ValueError(f"state of {size} bytes")
    data = json.loads(os.pread(fd, size, 0), object_hook=_bytes)
    if data["version"] != VERSION:
        raise ValueError(f"version {data['version']}")
    rows: list[dict[str, Any]] = data["nets"]
    return rows
