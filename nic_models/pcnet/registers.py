"""Register map of the Am79C970A (PCnet-PCI II): I/O offsets, CSR and BCR bits, masks, reset values.

Names are the data sheet's. "u" there means undefined after power-on; such registers are 0 here.

Ref: AMD Am79C970A PCnet-PCI II data sheet, publication 19436 rev. E (June 2000), chapters "I/O Resources",
     "Control and Status Registers", "Bus Configuration Registers", "Initialization Block", "Receive
     Descriptors", "Transmit Descriptors". BCR32-34 (MII management) are the Am79C971's (publication 20550).
"""

from __future__ import annotations

VENDOR_ID = 0x1022
DEVICE_ID = 0x2000
REVISION = 0x10
WINDOW = 0x20

# I/O resources: the address PROM, then four registers whose place depends on the I/O mode
APROM_BYTES = 0x10
RDP = 0x10
WIO_RAP, WIO_RESET, WIO_BDP = 0x12, 0x14, 0x16
DWIO_RAP, DWIO_RESET, DWIO_BDP = 0x14, 0x18, 0x1C

# CSR0: controller status
ERR = 0x8000
BABL = 0x4000
CERR = 0x2000
MISS = 0x1000
MERR = 0x0800
RINT = 0x0400
TINT = 0x0200
IDON = 0x0100
INTR = 0x0080
IENA = 0x0040
RXON = 0x0020
TXON = 0x0010
TDMD = 0x0008
STOP = 0x0004
STRT = 0x0002
INIT = 0x0001
CSR0_CLEARABLE = BABL | CERR | MISS | MERR | RINT | TINT | IDON
CSR0_ERRORS = BABL | CERR | MISS | MERR
CSR0_INTERRUPTS = BABL | MISS | MERR | RINT | TINT | IDON  # CERR raises none

# CSR3: interrupt masks (same places as in CSR0) and deferral control
CSR3_WRITABLE = 0x5F7C
DXSUFLO = 0x0040
LAPPEN = 0x0020
BSWP = 0x0004

# CSR4: test and features control; each status bit has its mask one place below it
DPOLL = 0x1000
ENTST = 0x8000
APAD_XMT = 0x0800
ASTRP_RCV = 0x0400
MFCO = 0x0200
UINTCMD = 0x0080
UINT = 0x0040
RCVCCO = 0x0020
TXSTRT = 0x0008
JAB = 0x0002
CSR4_CLEARABLE = MFCO | UINT | RCVCCO | TXSTRT | JAB
CSR4_MASKS = 0x0115
CSR4_STOP_CLEARS = CSR4_CLEARABLE | UINTCMD

# CSR5: extended control and interrupt; each status bit has its enable one place below it
TOKINTD = 0x8000
LTINTEN = 0x4000
SINT = 0x0800
SLPINT = 0x0200
EXDINT = 0x0080
MPPLBA = 0x0020
MPINT = 0x0010
MPEN = 0x0004
MPMODE = 0x0002
SPND = 0x0001
CSR5_CLEARABLE = SINT | SLPINT | EXDINT | MPINT
CSR5_WRITABLE = 0xC56E  # SPND apart
CSR5_ENABLES = 0x0048  # EXDINTE, MPINTE: with IENA
CSR5_ENABLES_ALWAYS = 0x0500  # SINTE, SLPINTE: whatever IENA says
CSR5_STOP_CLEARS = MPINT | EXDINT | SPND

# CSR15: mode
PROM = 0x8000
DRCVBC = 0x4000
DRCVPA = 0x2000
DLNKTST = 0x1000
INTL = 0x0040
FCOLL = 0x0010
DXMTFCS = 0x0008
LOOP = 0x0004
DTX = 0x0002
DRX = 0x0001
MODE_KEPT = 0x21C4  # what a reset leaves as it is

CSR80_RESET = 0x1410
CSR88_CHIP_ID = 0x1003
CSR89_CHIP_ID = 0x0262
CSR100_RESET = 0x0200
CSR103_RESET = 0x0105
RCVALGN = 0x0001  # CSR122
CSR124_WRITABLE = 0x0018  # GPSIEN, RPA

# How a CSR is written: number -> writable bits. What is in neither table is read-only or handled by name.
CSR_ALWAYS = {3: CSR3_WRITABLE, 82: 0xFFFF, 122: RCVALGN, 124: CSR124_WRITABLE}
CSR_STOPPED = {  # only while STOP or SPND is set
    **dict.fromkeys((1, 2, *range(8, 16), *range(18, 48), *range(60, 68)), 0xFFFF),
    **dict.fromkeys((76, 78, 84, 85, 86, 92, 94, 100), 0xFFFF),
    **dict.fromkeys((40, 42, 44, 62, 66), 0x0FFF),
    80: 0x3FFF,
}
RCVRC, XMTRC = 72, 74
RCVRL, XMTRL = 76, 78
POLL, POLLINT = 46, 47
SWS_MIRROR = 58
MFC, RCC = 112, 114

# CSR numbers of 32-bit pointers (low half)
IADR, BADR, BADX = 1, 24, 30
CRBA, CXBA, NRBA, NRDA, CRDA, NXDA, CXDA, NNRD, NNXD, PXDA, NXBA = 18, 20, 22, 26, 28, 32, 34, 36, 38, 60, 64

# BCRs
MC, LNKST, LED1, LED2, LED3, FDC, BSBC, EECAS, SWS, INTCON, PCILAT = 2, 4, 5, 6, 7, 9, 18, 19, 20, 21, 22
MIICAS, MIIADDR, MIIMDR = 32, 33, 34
APROMWE = 0x0100  # BCR2
TMAULOOP = 0x4000  # BCR2
LEDOUT = 0x8000  # BCR4-7
LED_FDLS = 0x0100
LED_LNKS = 0x0040
FDEN = 0x0001  # BCR9
DWIO = 0x0080  # BCR18
PREAD = 0x4000  # BCR19
APERREN = 0x0400  # BCR20
CSRPCNET = 0x0200
SSIZE32 = 0x0100
MIIPD = 0x4000  # BCR32: a PHY answers
PHY_ADDRESS = 1

BCR_RESET = {
    0: 0x0005, 1: 0x0005, MC: 0x0002, LNKST: 0x00C0, LED1: 0x0084, LED2: 0x0088, LED3: 0x0090, FDC: 0x0000,
    BSBC: 0x9001, EECAS: 0x0002, SWS: CSRPCNET, PCILAT: 0xFF06, MIICAS: MIIPD, MIIADDR: PHY_ADDRESS << 5,
}  # fmt: skip
BCR_ALWAYS = {
    MC: 0x418F, **dict.fromkeys((LNKST, LED1, LED2, LED3), 0x63FF), FDC: 0x0007, BSBC: 0xF360, EECAS: 0x0017,
    MIICAS: 0x3FFE, MIIADDR: 0x03FF,
}  # fmt: skip
SWSTYLES = {0: CSRPCNET, 1: SSIZE32 | 1, 2: CSRPCNET | SSIZE32 | 2, 3: CSRPCNET | SSIZE32 | 3}

# Descriptor status, as the upper half of RMD1 and TMD1 (32-bit styles; style 0 has the upper byte of it)
D_OWN = 0x8000
D_ERR = 0x4000
D_STP = 0x0200
D_ENP = 0x0100
R_FRAM = 0x2000
R_OFLO = 0x1000
R_CRC = 0x0800
R_BUFF = 0x0400
R_PAM = 0x0040
R_LAFM = 0x0020
R_BAM = 0x0010
R_STATUS = D_OWN | D_ERR | R_FRAM | R_OFLO | R_CRC | R_BUFF | D_STP | D_ENP | 0x0080 | R_PAM | R_LAFM | R_BAM
T_ADD_FCS = 0x2000
T_LTINT = 0x1000
T_MORE = 0x1000
T_ONE = 0x0800
T_DEF = 0x0400
T_BPE = 0x0080

# TMD2 (its upper half; style 0: TMD3)
T_BUFF = 0x8000
T_UFLO = 0x4000
T_LCAR = 0x0800
T_RTRY = 0x0400

MAX_RING_CODE = 9  # RLEN, TLEN: 512 descriptors
