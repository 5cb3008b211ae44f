"""A disk of a small guest that boots in seconds, also where every instruction is translated: for tests of virtual machines.

It is what a cloud's image is to its host, and much less: GRUB, the distribution's cloud kernel and an initramfs of busybox. The guest
(guest.sh) asks for its address by DHCP, reads its config drive and its metadata, says on its serial console what it was told, serves
a page, runs its user data, and powers off when it is asked to.

A raw disk: GRUB's first sector, its core behind it, and at known sectors the kernel and the initramfs; no file system, no partition.
"""

import gzip
import hashlib
import inspect
import lzma
from pathlib import Path

import archive
import kernel
import machine
from settings import CACHE, Failure

GRUB = Path("/usr/lib/grub/i386-pc")
GUEST = Path(__file__).with_name("guest.sh")
SECTOR = 512
# Behind GRUB's core.
FIRST = 2048
# What of a disk it is beyond what is on it: the guest counts its boots in its last sector.
MEGABYTES = 32
MODULES = """
    virtio_pci virtio_blk virtio_net virtio_rng virtio_balloon isofs evdev button
""".split()


def entry():
    recipe = repr((kernel.PACKAGE, MODULES, FIRST, MEGABYTES, GUEST.read_text(), inspect.getsource(archive), Path(__file__).read_text()))
    return CACHE / f"guest-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"


def ensure():
    """Gives the disk's file, made if it is not there."""
    return kernel.once(entry(), "making the disk of a small guest", _make) / "disk.raw"


def _make(folder):
    vmlinuz, base, version = kernel.unpacked(folder)
    initramfs = folder / "initramfs"
    with archive.Writer(initramfs) as out:
        for directory in ("bin", "dev", "etc", "etc/acpi", "etc/acpi/PWRF", "modules", "proc", "run", "sys", "tmp", "www", "config"):
            out.directory(directory)
        out.file("bin/busybox", kernel.BUSYBOX.read_bytes(), 0o755)
        out.link("bin/sh", "busybox")
        out.file("init", GUEST.read_bytes(), 0o755)
        order = []
        for path in kernel.ordered(base, version, MODULES):
            content = lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()
            order.append(path.name.removesuffix(".xz"))
            out.file(f"modules/{order[-1]}", content, 0o644)
        out.file("modules/order", "".join(f"{name}\n" for name in order).encode(), 0o644)
    packed = gzip.compress(initramfs.read_bytes(), 6)
    initramfs.unlink()
    _write(folder, vmlinuz.read_bytes(), packed)
    kernel.clean(folder)


def _write(folder, vmlinuz, initramfs):
    sectors = [-(-len(content) // SECTOR) for content in (vmlinuz, initramfs)]
    second = FIRST + sectors[0]
    config = folder / "grub.cfg"
    # Places on the disk instead of files: a number of sectors from a sector on.
    config.write_text(
        f"linux (hd0){FIRST}+{sectors[0]} console=ttyS0 quiet panic=-1\n"
        f"initrd (hd0){second}+{sectors[1]}\nboot\n")
    core = folder / "core.img"
    machine.run("grub-mkimage", "-O", "i386-pc", "-d", GRUB, "-p", "/", "-c", config, "-o", core, "biosdisk", "linux", "boot", timeout=60)
    boot = (GRUB / "boot.img").read_bytes()[:SECTOR]
    if SECTOR + core.stat().st_size > FIRST * SECTOR:
        raise Failure("GRUB's core is larger than the room for it")
    with (folder / "disk.raw").open("wb") as disk:
        disk.write(boot)
        disk.write(core.read_bytes())
        disk.seek(FIRST * SECTOR)
        disk.write(vmlinuz)
        disk.seek(second * SECTOR)
        disk.write(initramfs)
        disk.truncate((disk.tell() // (1 << 20) + 1 + MEGABYTES) << 20)
    config.unlink()
    core.unlink()
