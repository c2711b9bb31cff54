"""What the kit finds in Debian's kernel packages, whatever their layout and compression."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.guests import kit


def zstd(data: bytes) -> bytes:
    """Compress as the kernel's build does: by a pipe, without the size in the frame."""
    return subprocess.run(["zstd", "-cq"], input=data, stdout=subprocess.PIPE, check=True).stdout


def xz(data: bytes) -> bytes:
    """Compress as Debian does its modules."""
    return lzma.compress(data, check=lzma.CHECK_CRC32)


ELF = b"\x7fELF" + bytes(range(256)) * 20
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE),
    "xz": xz,
    "zstd": zstd,
}
FOREIGN = {  # first bytes of what the kernel may be and the kit cannot unpack
    "lzo": b"\x89LZO\0\r\n\x1a\n",
    "lz4": b"\x02\x21\x4c\x18",
    "unknown (4865726d6573)": b"Hermes",
}
RELEASE = "9.9-amd64"


@pytest.fixture(autouse=True)
def own_kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty kit folder for each test."""
    monkeypatch.setattr(kit, "KIT", tmp_path / "kit")
    (tmp_path / "kit").mkdir()
    return tmp_path / "kit"


def bz_image(payload: bytes, setup_sectors: int = 3) -> bytes:
    """A bzImage: the header's fields that say where the compressed kernel lies, and the kernel."""
    head = bytearray((setup_sectors or 4) * 512 + 512)
    head[0x1F1] = setup_sectors
    struct.pack_into("<II", head, 0x248, 64, len(payload))
    return bytes(head) + bytes(64) + payload + b"what follows is not the kernel"


def payload(how: str, data: bytes = ELF) -> bytes:
    """The kernel as its build leaves it: the size follows, where the format does not end with it anyway."""
    return PACKERS[how](data) + (b"" if how == "gzip" else struct.pack("<I", len(data)))


def put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def kernel(folder: Path, image: bytes, layout: str = "boot", pvh: bool = True) -> Path:
    """An unpacked kernel package: up to Debian 13 in /boot, later all in the modules' folder."""
    release = folder / f"usr/lib/modules/{RELEASE}"
    packed = folder / f"boot/vmlinuz-{RELEASE}" if layout == "boot" else release / "vmlinuz"
    config = folder / f"boot/config-{RELEASE}" if layout == "boot" else release / "config"
    put(packed, image)
    put(config, b"CONFIG_PVH=y\n" if pvh else b"# CONFIG_PVH is not set\n")
    return folder


def drivers(folder: Path, tree: str, suffix: str, names: tuple[str, ...] = kit.MODULES) -> Path:
    """NIC drivers as a package has them."""
    packers = {".ko": bytes, ".ko.gz": gzip.compress, ".ko.xz": xz, ".ko.zst": zstd}
    for name in names:
        where = folder / tree / RELEASE / "kernel/drivers/net/ethernet"
        put(where / f"{name}{suffix}", packers[suffix](ELF + name.encode()))
        put(where / f"{name}-other{suffix}", b"another driver, whose name begins alike")
    return folder


# ---- modules -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".ko", ".ko.gz", ".ko.xz", ".ko.zst"])
@pytest.mark.parametrize("tree", ["lib/modules", "usr/lib/modules"])
def test_drivers_are_found_in_either_layout_and_unpacked(tmp_path: Path, tree: str, suffix: str) -> None:
    folder = drivers(tmp_path / "kernel-amd64", tree, suffix)
    assert kit.drivers(folder) == {name: ELF + name.encode() for name in kit.MODULES}


def test_the_isa_drivers_are_those_of_the_i386_kernel(tmp_path: Path) -> None:
    names = (*kit.MODULES, *kit.ISA_MODULES)
    folder = drivers(tmp_path / "kernel-686", "lib/modules", ".ko", names)
    assert tuple(kit.drivers(folder)) == names


def test_a_driver_that_is_not_there_is_named(tmp_path: Path) -> None:
    names = tuple(name for name in kit.MODULES if name != "mii")
    folder = drivers(tmp_path / "kernel-amd64", "usr/lib/modules", ".ko.xz", names)
    with pytest.raises(kit.KitError, match=r"kernel-amd64: no driver mii$"):
        kit.drivers(folder)


def test_the_initramfs_has_the_drivers_as_insmod_takes_them(tmp_path: Path) -> None:
    folder = drivers(kernel(tmp_path / "kernel-amd64", b""), "usr/lib/modules", ".ko.xz")
    archive = gzip.decompress(kit.initramfs(folder).read_bytes())
    for name in kit.MODULES:
        assert f"lib/m/{name}.ko\0".encode() in archive
        assert ELF + name.encode() in archive
    assert b".ko.xz" not in archive


# ---- the kernel --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["boot", "modules"])
@pytest.mark.parametrize("how", PACKERS)
def test_a_kernel_is_unpacked(tmp_path: Path, own_kit: Path, how: str, layout: str) -> None:
    image = kit.boot_image(kernel(tmp_path / "kernel-amd64", bz_image(payload(how)), layout))
    assert image == own_kit / f"vmlinux-{RELEASE}"
    assert image.read_bytes() == ELF


@pytest.mark.parametrize("what", FOREIGN)
def test_another_compression_is_named(tmp_path: Path, what: str) -> None:
    folder = kernel(tmp_path / "kernel-amd64", bz_image(FOREIGN[what] + bytes(100)))
    with pytest.raises(kit.KitError) as told:
        kit.boot_image(folder)
    assert f"vmlinuz-{RELEASE}" in str(told.value)
    assert f"compression {what}" in str(told.value)


@pytest.mark.parametrize("how", PACKERS)
def test_a_damaged_kernel_is_an_error_that_names_it(tmp_path: Path, how: str) -> None:
    damaged = bytearray(payload(how, os.urandom(5000)))
    damaged[len(damaged) // 2 :] = bytes(len(damaged) - len(damaged) // 2)
    with pytest.raises(kit.KitError, match=f"vmlinuz-{RELEASE}.*{how}"):
        kit.boot_image(kernel(tmp_path / "kernel-amd64", bz_image(bytes(damaged))))


@pytest.mark.parametrize("data", [b"no program" * 99, ELF[:-1]])
def test_what_was_unpacked_must_be_the_kernel(tmp_path: Path, data: bytes) -> None:
    packed = xz(data) + struct.pack("<I", len(data) + (data[:4] == b"\x7fELF"))
    with pytest.raises(kit.KitError, match=f"vmlinuz-{RELEASE}"):
        kit.boot_image(kernel(tmp_path / "kernel-amd64", bz_image(packed)))


def test_without_zstd_the_program_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = kernel(tmp_path / "kernel-amd64", bz_image(payload("zstd")))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(kit.KitError, match="zstd is not installed"):
        kit.boot_image(folder)


def test_a_header_without_setup_sectors_means_four(tmp_path: Path) -> None:
    folder = kernel(tmp_path / "kernel-amd64", bz_image(payload("xz"), 0))
    assert kit.boot_image(folder).read_bytes() == ELF


def test_a_kernel_without_a_pvh_entry_stays_packed(tmp_path: Path) -> None:
    folder = kernel(tmp_path / "kernel-686", bz_image(FOREIGN["lz4"]), pvh=False)
    assert kit.boot_image(folder) == folder / f"boot/vmlinuz-{RELEASE}"


def test_a_folder_without_a_kernel_is_named(tmp_path: Path) -> None:
    (tmp_path / "kernel-amd64").mkdir()
    with pytest.raises(kit.KitError, match="kernel-amd64: no kernel"):
        kit.vmlinuz(tmp_path / "kernel-amd64")


# ---- packages ----------------------------------------------------------------------------------------------

DEPENDS = {
    "meta-12": "meta-12\n  Depends: linux-image-6.1.0-57-amd64\n",
    "linux-image-6.1.0-57-amd64": "x\n  Depends: kmod\n  Depends: linux-base\n |Depends: initramfs-tools\n",
    "meta-sid": "meta-sid\n  Depends: linux-base-amd64\n  Depends: linux-image-7.2.13+deb14-amd64\n",
    "linux-image-7.2.13+deb14-amd64": "x\n |Depends: dracut\n  Depends: linux-base-7.2.13+deb14-amd64\n"
    "  Depends: linux-binary-7.2.13+deb14-amd64\n  Depends: linux-modules-7.2.13+deb14-amd64\n",
}


def test_a_kernel_in_one_package() -> None:
    assert kit.kernel_packages("meta-12", DEPENDS.__getitem__) == ["linux-image-6.1.0-57-amd64"]


def test_a_kernel_in_several_packages() -> None:
    assert kit.kernel_packages("meta-sid", DEPENDS.__getitem__) == [
        f"linux-{part}-7.2.13+deb14-amd64" for part in ("image", "base", "binary", "modules")
    ]


def test_a_meta_package_without_a_kernel_is_named() -> None:
    with pytest.raises(kit.KitError, match="meta-none depends on no kernel"):
        kit.kernel_packages("meta-none", lambda name: f"{name}\n")
