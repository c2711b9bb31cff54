"""What the host's firewall does to packets that it forwards, as far as its base chains say.

A chain on the forward hook drops what nothing else decides when its policy is drop, or when it ends with a drop or reject
that has no condition. Chains that it jumps to are not followed: a rule in one of them may still accept a guest. nftables
(and iptables on top of it) is asked by nfnetlink; the older iptables by its own program, where the kernel has its tables.

Ref: nft(8); include/uapi/linux/netfilter/nf_tables.h; nf_hook_slow.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..lan.belongings import plain
from ..system.patience import limit

_FORWARD = 2  # NF_INET_FORWARD, NF_BR_FORWARD
_FAMILY = {1: "inet", 2: "ip", 7: "bridge", 10: "ip6"}
_DROP = 0
_LEGACY_S = 10.0
_HARMLESS = frozenset(("counter", "log", "limit", "comment"))  # expressions that are no condition


@dataclass(frozen=True, slots=True)
class Barrier:
    """A chain that drops what nothing in it accepts. ``family``: ip, ip6, inet or bridge."""

    family: str
    table: str
    chain: str
    why: str
    legacy: bool = False

    @property
    def routed(self) -> bool:
        """Whether it sees routed packets; otherwise bridged frames."""
        return self.family != "bridge"

    def words(self) -> str:
        """For a message."""
        return f"{self.family} {self.table} {self.chain} ({self.why})"

    def opened(self, *conditions: str) -> str:
        """A command that lets packets pass: all, or those of ``conditions``, in nft's words: ``iifname tap0``."""
        if self.legacy:
            program = "ip6tables" if self.family == "ip6" else "iptables"
            flags = " ".join(c.replace("iifname", "-i").replace("oifname", "-o") for c in conditions)
            return f"{program}-legacy -I {self.chain} {flags} -j ACCEPT"
        return " ".join(["nft insert rule", self.family, self.table, self.chain, *conditions, "accept"])


def barriers(names: Path = Path("/proc/net")) -> list[Barrier]:
    """All of them. Raises OSError: without CAP_NET_ADMIN nobody may look."""
    return [*_nftables(), *_legacy(names)]


def _nftables() -> list[Barrier]:
    from pyroute2.netlink.exceptions import NetlinkError
    from pyroute2.nftables.main import NFTables

    nft = NFTables(nfgen_family=0)
    try:
        chains = [plain(m) for m in nft.get_chains()]
        rules = [plain(m) for m in nft.get_rules()]
    except NetlinkError as error:
        raise OSError(error.code, str(error)) from None
    finally:
        nft.close()
    found = []
    for chain in chains:
        values = _attributes(chain)
        hook = _attributes(values.get("NFTA_CHAIN_HOOK", {}))
        family = _FAMILY.get(chain["nfgen_family"])
        if (
            hook.get("NFTA_HOOK_HOOKNUM") != _FORWARD
            or family is None
            or values.get("NFTA_CHAIN_TYPE") != "filter"
        ):
            continue
        table, name = values["NFTA_CHAIN_TABLE"], values["NFTA_CHAIN_NAME"]
        verdicts = [
            _verdict(rule)
            for rule in rules
            if rule["nfgen_family"] == chain["nfgen_family"]
            and (attrs := _attributes(rule))["NFTA_RULE_TABLE"] == table
            and attrs["NFTA_RULE_CHAIN"] == name
        ]
        last = next((v for v in verdicts if v), "")
        if last in ("drop", "reject"):
            found.append(Barrier(family, table, name, f"ends with {last}"))
        elif values.get("NFTA_CHAIN_POLICY") == _DROP and last != "accept":
            found.append(Barrier(family, table, name, "policy drop"))
    return found


def _attributes(message: Any) -> dict[str, Any]:
    return dict(message.get("attrs", []))


def _verdict(rule: Any) -> str:
    """What a rule without a condition decides: accept, drop, reject; "" for all other rules."""
    for expression in _attributes(rule).get("NFTA_RULE_EXPRESSIONS") or []:
        values = _attributes(expression)
        name = values.get("NFTA_EXPR_NAME")
        if name == "reject":
            return "reject"
        if name == "immediate":
            data = _attributes(_attributes(values["NFTA_EXPR_DATA"]).get("NFTA_IMMEDIATE_DATA", {}))
            code = _attributes(data.get("NFTA_DATA_VERDICT", {})).get("NFTA_VERDICT_CODE")
            return {"NF_ACCEPT": "accept", "NF_DROP": "drop"}.get(str(code), "")
        if name not in _HARMLESS:
            return ""
    return ""


def _legacy(names: Path) -> list[Barrier]:
    """Policies of iptables' own tables."""
    found = []
    for family, program, listed in (
        ("ip", "iptables", "ip_tables_names"),
        ("ip6", "ip6tables", "ip6_tables_names"),
    ):
        try:
            tables = (names / listed).read_text().split()
        except OSError:
            continue
        path = shutil.which(f"{program}-legacy-save") or shutil.which(f"{program}-save")
        if "filter" not in tables or path is None:
            continue
        shown = subprocess.run(
            [path, "-t", "filter"], capture_output=True, text=True, timeout=limit(_LEGACY_S), check=False
        ).stdout
        if any(line.startswith(":FORWARD DROP") for line in shown.splitlines()):
            found.append(Barrier(family, "filter", "FORWARD", "policy drop", legacy=True))
    return found
