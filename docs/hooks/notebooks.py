# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Notebooks as pages: each `.ipynb` in `docs/` becomes Markdown with its pictures, as it was saved."""

from __future__ import annotations

from pathlib import PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from nbconvert import MarkdownExporter


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """The site's files, and a page for each notebook, which stays there to be downloaded."""
    for notebook in [file for file in files if file.src_uri.endswith(".ipynb")]:
        path = PurePosixPath(notebook.src_uri)
        markdown, resources = MarkdownExporter().from_filename(notebook.abs_src_path)
        title, _, body = markdown.partition("\n")
        page = f"{title}\n\n<a href='{path.name}' download>Download the notebook</a>\n{body}"
        files.append(File.generated(config, str(path.with_suffix(".md")), content=page))
        for name, data in resources["outputs"].items():
            files.append(File.generated(config, str(path.with_name(name)), content=data))
    return files
