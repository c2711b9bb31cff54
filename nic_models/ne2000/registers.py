"""Registers and bits of the DP8390/NS32490 network interface controller, named as in its data sheet.

Ref: National Semiconductor DP8390D/NS32490D NIC data sheet, July 1995 (TL/F/8582), section 10;
     Realtek RTL8029AS preliminary specification LS009.0, 1997-01-16 (page 3, identification registers).
"""

from __future__ import annotations

# CR, command register (offset 0 of every page)
CR = 0x00
STP, STA, TXP = 0x01, 0x02, 0x04
RD_MASK, RD_READ, RD_WRITE, RD_SEND, RD_ABORT = 0x38, 0x08, 0x10, 0x18, 0x20
PAGE0, PAGE1, PAGE2, PAGE3 = 0x00, 0x40, 0x80, 0xC0

# Page 0, read
CLDA0, CLDA1, BNRY, TSR, NCR, FIFO, ISR = 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07
CRDA0, CRDA1, ID0, ID1, RSR, CNTR0, CNTR1, CNTR2 = 0x08, 0x09, 0x0A, 0x0B, 0x0C, 0x0D, 0x0E, 0x0F
# Page 0, write (BNRY and ISR as above)
PSTART, PSTOP, TPSR, TBCR0, TBCR1 = 0x01, 0x02, 0x04, 0x05, 0x06
RSAR0, RSAR1, RBCR0, RBCR1, RCR, TCR, DCR, IMR = 0x08, 0x09, 0x0A, 0x0B, 0x0C, 0x0D, 0x0E, 0x0F
# Page 1
PAR0, CURR, MAR0 = 0x01, 0x07, 0x08
# Page 2 (diagnostics: reads PSTART PSTOP TPSR RCR TCR DCR IMR at their places)
RNPP, LNPP, ACU, ACL = 0x03, 0x05, 0x06, 0x07
# Page 3 of the RTL8029AS
CR9346, CONFIG0, CONFIG2, CONFIG3, HLTCLK, ASID0, ASID1 = 0x01, 0x03, 0x05, 0x06, 0x09, 0x0E, 0x0F

# NE2000 board
DATA_PORT, RESET_PORT, BOARD_PORTS = 0x10, 0x18, 0x20  # each decoded over eight ports

# ISR and IMR
ISR_PRX, ISR_PTX, ISR_RXE, ISR_TXE, ISR_OVW, ISR_CNT, ISR_RDC, ISR_RST = (1 << n for n in range(8))
# DCR
DCR_WTS, DCR_BOS, DCR_LAS, DCR_LS, DCR_AR = 0x01, 0x02, 0x04, 0x08, 0x10
# TCR
TCR_CRC, TCR_LB, TCR_LB0, TCR_LB1, TCR_ATD, TCR_OFST = 0x01, 0x06, 0x02, 0x04, 0x08, 0x10
# TSR; bit 1 reads 1 (RTL8029AS; the DP8390's loopback tables show it as well)
TSR_PTX, TSR_ONE, TSR_COL, TSR_ABT, TSR_CRS, TSR_FU, TSR_CDH, TSR_OWC = (1 << n for n in range(8))
# RCR
RCR_SEP, RCR_AR, RCR_AB, RCR_AM, RCR_PRO, RCR_MON = (1 << n for n in range(6))
# RSR and the status byte of a packet header
RSR_PRX, RSR_CRC, RSR_FAE, RSR_FO, RSR_MPA, RSR_PHY, RSR_DIS, RSR_DFR = (1 << n for n in range(8))

# Bits that do not exist read as ones
RCR_ONES, TCR_ONES, DCR_ONES, IMR_ONES = 0xC0, 0xE0, 0x80, 0x80
