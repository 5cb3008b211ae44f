"""A cpio archive (newc) as the kernel unpacks it. Several behind one another are one file system."""

import stat


class Writer:
    def __init__(self, path):
        self._out = open(path, "wb")
        self._number = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._entry("TRAILER!!!", 0, b"")
        # The next archive begins at a multiple of four.
        self._out.write(b"\0" * (-self._out.tell() % 512))
        self._out.close()

    def directory(self, name):
        self._entry(name, stat.S_IFDIR | 0o755, b"")

    def file(self, name, content, mode):
        self._entry(name, stat.S_IFREG | mode, content)

    def link(self, name, target):
        self._entry(name, stat.S_IFLNK | 0o777, target.encode())

    def _entry(self, name, mode, content):
        self._number += 1
        path = name.encode() + b"\0"
        fields = (self._number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(path), 0)
        head = b"070701" + b"".join(b"%08X" % field for field in fields) + path
        self._out.write(head + b"\0" * (-len(head) % 4) + content + b"\0" * (-len(content) % 4))
