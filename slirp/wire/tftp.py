r"""TFTP's messages: requests with their options, names, netascii. No state, no time.

A request is ``opcode name 0 mode 0 (option 0 value 0)*``. Names of modes and options are case-insensitive. An option
that makes no sense is left out, as RFC 2347 has it for options that a server does not know; of one that is given
twice the first counts.

A name is relative to the served directory; a leading "/" means the directory itself, as PXE firmware has it; a name
that begins with the directory's own full path means what it says. Windows' boot programs write "\" for "/", and a drive
in front of the first one ("C:\Boot\BCD"), which means nothing here. A part ".." is refused, whatever it would lead to.

Ref: RFC 1350 (and its appendix: netascii is RFC 764's); RFC 2347; RFC 2348; RFC 2349; RFC 7440.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from struct import Struct

RRQ, WRQ, DATA, ACK, ERROR, OACK = range(1, 7)
HEAD = Struct("!HH")  # opcode, block or error code
HEAD_LEN = 4

# error codes
UNDEFINED, NOT_FOUND, ACCESS, DISK_FULL, ILLEGAL, UNKNOWN_TID, EXISTS, NO_USER, OPTION = range(9)
TEXTS = (
    "error",
    "File not found",
    "Access violation",
    "Disk full or allocation exceeded",
    "Illegal TFTP operation",
    "Unknown transfer ID",
    "File already exists",
    "No such user",
    "Option negotiation failed",
)

BLKSIZE, BLKSIZE_MIN, BLKSIZE_MAX = 512, 8, 65464
TIMEOUT_MIN, TIMEOUT_MAX = 1, 255  # seconds
WINDOW_MAX = 65535
REQUEST_MAX = 2048  # RFC 2347 says 512; some firmware sends long names and many options
NAME_MAX = 512
TSIZE_MAX = (1 << 63) - 1


class Refusal(Exception):
    """A request that is answered by an error."""

    def __init__(self, code: int, text: str = "") -> None:
        super().__init__(text or TEXTS[code])
        self.code = code


@dataclass(frozen=True, slots=True)
class Request:
    """A read or write request. Options: None where they were not asked for, or make no sense."""

    write: bool
    name: bytes
    netascii: bool
    blksize: int | None = None
    timeout: int | None = None  # seconds
    tsize: int | None = None  # bytes
    windowsize: int | None = None


def parse_request(data: bytes) -> Request:
    """A message to port 69. Raises Refusal."""
    opcode = int.from_bytes(data[:2], "big")
    if opcode not in (RRQ, WRQ) or len(data) > REQUEST_MAX:
        raise Refusal(ILLEGAL)
    fields = data[2:].split(b"\0")
    if len(fields) < 3:  # with the final 0 there is one more than what was said
        raise Refusal(ILLEGAL)
    name, mode = fields[0], fields[1].lower()
    if mode not in (b"octet", b"netascii"):
        raise Refusal(ILLEGAL, "Unsupported transfer mode")
    options: dict[bytes, int] = {}
    for key, value in zip(fields[2:-1:2], fields[3:-1:2], strict=False):
        if value.isdigit() and len(value) <= 20:
            options.setdefault(key.lower(), int(value))
    return Request(
        opcode == WRQ,
        name,
        mode == b"netascii",
        _option(options, b"blksize", BLKSIZE_MIN, 1 << 64, BLKSIZE_MAX),
        _option(options, b"timeout", TIMEOUT_MIN, TIMEOUT_MAX, TIMEOUT_MAX),
        _option(options, b"tsize", 0, TSIZE_MAX, TSIZE_MAX),
        _option(options, b"windowsize", 1, WINDOW_MAX, WINDOW_MAX),
    )


def _option(options: dict[bytes, int], name: bytes, low: int, high: int, most: int) -> int | None:
    value = options.get(name)
    return min(value, most) if value is not None and low <= value <= high else None


def name_parts(name: bytes, roots: Sequence[bytes]) -> list[bytes]:
    """A requested name as parts beneath the directory, whose full paths are ``roots``. Raises Refusal."""
    if not name or len(name) > NAME_MAX:
        raise Refusal(NOT_FOUND)
    name = name.replace(b"\\", b"/")
    if name[1:3] == b":/" and name[:1].isalpha():
        name = name[2:]
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    if b".." in parts or not parts or name.endswith(b"/"):
        raise Refusal(ACCESS)
    for root in roots:
        above = [part for part in root.split(b"/") if part]
        if name.startswith(b"/") and len(parts) > len(above) and parts[: len(above)] == above:
            return parts[len(above) :]
    return parts


def data_message(block: int, payload: bytes | bytearray | memoryview) -> bytes:
    """DATA; ``block`` rolls over to 0."""
    return HEAD.pack(DATA, block & 0xFFFF) + payload


def ack_message(block: int) -> bytes:
    """ACK; ``block`` rolls over to 0."""
    return HEAD.pack(ACK, block & 0xFFFF)


def error_message(code: int, text: str = "") -> bytes:
    """Return an ERROR message with its own or the usual text."""
    return HEAD.pack(ERROR, code) + (text or TEXTS[code]).encode("ascii", "replace") + b"\0"


def oack_message(options: Sequence[tuple[str, int]]) -> bytes:
    """Return an OACK message with these options (RFC 2347)."""
    return OACK.to_bytes(2, "big") + b"".join(f"{name}\0{value}\0".encode() for name, value in options)


def to_netascii(data: bytes) -> bytes:
    """The host's text to netascii: LF becomes CR LF, CR becomes CR NUL."""
    return data.replace(b"\r", b"\r\0").replace(b"\n", b"\r\n")


class FromNetascii:
    """netascii to the host's text, piece by piece: a CR at the end of a piece waits for the next."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held = b""

    def feed(self, data: bytes, final: bool) -> bytes:
        """The text of one more piece."""
        data = self._held + data
        self._held = b""
        if data.endswith(b"\r") and not final:
            self._held, data = b"\r", data[:-1]
        return data.replace(b"\r\n", b"\n").replace(b"\r\0", b"\r")
