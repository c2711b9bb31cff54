"""Register map of the RTL8139C and RTL8139C+: offsets, bits, masks, EEPROM layout. Names are the data
sheet's.

Ref: Realtek RTL8139C(L) data sheet rev. 1.4 (2002/01/10), chapters 5 (registers), 6 (EEPROM contents);
     Realtek RTL8139C(L)+ data sheet rev. 1.6, chapters 5, 6.33 (C+CR), 9 (descriptors);
     Realtek RTL8139(A/B) programming guide 0.1 (receive ring, CAPR and CBR).
"""

from __future__ import annotations

VENDOR_ID = 0x10EC
DEVICE_ID = 0x8139
REV_C = 0x10  # RTL8139C: no C+ registers
REV_CPLUS = 0x20

# offsets
IDR0 = 0x00
MAR0 = 0x08
TSD0 = 0x10  # C mode; in C+ mode DTCCR is here
DTCCR = 0x10
TSAD0 = 0x20  # C mode; in C+ mode TNPDS and THPDS are here
TNPDS = 0x20
THPDS = 0x28
RBSTART = 0x30
ERBCR = 0x34
ERSR = 0x36
CR = 0x37
CAPR = 0x38
CBR = 0x3A
IMR = 0x3C
ISR = 0x3E
TCR = 0x40
RCR = 0x44
TCTR = 0x48
MPC = 0x4C
CR9346 = 0x50
CONFIG0 = 0x51
CONFIG1 = 0x52
TIMERINT = 0x54
MSR = 0x58
CONFIG3 = 0x59
CONFIG4 = 0x5A
MULINT = 0x5C
RERID = 0x5E
TSAD = 0x60
BMCR = 0x62
BMSR = 0x64
ANAR = 0x66
ANLPAR = 0x68
ANER = 0x6A
DIS = 0x6C
FCSC = 0x6E
NWAYTR = 0x70
REC = 0x72
CSCR = 0x74
PHY1_PARM = 0x78
TW_PARM = 0x7C
PHY2_PARM = 0x80
TDOKLA = 0x82
WAKEUP = 0x84  # CRC0-7, Wakeup0-7, LSBCRC0-7: stored, no wake-up
WAKEUP_END = 0xD4
CONFIG5 = 0xD8
TPPOLL = 0xD9
CPCR = 0xE0
RDSAR = 0xE4
ETTHR = 0xEC
WINDOW = 0x100

# TSD0-3
TSD_CRS = 1 << 31
TSD_TABT = 1 << 30
TSD_OWC = 1 << 29
TSD_TOK = 1 << 15
TSD_TUN = 1 << 14
TSD_OWN = 1 << 13
TSD_SIZE = 0x1FFF
TSD_WRITABLE = 0x003F3FFF  # ERTXTH, OWN, SIZE; the rest is cleared by writing the size
TX_DESCRIPTORS = 4

# CR
CR_RST = 0x10
CR_RE = 0x08
CR_TE = 0x04
CR_BUFE = 0x01

# ISR, IMR
INT_SERR = 1 << 15
INT_TIMEOUT = 1 << 14
INT_LENCHG = 1 << 13
INT_SWINT = 1 << 8  # C+
INT_TDU = 1 << 7  # C+
INT_FOVW = 1 << 6
INT_LINKCHG = 1 << 5  # also PUN
INT_RXOVW = 1 << 4  # in C+ mode RDU
INT_TER = 1 << 3
INT_TOK = 1 << 2
INT_RER = 1 << 1
INT_ROK = 1 << 0
INT_C = 0xE07F
INT_CPLUS = 0xE1FF

# ERSR
ERSR_GOOD = 0x08
ERSR_EROK = 0x01

# TCR
TCR_LBK = 3 << 17
TCR_CRC = 1 << 16  # do not append a FCS
TCR_CLRABT = 1
TCR_WRITABLE = (3 << 24) | TCR_LBK | TCR_CRC | (7 << 8) | (15 << 4)
TCR_ID_C = 0x74000000
TCR_ID_CPLUS = 0x74800000

# RCR
RCR_ERTH_SHIFT = 24
RCR_ERTH = 15 << RCR_ERTH_SHIFT  # sixteenths of a packet
RCR_MULERINT = 1 << 17
RCR_RBLEN_SHIFT = 11
RCR_RBLEN = 3 << RCR_RBLEN_SHIFT
RCR_WRAP = 1 << 7
RCR_AER = 0x20
RCR_AR = 0x10
RCR_AB = 0x08
RCR_AM = 0x04
RCR_APM = 0x02
RCR_AAP = 0x01
RCR_WRITABLE = 0x0F03FFBF  # all but 9356SEL and the reserved bits
RING_SMALLEST = 8192
CAPR_OFFSET = 0x10  # CAPR is 16 less than the place that it means

# receive header (C mode)
RX_MAR = 1 << 15
RX_PAM = 1 << 14
RX_BAR = 1 << 13
RX_LONG = 1 << 3
RX_ROK = 1 << 0
RX_LONG_BYTES = 4096
RX_UNFINISHED = 0xFFF0  # in place of the length: an early packet, not whole yet

# 9346CR
EEM = 0xC0
EEM_AUTOLOAD = 0x40
EEM_PROGRAM = 0x80
EEM_CONFIG = 0xC0
EECS = 0x08
EESK = 0x04
EEDI = 0x02
EEDO = 0x01
CR9346_WRITABLE = EEM | EECS | EESK | EEDI

# Config bits that a driver can write
CONFIG0_WRITABLE = 0x07
CONFIG1_WRITABLE = 0xF3
CONFIG1_MAPPED = 0x0C  # MEMMAP, IOMAP
CONFIG3_WRITABLE = 0x70
CONFIG3_FBTBEN = 0x01
MNGNT_DEFAULT, MXLAT_DEFAULT = 0x20, 0x40
CONFIG4_WRITABLE = 0xF5
CONFIG5_WRITABLE = 0x7F

# MSR
MSR_TXFCE = 0x80
MSR_RXFCE = 0x40
MSR_AUX = 0x10
MSR_SPEED10 = 0x08
MSR_LINKB = 0x04

BMCR_LOCKED = 0x3100  # speed, auto-negotiation enable, duplex: only with EEM = 11
BMCR_FREE = 0x8200  # reset, restart
CSCR_DEFAULT = 0x03C0  # LD, HEART BEAT, JBEN, F_LINK_100
CSCR_WRITABLE = 0x03E5
CSCR_CONNECTED = 0x0008
CSCR_CHANGED = 0x0800  # not in the data sheet; 8139too looks at its carrier only if it finds it set

# C+CR
CPCR_RXVLAN = 0x40
CPCR_RXCHKSUM = 0x20
CPCR_DAC = 0x10
CPCR_MULRW = 0x08
CPCR_RXEN = 0x02
CPCR_TXEN = 0x01
CPCR_WRITABLE = 0x007B

# TPPoll
POLL_HPQ = 0x80
POLL_NPQ = 0x40
POLL_FSWINT = 0x01

DTCCR_CMD = 0x08

# C+ descriptors, first word
D_OWN = 1 << 31
D_EOR = 1 << 30
D_FS = 1 << 29
D_LS = 1 << 28
DESCRIPTOR_BYTES = 16
RING_DESCRIPTORS = 64  # at most, each ring

TD_LGSEN = 1 << 27
TD_MSS_SHIFT = 16
TD_MSS = 0x7FF
TD_IPCS = 1 << 18
TD_UDPCS = 1 << 17
TD_TCPCS = 1 << 16
TD_LENGTH = 0xFFFF
TD_UNF = 1 << 25
TD_TES = 1 << 23
TD_OWC = 1 << 22
TD_LNKF = 1 << 21
TD_EXC = 1 << 20
TD_STATUS = TD_UNF | TD_TES | TD_OWC | TD_LNKF | TD_EXC
TD_TAGC = 1 << 17  # second word

RD_MAR = 1 << 26
RD_PAM = 1 << 25
RD_BAR = 1 << 24
RD_RWT = 1 << 21
RD_RES = 1 << 20
RD_PID_TCP = 1 << 16
RD_PID_UDP = 2 << 16
RD_PID_IP = 3 << 16
RD_IPF = 1 << 15
RD_UDPF = 1 << 14
RD_TCPF = 1 << 13
RD_LENGTH = 0x1FFF
RD_TAVA = 1 << 16  # second word

# EEPROM: 64 words of 16 bits
EEPROM_ID = 0x8129
EEPROM_MAC = 7  # first of three words


def eeprom_words(mac: bytes, subsystem: tuple[int, int]) -> list[int]:
    """Contents of a new card's 93C46: identity, subsystem, station address, and the Config registers."""
    words = [0] * 64
    words[0] = EEPROM_ID
    words[1], words[2] = VENDOR_ID, DEVICE_ID
    words[3], words[4] = subsystem
    words[5] = MXLAT_DEFAULT << 8 | MNGNT_DEFAULT  # in 250 ns
    words[6] = 0x0110 | MSR_TXFCE | MSR_RXFCE  # MSRBMCR: auto-negotiation; CONFIG3: fast back-to-back
    for index in range(3):
        words[EEPROM_MAC + index] = int.from_bytes(mac[2 * index : 2 * index + 2], "little")
    words[10] = CONFIG1_MAPPED << 8  # CONFIG0, CONFIG1
    return words
