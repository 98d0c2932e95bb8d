# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Trainings on disks that are too small for them: one process with its own mounts runs all of them.

`small_disks.py cases.json` takes a list of `{"disk": folder, "size": bytes, "copy": folder, "arguments": [...]}`. It
mounts a disk of this size for each, trains, copies the final content of the disk, and prints `[[code, output], ...]`.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import sys
from pathlib import Path


NO_MOUNTS = 77  # the exit code where no disk can be mounted
NEW_USER, NEW_MOUNTS, PRIVATE = 0x10000000, 0x20000, 0x44000
libc = ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: object) -> None:
    if getattr(libc, name)(*arguments):
        print(name, os.strerror(ctypes.get_errno()), flush=True)
        os._exit(NO_MOUNTS)


def own_mounts() -> None:
    """Have mounts that only this process sees; as root of a user namespace, unless it is root."""
    user, group = os.getuid(), os.getgid()
    call("unshare", NEW_MOUNTS | (NEW_USER if user else 0))
    if user:
        for name, line in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
            Path(f"/proc/self/{name}").write_text(line)
    call("mount", b"none", b"/", None, PRIVATE, None)


def train_on_disk(disk: str, size: int, copy: str, arguments: list[str]) -> tuple[int, str]:
    import in_process
    from hooks import few_digits

    os.mkdir(disk)
    call("mount", b"none", disk.encode(), b"tmpfs", 0, f"size={size}".encode())
    with few_digits():
        done = in_process.run("train.py", *arguments, "--output_dir", disk)
    shutil.copytree(disk, copy)
    return done


def main() -> None:
    own_mounts()
    print(json.dumps([train_on_disk(**case) for case in json.loads(Path(sys.argv[1]).read_text())]))


if __name__ == "__main__":
    main()
