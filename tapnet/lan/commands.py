"""What ``tapnet bridge`` and ``tapnet route`` print, and their exit statuses."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

from ..options.converters import interface
from ..system.runtime import PathError
from ..text import printable
from . import bridge, watchdog
from .record import NOPERM, OSERR, USAGE, BridgeError, Interrupted, Outcome
from .rtnl import KernelError, Unmovable


def _say(text: str) -> None:
    print(f"tapnet: {printable(text)}", file=sys.stderr)


def tell(call: Callable[[], Outcome]) -> int:
    """Do it and print what came of it. Answers the exit status."""
    try:
        outcome = call()
    except (BridgeError, Unmovable) as error:
        _say(str(error))
        return getattr(error, "status", USAGE)
    except Interrupted as error:
        _say(f"{error}: all is as it was")
        return 128 + error.number
    except PathError as error:
        _say(str(error))
        return NOPERM
    except KernelError as error:
        _say(str(error))
        return OSERR
    for line in outcome.warnings:
        _say(f"warning: {line}")
    for line in outcome.lines:
        print(line)
    return 0


def _named(name: str, what: str) -> str:
    try:
        return interface(name)
    except ValueError as error:
        raise BridgeError(f"{what} {name}: {error}") from None


def bridge_up(name: str, uplink: str, confirm: float | None) -> int:
    """``tapnet bridge up``."""
    return tell(
        lambda: bridge.up(_named(name, "bridge"), _named(uplink, "--uplink"), confirm, watch=watchdog.start)
    )


def bridge_down(name: str, force: bool) -> int:
    """``tapnet bridge down``."""
    return tell(lambda: bridge.down(_named(name, "bridge"), force))


def bridge_confirm(name: str) -> int:
    """``tapnet bridge confirm``."""
    return tell(lambda: bridge.confirm(_named(name, "bridge")))


def route(tap: str, uplink: str) -> int:
    """``tapnet route``."""
    from . import route as routing

    status = 0

    def serve() -> Outcome:
        nonlocal status
        status = routing.run(
            _named(tap, "TAP"), _named(uplink, "--uplink"), lambda text: print(printable(text), flush=True)
        )
        return Outcome()

    return tell(serve) or status


def bridge_show(as_json: bool) -> int:
    """``tapnet bridge show``."""
    shown = bridge.show()
    if as_json:
        print(json.dumps(shown, indent=2))
        return 0
    for one in shown:
        state = {"not ours": "not made by tapnet", "raising": "interrupted", "lowering": "interrupted"}
        parts = [state.get(one["state"], one["state"])]
        if one["uplink"]:
            parts.append(f"uplink {one['uplink']}")
        if one["undone_in"] is not None:
            parts.append(f"undone in {one['undone_in']} s unless confirmed")
        print(f"{one['bridge']}: {', '.join(parts)}")
        if one["state"] == "gone":
            continue
        print(f"  members {' '.join(one['members']) or '-'}; addresses {' '.join(one['addresses']) or '-'}")
        stp = "on" if one["stp"] else "off"
        print(f"  {one['mac']} mtu {one['mtu']} stp {stp} ageing {one['ageing_s']:.0f} s")
    return 0
