"""The kernel and what goes with it in every run, made once into the lab's cache.

An entry is a folder `kernel-HASH` with `vmlinuz` and `base.cpio` (busybox, the modules that are wanted, in the order in
which they load); the hash is over everything that decides what is in it.
"""

import hashlib
import inspect
import lzma
import os
import re
from pathlib import Path

import archive
import machine
from settings import CACHE, Failure

# The distribution's newest; this one names it.
PACKAGE = "linux-image-cloud-amd64"
# Those that the managed network uses. What one of them needs comes before it; what the kernel's crypto would have
# modprobe look for by name (seqiv asks for a drbg, that one for a hash) is named.
MODULES = """
    bridge veth vxlan dummy tun
    nf_tables nft_chain_nat nft_nat nft_masq nft_ct nft_fib_inet nf_conntrack_netlink nft_numgen nft_reject_inet nft_meta_bridge
    xfrm_user xfrm_interface esp4 esp6 gcm ctr ghash-generic aesni_intel ghash_clmulni_intel seqiv echainiv
    hmac sha256_generic sha512_generic jitterentropy_rng drbg
""".split()
# Faster where they are; they need what not every emulated processor has.
OPTIONAL = {"ghash_clmulni_intel", "aesni_intel", "nft_numgen", "nft_reject_inet"}
BUSYBOX = Path("/usr/bin/busybox")


def entry():
    recipe = repr((PACKAGE, MODULES, inspect.getsource(archive), Path(__file__).read_text()))
    return CACHE / f"kernel-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"


def ensure():
    """Gives the cache entry, made if it is not there."""
    return once(entry(), "fetching a kernel with ESP", _make)


def once(wanted, what, make):
    """An entry of the cache, made if it is not there; whole or not at all, and by one alone."""
    if not wanted.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with machine.locked(CACHE / f".{wanted.name.partition('-')[0]}.lock", limit=900):
            if not wanted.exists():
                machine.say(f"{what} (once)")
                unfinished = CACHE / f".new-{wanted.name}.{os.getpid()}"
                try:
                    make(unfinished)
                    unfinished.rename(wanted)
                finally:
                    if unfinished.exists():
                        machine.remove_tree(unfinished)
                machine.say(f"it is in {wanted}")
    return wanted


def unpacked(folder):
    """The newest kernel in a new folder: its file, where its modules are, its version."""
    folder.mkdir()
    root = folder / "root"
    machine.run("dpkg-deb", "-x", _download(folder), root, timeout=120)
    images = sorted((root / "boot").glob("vmlinuz-*"))
    if len(images) != 1:
        raise Failure(f"{PACKAGE} holds {len(images)} kernels")
    version = images[0].name.removeprefix("vmlinuz-")
    # Where /lib is a folder of its own in the package, and where it is in /usr.
    base = root if (root / "lib/modules").exists() else root / "usr"
    machine.run("/usr/sbin/depmod", "-b", base, version, timeout=120)
    return images[0], base, version


def clean(folder):
    """Takes away what `unpacked` has put into it."""
    machine.remove_tree(folder / "root")
    for package in folder.glob("*.deb"):
        package.unlink()


def _make(folder):
    vmlinuz, base, version = unpacked(folder)
    with archive.Writer(folder / "base.cpio") as out:
        for directory in ("bin", "dev", "lib", "modules", "proc", "run", "sys", "tmp", "etc", "busybox", "root"):
            out.directory(directory)
        out.file("bin/busybox", BUSYBOX.read_bytes(), 0o755)
        out.link("bin/sh", "busybox")
        out.file("etc/protocols", b"icmp 1 ICMP\ntcp 6 TCP\nudp 17 UDP\nesp 50 ESP\n", 0o644)
        order = []
        for path in ordered(base, version, MODULES):
            content = path.read_bytes()
            if path.suffix == ".xz":
                content = lzma.decompress(content)
            name = path.name.removesuffix(".xz")
            order.append(name)
            out.file(f"modules/{name}", content, 0o644)
        out.file("modules/order", "".join(f"{name}\n" for name in order).encode(), 0o644)
        out.file("init", (Path(__file__).parent / "init").read_bytes(), 0o755)
    vmlinuz.rename(folder / "vmlinuz")
    clean(folder)


def _download(folder):
    """The package that PACKAGE stands for, by its whole name: exactly one."""
    for attempt in (1, 2):
        found = re.search(r"^\s*Depends: (linux-image-[a-z0-9.+-]+)$", machine.run(
            "apt-cache", "depends", "--no-recommends", PACKAGE, check=False).stdout, re.MULTILINE)
        if found:
            fetched = machine.run("apt-get", "-q", "download", found[1], cwd=folder, timeout=600, check=attempt == 2)
            packages = list(folder.glob("*.deb"))
            if fetched.returncode == 0 and len(packages) == 1:
                return packages[0]
        # A fresh machine's package lists are empty or old.
        machine.run("apt-get", "-qq", "-o", "DPkg::Lock::Timeout=120", "update", timeout=300, check=False)
    raise Failure(f"{PACKAGE} is not to be had by apt-get")


def ordered(base, version, modules):
    """The modules' files, each after those it needs."""
    order = {}
    for module in modules:
        result = machine.run("/usr/sbin/modprobe", "-d", base, "-S", version, "--show-depends", module, check=False)
        if result.returncode != 0:
            if module in OPTIONAL:
                continue
            raise Failure(f"the kernel has no {module}: {result.stderr.strip()}")
        for line in result.stdout.splitlines():
            word, _, path = line.partition(" ")
            if word == "insmod":
                order[Path(path.split()[0])] = None
    return list(order)
