"""``allow=...`` and ``deny=...`` as on the command line, to the engine's rules."""

from __future__ import annotations

import slirp.rules
from tapnet.options import grammars as rules


def rule(line: str) -> slirp.rules.Rule:
    action, _, text = line.partition("=")
    found = rules.allow(text) if action == "allow" else rules.deny(text)
    return slirp.rules.Rule(found.allow, found.protocol, found.net, found.ports, found.text)
