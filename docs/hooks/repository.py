# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Files of the repository outside of `docs/`: some are pages of the site, and links lead to the others.

A link in a page is written as it works in the repository. Here it is written anew as it works in the site: to a page,
to a picture, or to a page that shows the file, since a site that is read offline has no repository to link to.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page


ROOT = Path(__file__).resolve().parents[2]
PAGES = {
    "benchmarks/README.md": "benchmarks.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "examples/README.md": "scripts.md",
    "README.md": "readme.md",
}
LINK = re.compile(r"(?<=\]\()(?!#|[a-z]+:)([^)#\s]+)((?:#[^)\s]*)?)(?=\))")
FENCE = re.compile(r"(^```.*?^```$)", re.DOTALL | re.MULTILINE)
LANGUAGES = {".py": "python", ".yaml": "yaml", ".sh": "bash", ".json": "json"}


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """The site's files, and those of the repository that are pages."""
    for source, target in PAGES.items():
        if files.get_file_from_path(target) is None:
            files.append(File.generated(config, target, abs_src_path=str(ROOT / source)))
    for page in [file for file in files if file.is_documentation_page()]:
        for link in LINK.finditer(without_code(page.content_string)):
            add(target_of(link[1], page), files, config)
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The page with links that work in the site."""
    parts = FENCE.split(markdown)
    parts[::2] = [LINK.sub(lambda link: rewritten(link, page.file), part) for part in parts[::2]]
    return "".join(parts)


def without_code(markdown: str) -> str:
    return FENCE.sub("", markdown)


def target_of(link: str, page: File) -> str:
    """What a link of a page leads to, relative to the repository."""
    source = Path(page.abs_src_path).parent if page.abs_src_path else ROOT / "docs" / Path(page.src_uri).parent
    return os.path.relpath(os.path.normpath(source / link), ROOT)


def in_site(target: str) -> str:
    """Where the site has a file of the repository."""
    if target.startswith("docs/"):
        return re.sub(r"\.ipynb$", ".md", target.removeprefix("docs/"))
    if Path(target).suffix in (".png", ".md"):
        return PAGES.get(target, f"source/{target}")
    return f"source/{target}.md"


def rewritten(link: re.Match[str], page: File) -> str:
    path = in_site(target_of(link[1], page))
    return os.path.relpath(path, os.path.dirname(page.src_uri) or ".") + link[2]


def add(target: str, files: Files, config: MkDocsConfig) -> None:
    """Add a file of the repository to the site, if it is there and the site has it not."""
    path, uri = ROOT / target, in_site(target)
    if target.startswith("docs/") or files.get_file_from_path(uri) is not None or not path.exists():
        return
    if path.suffix == ".png":
        files.append(File.generated(config, uri, abs_src_path=str(path)))
    else:
        files.append(File.generated(config, uri, content=shown(path)))


def shown(path: Path) -> str:
    """A page that shows a file, or the files of a folder."""
    inside = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
    heading = f"---\nsearch:\n  exclude: true\n---\n# {path.relative_to(ROOT).as_posix()}\n"
    return heading + "".join(fenced(each, path) for each in inside if each.suffix in LANGUAGES)


def fenced(path: Path, page: Path) -> str:
    title = f"\n## {path.relative_to(page).as_posix()}\n" if path != page else ""
    return f"{title}\n````{LANGUAGES[path.suffix]}\n{path.read_text(encoding='utf-8')}````\n"
