"""Hooks of mkdocs.yml: README.md and CONTRIBUTING.md are pages of the site as well."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = "(?:ocp_scn|configs|tools|tests|benchmarks)"
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md"}


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that lie beside docs/, with links as from inside it."""
    for name, page in PAGES.items():
        text = (ROOT / name).read_text().replace("](docs/", "](").replace('src="docs/', 'src="')
        for linked, target in PAGES.items():
            text = text.replace(f"]({linked}", f"]({target}")
        files.append(File.generated(config, page, content=outside(text)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Show links to files beside docs/ as their names: the site does not have them."""
    return outside(markdown)


def outside(text: str) -> str:
    """Replace links to files of the repository that are no pages by the text of the link."""
    return re.sub(
        rf"\[([^\]]+)\]\((?:\.\./)?(?:LICENSE|SECURITY\.md|setup\.cfg|{FOLDERS}/[^)]*)\)", r"\1", text
    )
