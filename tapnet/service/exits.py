"""How ``tapnet run`` ends: exit statuses that a service manager can tell apart.

    0    asked to stop                    2    what the user configured wrong: trying again does not mend it
    69   a service or device is not there (no /dev/net/tun)
    70   a mistake in tapnet itself       71   the system is out of something: memory, descriptors
    74   input or output failed           75   taken now, perhaps free later: an address, a device, a name
    77   not permitted

An error that has an ``OSError`` behind it (its ``__cause__`` or ``__context__``, also where it was raised ``from None``)
is told by that one's errno; every other error is the user's.

Ref: sysexits.h of BSD; systemd.exec(5), "Process Exit Codes".
"""

from __future__ import annotations

import errno

USAGE, UNAVAILABLE, SOFTWARE, OSERR, IOERR, TEMPFAIL, NOPERM = 2, 69, 70, 71, 74, 75, 77
CHAIN_MAX = 8

_BY_ERRNO = {
    **dict.fromkeys((errno.EPERM, errno.EACCES), NOPERM),
    **dict.fromkeys((errno.EADDRINUSE, errno.EBUSY, errno.EAGAIN), TEMPFAIL),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS), OSERR),
    **dict.fromkeys((errno.EIO, errno.ENOSPC, errno.EROFS, errno.EDQUOT), IOERR),
}
_ABSENT = (errno.ENOENT, errno.ENODEV, errno.ENXIO)
_DEVICES = ("/dev/",)


def status_of(error: BaseException) -> int:
    """The exit status that tells ``error``."""
    found: BaseException | None = error
    for _ in range(CHAIN_MAX):
        if found is None:
            break
        if isinstance(found, MemoryError):
            return OSERR
        if isinstance(found, OSError) and found.errno is not None:
            if found.errno in _ABSENT and str(found.filename or "").startswith(_DEVICES):
                return UNAVAILABLE
            return _BY_ERRNO.get(found.errno, USAGE)
        found = found.__cause__ or found.__context__
    return USAGE
