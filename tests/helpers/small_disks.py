# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Trainings and other verbs on disks, or with shared memory, too small for them, in a process with its own mounts.

`small_disks.py cases.json` takes a list of `{"disk": folder, "size": bytes, "copy": folder, "arguments": [...]}`. For
each it mounts a disk of this size, trains, copies the final content of the disk, and prints `[[code, output], ...]`.

With `{"shared_memory": bytes, "full_at": batch, "arguments": [...]}` instead of the list it mounts shared memory
of this size, trains, fills the memory at this batch, and prints `[code, output]`.

With `{"disk": folder, "size": bytes, "verbs": [[...], ...]}` it mounts a disk, calls `ddpm-hf` with each of these
arguments, and prints `[[code, output, files], ...]`: what each call printed, and the files on the disk after it.
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
    """Give this process mounts of its own; in a user namespace unless the process is root."""
    user, group = os.getuid(), os.getgid()
    call("unshare", NEW_MOUNTS | (NEW_USER if user else 0))
    if user:
        for name, line in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
            Path(f"/proc/self/{name}").write_text(line)
    call("mount", b"none", b"/", None, PRIVATE, None)


def mount(folder: str, size: int) -> None:
    call("mount", b"none", folder.encode(), b"tmpfs", 0, f"size={size}".encode())


def train_on_disk(disk: str, size: int, copy: str, arguments: list[str]) -> tuple[int, str]:
    import in_process
    from hooks import few_digits

    os.mkdir(disk)
    mount(disk, size)
    with few_digits():
        done = in_process.run("train.py", *arguments, "--output_dir", disk)
    shutil.copytree(disk, copy)
    return done


def run_verbs_on_disk(disk: str, size: int, verbs: list[list[str]]) -> list[tuple[int, str, list[str]]]:
    import in_process

    os.mkdir(disk)
    mount(disk, size)
    found = []
    for arguments in verbs:
        done = in_process.run_verb(*arguments)
        files = sorted(str(path.relative_to(disk)) for path in Path(disk).rglob("*") if path.is_file())
        found.append((done.code, done.output, files))
    return found


def train_with_shared_memory(shared_memory: int, full_at: int, arguments: list[str]) -> tuple[int, str]:
    import in_process
    from hooks import at, few_digits, fill_shared_memory, nothing_freed

    mount("/dev/shm", shared_memory)
    with few_digits(), nothing_freed(), at(full_at, fill_shared_memory):
        return in_process.run("train.py", *arguments)


def main() -> None:
    own_mounts()
    cases = json.loads(Path(sys.argv[1]).read_text())
    if isinstance(cases, list):
        done: object = [train_on_disk(**case) for case in cases]
    else:
        done = run_verbs_on_disk(**cases) if "verbs" in cases else train_with_shared_memory(**cases)
    print(json.dumps(done))


if __name__ == "__main__":
    main()
