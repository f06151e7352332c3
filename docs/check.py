"""Checks the built site: every internal link and anchor leads somewhere, nothing is loaded from elsewhere.

Usage: ``python docs/check.py FOLDER``. External links are listed, not followed: the build has no network.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

#: What a browser loads by itself, as opposed to what a reader follows.
LOADED = {("img", "src"), ("script", "src"), ("link", "href"), ("source", "src"), ("iframe", "src")}


class Page(HTMLParser):
    """The anchors of a page, and what it refers to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        #: Tag, attribute, target, line.
        self.references: list[tuple[str, str, str, int]] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if value is None:
                continue
            if name == "id" or (tag == "a" and name == "name"):
                if name == "id" and value in self.anchors:
                    self.references.append((tag, "id twice", value, self.getpos()[0]))
                self.anchors.add(value)
            elif name in ("href", "src"):
                if tag == "link" and dict(attrs).get("rel") in ("canonical", "preconnect"):
                    continue
                self.references.append((tag, name, value, self.getpos()[0]))


def check(root: Path) -> tuple[list[str], dict[str, set[str]]]:
    """Check the site below *root*.

    Returns:
        What is wrong, a line each; and external targets with the pages that refer to them.
    """
    pages = {path.resolve(): Page(path) for path in sorted(root.rglob("*.html"))}
    wrong: list[str] = []
    external: dict[str, set[str]] = {}
    for path, page in pages.items():
        name = path.relative_to(root.resolve()).as_posix()
        for tag, attribute, target, line in page.references:
            where = f"{name}:{line}: {target}"
            if attribute == "id twice":
                wrong.append(f"{where}: two elements have this id")
                continue
            address, anchor = urldefrag(target)
            parts = urlsplit(address)
            if parts.scheme in ("data", "mailto"):
                continue
            if parts.scheme or parts.netloc:
                if (tag, attribute) in LOADED:
                    wrong.append(f"{where}: is loaded from elsewhere")
                external.setdefault(address, set()).add(name)
                continue
            file = path if not parts.path else (path.parent / unquote(parts.path)).resolve()
            if file.is_dir():
                file /= "index.html"
            if not file.is_file():
                wrong.append(f"{where}: no such file")
            elif anchor and file in pages and unquote(anchor) not in pages[file].anchors:
                wrong.append(f"{where}: no such anchor")
    if not pages:
        wrong.append(f"{root}: no pages")
    return wrong, external


def main(words: Sequence[str]) -> int:
    """Check the folder named in *words*; return 1 if something is wrong."""
    wrong, external = check(Path(words[0]))
    for target, pages in sorted(external.items()):
        print(f"external: {target} ({', '.join(sorted(pages))})")
    for line in wrong:
        print(line, file=sys.stderr)
    print(f"links and anchors: {len(wrong)} wrong; {len(external)} external targets listed above, not followed")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
