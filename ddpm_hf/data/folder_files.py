# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The content of a local folder of images: image files, metadata files, archives, and unused files with the reason."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from PIL import Image, ImageFile

from ..results import METRICS, Metrics


METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")  # as in `datasets`
ARCHIVES = (".zip",)
PICTURES = (".heic", ".heif", ".avif", ".jxl", ".svg", ".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".exr")
INDEX = "model_index.json"
CHECKPOINT = re.compile(r"checkpoint-\d+")
GRID = re.compile(r"step_\d{7}\.png")  # a grid of samples, in the folder `samples` of a run
OF_A_RUN = {"samples.png", "samples", "unet", "scheduler", "logs", INDEX}

# Reasons for leaving files or folders out, in the singular and the plural.
NO_IMAGE = "file that is not an image", "files that are not images"
UNREADABLE = "image in a format that this Pillow does not read", "images in formats that this Pillow does not read"
DANGLING = "broken link", "broken links"
CIRCULAR = "link to a parent folder", "links to parent folders"
HIDDEN = "hidden file or folder", "hidden files and folders"
RUN = "folder of a saved model, a run or an evaluation", "folders of saved models, runs and evaluations"
OF_THE_ROOT = "file or folder of the run that is saved here", "files and folders of the run that is saved here"
Reason = tuple[str, str]


def image_suffixes() -> frozenset[str]:
    """The endings of image files that the installed Pillow can open, in lower case, with their dot."""
    Image.init()
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if _has_pixels(name))


def _has_pixels(name: str) -> bool:
    """Whether Pillow reads the pixels of this format; some formats it only recognises."""
    factory = Image.OPEN.get(name, (None, None))[0]
    is_stub = isinstance(factory, type) and issubclass(factory, ImageFile.StubImageFile)
    return factory is not None and not is_stub and name != "MPEG"


@dataclass
class FolderFiles:
    """The files in a folder and its subfolders; paths are relative to it, with slashes, in sorted order.

    Attributes:
        root: the folder, an absolute path.
        images: files that Pillow can open, by their names.
        metadata: metadata files, which hold columns.
        archives: zip files.
        left_out: everything else, by the reason; folders end with a slash.
    """

    root: Path
    images: list[str] = field(default_factory=list)
    metadata: list[str] = field(default_factory=list)
    archives: list[str] = field(default_factory=list)
    left_out: dict[Reason, list[str]] = field(default_factory=dict)

    def leave_out(self, reason: Reason, path: str) -> None:
        """Note that a file or folder is not used."""
        self.left_out.setdefault(reason, []).append(path)


def find_files(folder: str | Path) -> FolderFiles:
    """Search a folder. Links are followed; hidden files and folders of saved models are skipped.

    Raises:
        ValueError: if a folder cannot be read, or the name of an image is not UTF-8; the message names it.
    """
    files = FolderFiles(Path(os.path.abspath(folder)))
    suffixes, root_is_run = image_suffixes(), (files.root / INDEX).is_file()
    waiting = [("", (os.path.realpath(files.root),))]
    while waiting:
        place, around = waiting.pop()
        for entry in _entries(files.root, place):
            path = f"{place}{entry.name}"
            if not place and root_is_run and (entry.name in OF_A_RUN or CHECKPOINT.fullmatch(entry.name)):
                files.leave_out(OF_THE_ROOT, f"{path}/" if os.path.isdir(entry.path) else path)
            elif os.path.isdir(entry.path):  # also through a link
                inside = _real_paths(files, entry, f"{path}/", around)
                waiting.extend([] if inside is None else [(f"{path}/", inside)])
            else:
                _sort(files, entry, path, suffixes)
    for paths in (files.images, files.metadata, files.archives, *files.left_out.values()):
        paths.sort()
    _check_names(files)
    return files


def _entries(root: Path, place: str) -> list[os.DirEntry]:
    try:
        with os.scandir(root / place) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise ValueError(f"The folder {root / place} cannot be read: {error.strerror or error}.") from error


def _real_paths(files: FolderFiles, entry: os.DirEntry, path: str, around: tuple[str, ...]) -> tuple[str, ...] | None:
    """The real paths of a folder and of its parents; None for a folder that is left out."""
    if entry.name.startswith((".", "__")):
        files.leave_out(HIDDEN, path)
        return None
    if is_of_a_run(Path(entry.path)):
        files.leave_out(RUN, path)
        return None
    real = os.path.realpath(entry.path)
    if real in around:
        files.leave_out(CIRCULAR, path)
        return None
    return (*around, real)


def _sort(files: FolderFiles, entry: os.DirEntry, path: str, suffixes: frozenset[str]) -> None:
    """Add a file to the list for its kind."""
    suffix = PurePosixPath(entry.name).suffix.lower()
    if not os.path.isfile(entry.path):  # also excludes pipes, which would block the reader
        files.leave_out(DANGLING if entry.is_symlink() else NO_IMAGE, path)
    elif entry.name.startswith("."):
        if suffix in suffixes:  # hidden files such as .DS_Store are not worth a note
            files.leave_out(HIDDEN, path)
    elif entry.name in METADATA:
        files.metadata.append(path)
    elif suffix in suffixes:
        files.images.append(path)
    elif suffix in ARCHIVES:
        files.archives.append(path)
    else:
        files.leave_out(UNREADABLE if suffix in PICTURES else NO_IMAGE, path)


def _check_names(files: FolderFiles) -> None:
    for path in (*files.images, *files.metadata):
        whole = os.path.join(files.root, path)
        try:
            whole.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"The name of the file {os.fsencode(whole)!r} is not UTF-8; rename it.") from error


def is_of_a_run(folder: Path) -> bool:
    """Whether a folder holds a saved model, a run or an evaluation of this package, whose pictures are not data."""
    names = _names(folder)
    if INDEX in names or "evaluation.json" in names:
        return True
    if METRICS in names and (_is_metrics_file(folder / METRICS) or not names.isdisjoint(OF_A_RUN)):
        return True
    if any(CHECKPOINT.fullmatch(name) and "training.json" in _names(folder / name) for name in names):
        return True
    grids = _names(folder / "samples") if "samples" in names else set()  # of a run that has saved nothing else yet
    return bool(grids) and all(GRID.fullmatch(name) for name in grids)


def _names(folder: Path) -> set[str]:
    """The names in a folder; empty if it cannot be read or is not a folder."""
    try:
        return set(os.listdir(folder))
    except OSError:
        return set()


def _is_metrics_file(path: Path) -> bool:
    """Whether a JSON file has figures of `Metrics`."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and not Metrics.__annotations__.keys().isdisjoint(content)
