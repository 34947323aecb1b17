"""The hook of ``properdocs.yml``: the site has the layout of the repository, so that the links of the files hold."""

from __future__ import annotations

import re
from pathlib import Path

from properdocs.config.defaults import ProperDocsConfig
from properdocs.structure.files import File, Files


def on_files(files: Files, *, config: ProperDocsConfig) -> Files:
    """All pages of the repository, each at its path there, and the files that they link to."""
    docs = Path(config.docs_dir).resolve()
    root = docs.parent
    pages = {*root.glob("*.md"), *docs.rglob("*.md")}
    linked = {
        target
        for page in pages
        for link in re.findall(r"\]\(([^)#:\s]+)", page.read_text("utf-8"))
        if (target := (page.parent / link).resolve()).is_file() and target.is_relative_to(root)
    }
    kept = [file for file in files if file.src_dir != config.docs_dir]  # the theme's
    for path in sorted({*pages, *linked, *docs.glob("*.css")}):
        uri = path.relative_to(root).as_posix()
        kept.append(File(uri, str(root), config.site_dir, config.use_directory_urls))
    return Files(kept)
