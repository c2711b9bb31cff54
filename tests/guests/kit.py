"""The guest kit: what real VMs are made of, built once into an ignored folder (``make guests``).

* QEMU 10.1 or newer (``vfio-user-pci``): a Debian trixie folder with backports, run by chroot;
* the kernel that ``linux-image-amd64`` of this machine's Debian depends on and its NIC modules, unpacked, never
  installed;
* bookworm's i386 kernel with the ISA ``ne`` driver, by a private apt directory;
* an initramfs of busybox-static, the modules and a shell on the serial console.

Everything comes from Debian by the mirror that this machine's own apt names. Needs root (debootstrap, chroot).
"""

from __future__ import annotations

import bz2
import fcntl
import gzip
import lzma
import os
import re
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
KIT = Path(os.environ.get("TAPNET_GUESTS") or ROOT / ".cache" / "guests")
MODULES = ("8390", "ne2k-pci", "mii", "8139too", "8139cp", "pcnet32")
ISA_MODULES = ("8390p", "ne")  # of the i386 kernel only


class KitError(Exception):
    """A part of the kit could not be built."""


def _run(*words: str | Path, **more) -> str:
    done = subprocess.run(
        [str(w) for w in words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **more
    )
    if done.returncode:
        raise KitError(f"{' '.join(str(w) for w in words)}: {done.stdout[-2000:]}")
    return done.stdout


def _locked(function):
    """One builder at a time, however many test processes ask."""

    def wrapper(*args):
        KIT.mkdir(parents=True, exist_ok=True)
        with open(KIT / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            return function(*args)

    return wrapper


def mirror() -> str:
    """The Debian archive's address, from this machine's apt configuration."""
    listing = _run(
        "apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Component: main"
    )
    for line in listing.split():
        if re.search(r"/debian/?$", line):
            return line.rstrip("/")
    raise KitError("apt's configuration names no Debian archive")


@_locked
def qemu_root() -> Path:
    """A folder with a QEMU that has vfio-user-pci: ``chroot FOLDER qemu-system-x86_64``."""
    folder = KIT / "trixie"
    stamp = KIT / "trixie.ok"
    if stamp.exists() and folder.exists():
        return folder
    _run("rm", "-rf", "--one-file-system", folder)
    archive = mirror()
    _run("debootstrap", "--variant=minbase", "--include=ca-certificates", "trixie", folder, archive)
    (folder / "etc/apt/sources.list").write_text(
        f"deb {archive} trixie main\ndeb {archive} trixie-backports main\n"
    )
    for extra in Path("/etc/apt/apt.conf.d").glob("*"):
        if re.search(r"Acquire::", extra.read_text(errors="replace")):
            shutil.copy(extra, folder / "etc/apt/apt.conf.d")
    _run("chroot", folder, "apt-get", "-q", "update")
    _run(
        *("chroot", folder, "apt-get", "-q", "install", "-y", "--no-install-recommends"),
        *("-t", "trixie-backports", "qemu-system-x86"),
        env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"},
    )
    _run("chroot", folder, "apt-get", "clean")
    stamp.write_text(_run("chroot", folder, "qemu-system-x86_64", "--version"))
    return folder


def kernel_packages(meta: str, depends: Callable[[str], str]) -> list[str]:
    """The packages that hold the kernel which ``meta`` stands for; ``depends`` gives apt-cache's words on one.

    Up to Debian 13 that is one package; later the image, its configuration and the modules have their own.
    """
    listing = depends(meta)
    found = re.search(r"Depends: linux-image-(\S+)", listing)
    if not found:
        raise KitError(f"{meta} depends on no kernel:\n{listing}")
    image, release = f"linux-image-{found.group(1)}", re.escape(found.group(1))
    return [image, *re.findall(rf"Depends: (linux-(?:base|binary|modules)-{release})$", depends(image), re.M)]


def _unpack(meta: str, folder: Path, apt: tuple[str, ...] = ()) -> None:
    """Download the kernel that the meta package depends on and unpack it into ``folder``."""
    packages = kernel_packages(meta, lambda name: _run("apt-cache", *apt, "depends", name))
    _run("rm", "-rf", folder)
    download = folder.with_suffix(".deb.d")
    _run("rm", "-rf", download)
    download.mkdir(parents=True)
    _run("apt-get", *apt, "-q", "download", *packages, cwd=download)
    for package in sorted(download.glob("*.deb")):
        _run("dpkg", "-x", package, folder)
    shutil.rmtree(download)


@_locked
def kernel() -> Path:
    """Folder of this Debian's amd64 kernel, unpacked: see ``vmlinuz`` and ``drivers``."""
    folder = KIT / "kernel-amd64"
    if not _images(folder):
        _unpack("linux-image-amd64", folder)
    return folder


@_locked
def kernel_686() -> Path:
    """Folder of bookworm's i386 kernel, which has the ISA ``ne`` driver."""
    folder = KIT / "kernel-686"
    if not _images(folder):
        private = KIT / "apt-i386"
        for name in ("lists/partial", "cache/archives/partial", "sources.d"):
            (private / name).mkdir(parents=True, exist_ok=True)
        (private / "status").touch()
        (private / "sources.list").write_text(f"deb [arch=i386] {mirror()} bookworm main\n")
        apt = _private_apt(private)
        _run("apt-get", *apt, "-q", "update")
        _unpack("linux-image-686", folder, apt)
    return folder


def _images(folder: Path) -> list[Path]:
    """Kernel images of an unpacked kernel folder: in boot, after Debian 13 beside the modules."""
    return [*folder.glob("boot/vmlinuz-*"), *folder.glob("usr/lib/modules/*/vmlinuz")]


def vmlinuz(folder: Path) -> Path:
    """The kernel image of an unpacked kernel folder."""
    images = _images(folder)
    if not images:
        raise KitError(f"{folder}: no kernel")
    return images[0]


# ---- compression -------------------------------------------------------------------------------------------

# How a stream begins (Linux: lib/decompress.c), and the name of its format.
_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\x5d\0\0": "lzma",
    b"\xfd7zXZ\0": "xz",
    b"\x89LZO\0": "lzo",
    b"\x02\x21\x4c\x18": "lz4",
    b"\x28\xb5\x2f\xfd": "zstd",
}


def compression(data: bytes) -> str:
    """The format of a compressed stream by its first bytes; the bytes themselves where it is none that Linux knows."""
    for magic, name in _MAGIC.items():
        if data.startswith(magic):
            return name
    return f"unknown ({data[:6].hex()})"


def _zstd(data: bytes) -> bytes:
    try:
        done = subprocess.run(["zstd", "-dcq"], input=data, capture_output=True)
    except FileNotFoundError:
        raise KitError("zstd is not installed") from None
    if done.returncode:
        raise KitError(done.stderr.decode(errors="replace").strip())
    return done.stdout


def _stream(
    decompressor: zlib._Decompress | bz2.BZ2Decompressor | lzma.LZMADecompressor, data: bytes
) -> bytes:
    unpacked = decompressor.decompress(data)
    if not decompressor.eof:
        raise EOFError("it ends early")
    return unpacked


_UNPACK: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: _stream(zlib.decompressobj(wbits=zlib.MAX_WBITS | 16), data),
    "bzip2": lambda data: _stream(bz2.BZ2Decompressor(), data),
    "lzma": lambda data: _stream(lzma.LZMADecompressor(), data),
    "xz": lambda data: _stream(lzma.LZMADecompressor(), data),
    "zstd": _zstd,
}


def decompressed(data: bytes, what: str) -> bytes:
    """One compressed stream unpacked. Raises KitError that names ``what`` and its compression."""
    how = compression(data)
    if how not in _UNPACK:
        raise KitError(f"{what}: the kit cannot unpack its compression {how}")
    try:
        return _UNPACK[how](data)
    except (zlib.error, lzma.LZMAError, OSError, EOFError, KitError) as error:
        raise KitError(f"{what}: {how}: {error}") from None


_SETUP_SECTS, _PAYLOAD = 0x1F1, 0x248  # of the bzImage header (Documentation/x86/boot)
_ELF = b"\x7fELF"


def elf_of(image: bytes, what: str) -> bytes:
    """The ELF kernel inside a bzImage, whose last four bytes are its unpacked size."""
    offset, length = struct.unpack_from("<II", image, _PAYLOAD)
    offset += ((image[_SETUP_SECTS] or 4) + 1) * 512
    payload = image[offset : offset + length]
    # gzip ends with the size itself; the kernel's build appends it to the other formats.
    stream = payload if compression(payload) == "gzip" else payload[:-4]
    unpacked = decompressed(stream, what)
    if not unpacked.startswith(_ELF) or payload[-4:] != struct.pack("<I", len(unpacked)):
        raise KitError(f"{what}: what was unpacked is not the kernel")
    return unpacked


@_locked
def boot_image(folder: Path) -> Path:
    """What QEMU's -kernel boots fastest: the unpacked ELF image where the kernel has a PVH entry, otherwise vmlinuz.

    A guest under TCG needs some five seconds to unpack its own kernel.
    """
    packed = vmlinuz(folder)
    inside = packed.parent.name != "boot"  # usr/lib/modules/RELEASE
    release = packed.parent.name if inside else packed.name.removeprefix("vmlinuz-")
    config = packed.with_name("config" if inside else f"config-{release}")
    if "CONFIG_PVH=y" not in config.read_text():
        return packed
    image = KIT / f"vmlinux-{release}"
    if not image.exists() or image.stat().st_mtime < packed.stat().st_ctime:
        temporary = image.with_suffix(".new")
        temporary.write_bytes(elf_of(packed.read_bytes(), f"vmlinuz-{release}"))
        temporary.rename(image)
    return image


def drivers(folder: Path) -> dict[str, bytes]:
    """The NIC drivers of an unpacked kernel by name, as plain ELF files however Debian packs them.

    Up to Debian 12 they are lib/modules/**/*.ko, in 13 usr/lib/modules/**/*.ko.xz.
    """
    found: dict[str, bytes] = {}
    names = (*MODULES, *ISA_MODULES) if "686" in folder.name else MODULES
    for name in names:
        for tree in ("lib/modules", "usr/lib/modules"):
            for path in (folder / tree).rglob(f"{name}.ko*"):
                data = path.read_bytes()
                found[name] = data if data.startswith(_ELF) else decompressed(data, path.name)
    missing = [name for name in names if name not in found]
    if missing:
        raise KitError(f"{folder}: no driver {', '.join(missing)}")
    return found


INIT = """#!/bin/sh
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev 2>/dev/null
mkdir -p /dev/pts; mount -t devpts pts /dev/pts
echo 1 > /proc/sys/kernel/printk
ip link set lo up
dmesg -c >/dev/null
setsid -c sh -c 'stty -echo; echo GUEST-READY
while IFS= read -r line; do ( eval "$line" ) 2>&1; done' </dev/ttyS0 >/dev/ttyS0 2>&1
poweroff -f
"""

UDHCPC = """#!/bin/sh
case "$1" in
deconfig) ip -4 addr flush dev $interface; ip link set $interface up;;
bound|renew)
  ip -4 addr flush dev $interface; ip addr add $ip/$mask dev $interface
  [ -n "$router" ] && ip route replace default via ${router%% *}
  : > /etc/resolv.conf; for d in $dns; do echo nameserver $d >> /etc/resolv.conf; done
  echo "lease $ip/$mask router $router dns $dns";;
esac
"""


def _cpio(entries: Iterable[tuple[str, int, bytes]]) -> bytes:
    """A cpio archive in the kernel's "newc" format (Documentation/driver-api/early-userspace/buffer-format)."""
    out = bytearray()
    for number, (name, mode, data) in enumerate([*entries, ("TRAILER!!!", 0, b"")], 1):
        text = name.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(text), 0)
        out += b"070701" + "".join(f"{f:08x}" for f in fields).encode() + text
        out += bytes(-len(out) % 4) + data
        out += bytes(-len(out) % 4)
    return bytes(out)


@_locked
def initramfs(folder: Path) -> Path:
    """An initramfs for the kernel in ``folder``: busybox, udhcpc's script, the NIC modules in /lib/m."""
    image = KIT / f"initramfs-{folder.name}.gz"
    source = Path(__file__)
    if image.exists() and image.stat().st_mtime > max(
        source.stat().st_mtime, vmlinuz(folder).stat().st_ctime
    ):
        return image
    busybox = shutil.which("busybox")
    if busybox is None or "686" in folder.name:
        busybox = str(_busybox_i386()) if "686" in folder.name else None
    if busybox is None:
        raise KitError("busybox-static is not installed")
    entries: list[tuple[str, int, bytes]] = [
        (name, 0o040755, b"")
        for name in (
            "bin",
            "dev",
            "proc",
            "sys",
            "etc",
            "lib",
            "lib/m",
            "tmp",
            "usr",
            "usr/share",
            "etc/udhcpc",
            "www",
        )
    ]
    entries.append(("dev/console", 0o020600, b""))
    entries.append(("bin/busybox", 0o100755, Path(busybox).read_bytes()))
    applets = (
        "sh ash ip ifconfig ping cat echo ls mount mkdir insmod rmmod lsmod udhcpc wget nslookup nc md5sum sha256sum "
        "sleep poweroff reboot grep head tail dd hexdump od route arp tftp httpd setsid stty dmesg tr cut awk seq rm "
        "printf wc test expr sed kill ps date true sort uniq timeout telnet ftpget ftpput tar sync"
    ).split()
    entries += [(f"bin/{name}", 0o120777, b"busybox") for name in applets]
    entries.append(("init", 0o100755, INIT.encode()))
    entries.append(("etc/udhcpc/default.script", 0o100755, UDHCPC.encode()))
    entries += [(f"lib/m/{name}.ko", 0o100644, data) for name, data in drivers(folder).items()]
    temporary = image.with_suffix(".new")
    temporary.write_bytes(gzip.compress(_cpio_devices(entries), 1))
    temporary.rename(image)
    return image


def _cpio_devices(entries: list[tuple[str, int, bytes]]) -> bytes:
    """As ``_cpio``, with /dev/console (5, 1) as the device node that the kernel opens before init."""
    plain = _cpio(entries)
    at = plain.index(b"dev/console\0") - 110
    head = bytearray(plain[at : at + 110])
    head[6 + 8 * 9 : 6 + 8 * 11] = b"%08x%08x" % (5, 1)
    return plain[:at] + bytes(head) + plain[at + 110 :]


def programs(files: Iterable[Path]) -> bytes:
    """An archive that the kernel unpacks behind an initramfs: programs of this machine and their libraries."""
    paths: dict[Path, Path] = {}
    for file in files:
        paths[file] = file
        if not file.read_bytes().startswith(b"\x7fELF"):
            continue
        for name in re.findall(r"(/\S+) \(0x", _run("ldd", file)):
            paths[Path(name)] = Path(name).resolve()
    folders = {parent for path in paths for parent in path.parents if parent != Path("/")}
    entries = [(str(path)[1:], 0o040755, b"") for path in sorted(folders)]
    entries += [(str(path)[1:], 0o100755, source.read_bytes()) for path, source in sorted(paths.items())]
    return gzip.compress(_cpio(entries), 1)


def _busybox_i386() -> Path:
    """busybox-static of i386, from the private apt directory of ``kernel_686``."""
    folder = KIT / "busybox-i386"
    found = list(folder.rglob("bin/busybox"))
    if not found:
        private = KIT / "apt-i386"
        listing = _run("apt-get", *_private_apt(private), "-q", "download", "--print-uris", "busybox-static")
        if not listing:
            raise KitError("no busybox-static for i386")
        download = KIT / "busybox.deb.d"
        download.mkdir(exist_ok=True)
        _run("apt-get", *_private_apt(private), "-q", "download", "busybox-static", cwd=download)
        _run("dpkg", "-x", *download.glob("*.deb"), folder)
        shutil.rmtree(download)
        found = list(folder.rglob("bin/busybox"))
    return found[0]


def _private_apt(private: Path) -> tuple[str, ...]:
    options = {
        "APT::Architecture": "i386",
        "APT::Architectures": "i386",
        "Dir::Etc::SourceList": private / "sources.list",
        "Dir::Etc::SourceParts": private / "sources.d",
        "Dir::State::Lists": private / "lists",
        "Dir::State::Status": private / "status",
        "Dir::Cache": private / "cache",
    }
    return tuple(word for key, value in options.items() for word in ("-o", f"{key}={value}"))


if __name__ == "__main__":
    try:
        print(qemu_root())
        for unpacked in (kernel(), kernel_686()):
            print(boot_image(unpacked), initramfs(unpacked))
    except KitError as error:
        sys.exit(f"tapnet: guests: {error}")
