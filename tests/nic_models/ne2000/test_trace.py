"""The register map in words."""

import pytest

from nic_models.ne2000 import registers as r
from nic_models.ne2000.trace import DP8390, Trace, describe


@pytest.mark.parametrize(
    ("page", "offset", "written", "value", "text"),
    [
        (0, r.ISR, False, 0x42, "ISR = 0x42 (RDC=1, PTX=1)"),
        (0, r.CR, True, 0x61, "CR = 0x61 (PS=1, RD=4, STP=1)"),
        (0, r.TCR, True, 0x02, "TCR = 0x02 (LB=1)"),
        (2, r.DCR, False, 0xC9, "DCR = 0xc9 (FT=2, LS=1, WTS=1)"),
        (1, r.CURR, False, 0x4C, "CURR = 0x4c"),
        (3, r.CR9346, True, 0x8E, "9346CR = 0x8e (EEM=2, EECS=1, EESK=1, EEDI=1)"),
        (2, 0x0A, False, 1, "page 2 offset 0x0a = 0x01"),
    ],
)
def test_describe(page, offset, written, value, text):
    assert describe(DP8390, page, offset, written, value) == text


def test_trace_follows_the_page():
    lines = []
    trace = Trace(lines.append)
    trace.access(r.CR, 1, True, 0x62)
    trace.access(7, 1, False, 0x4D)
    trace.access(r.CR, 1, True, 0x22)
    trace.access(7, 1, True, 0x40)
    trace.access(0x10, 4, False, 0x11223344)
    trace.access(0x1F, 1, False, 0)
    trace.access(0x20, 1, False, 0xFF)
    assert lines == [
        "CR <- 0x62 (PS=1, RD=4, STA=1)",
        "CURR = 0x4d",
        "CR <- 0x22 (RD=4, STA=1)",
        "ISR <- 0x40 (RDC=1)",
        "DATA = 0x11223344",
        "RESET = 0x00",
        "offset 0x20 = 0xff",
    ]
