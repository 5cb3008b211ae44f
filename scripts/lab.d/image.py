"""The image `busybox:latest`: Debian's static busybox with all its applets, in the form `docker load` takes.

It is built here, byte for byte the same for the same busybox, so that it has one id on all hosts as an image from a
registry would.
"""

import hashlib
import io
import json
import platform
import subprocess
import tarfile

NAME = "busybox:latest"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_EPOCH = "1970-01-01T00:00:00Z"


def build(busybox, target):
    """Writes the archive from the program `busybox`."""
    layer = _layer(busybox)
    config = json.dumps({
        "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
        "os": "linux",
        "created": _EPOCH,
        # A process 1 without a handler is not ended by SIGTERM: each stop of a `sleep` would take Docker's ten seconds.
        "config": {"Cmd": ["sh"], "StopSignal": "SIGKILL", "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]},
        "history": [{"created": _EPOCH, "comment": "busybox-static"}],
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest()]},
    }).encode()
    config_name = hashlib.sha256(config).hexdigest() + ".json"
    manifest = json.dumps([{"Config": config_name, "RepoTags": [NAME], "Layers": ["layer.tar"]}]).encode()
    with tarfile.open(target, "w") as archive:
        for name, data in ((config_name, config), ("layer.tar", layer), ("manifest.json", manifest)):
            _add_file(archive, name, data, 0o644)


def _layer(busybox):
    applets = subprocess.run([busybox, "--list"], check=True, stdout=subprocess.PIPE, text=True).stdout.split()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, mode in (("bin", 0o755), ("etc", 0o755), ("root", 0o700), ("tmp", 0o1777), ("var", 0o755)):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, mode
            archive.addfile(folder)
        _add_file(archive, "bin/busybox", busybox.read_bytes(), 0o755)
        for applet in sorted(set(applets) - {"busybox"}):
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            archive.addfile(link)
        _add_file(archive, "etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n", 0o644)
        _add_file(archive, "etc/group", b"root:x:0:\nnogroup:x:65534:\n", 0o644)
    return buffer.getvalue()


def _add_file(archive, name, data, mode):
    file = tarfile.TarInfo(name)
    file.size, file.mode = len(data), mode
    archive.addfile(file, io.BytesIO(data))
