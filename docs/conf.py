"""Configuration of the documentation site, and what it fills in: files of the repository, the published benchmark run.

Built by ``make docs``; README.md here tells about the conventions.
"""

from __future__ import annotations

import html
import posixpath
import re
import runpy
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docutils import nodes
from sphinx.ext.napoleon.docstring import GoogleDocstring
from sphinx.transforms.post_transforms import SphinxPostTransform

if TYPE_CHECKING:
    from sphinx.application import Sphinx

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
sys.path.insert(0, str(ROOT))

project = "loopfast"
copyright = "the loopfast authors, MIT licence"
release = version = runpy.run_path(str(ROOT / "loopfast/_version.py"))["__version__"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["README.md"]
# A single backtick in a docstring is a name, linked where it is documented.
default_role = "py:obj"
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = ["Source"]
toc_object_entries_show_parents = "hide"

myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence", "deflist"]

html_theme = "furo"
html_title = "loopfast"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False
html_show_sourcelink = False
pygments_style = "friendly"
pygments_dark_style = "github-dark"

# Files of the repository that are pages here.
REPOSITORY = {
    "README.md": "repository/readme",
    "CHANGELOG.md": "repository/changelog",
    "SECURITY.md": "repository/security",
    "CONTRIBUTING.md": "repository/contributing",
    "bench/README.md": "repository/bench",
    "vendor/README.md": "repository/vendor",
}
LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)")


#: A line of a table of contents. Pages that are planned are named there before they exist.
PLANNED = re.compile(r"^(?P<page>[a-z-]+)\n", re.MULTILINE)


def mend_links(text: str, origin: str, docname: str) -> str:
    """Return Markdown *text* of the file *origin* with links to other files as the page *docname* needs them.

    A link to a file that is a page leads to the page. One to a page that is planned, or to any other file of the
    repository, which the site does not carry, stays as text.

    Args:
        origin: path of the file, relative to the repository.
    """
    here = posixpath.dirname(docname)

    def mend(match: re.Match[str]) -> str:
        target, _, anchor = match["target"].partition("#")
        if not target or "://" in target or target.startswith("mailto:"):
            return match[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(origin), target))
        if match["image"]:
            return f"![{match['text']}]({posixpath.relpath(path, posixpath.join('docs', here))})"
        if path in REPOSITORY:
            page = REPOSITORY[path] + ".md"
        elif path.startswith("docs/") and path.endswith(".md") and (ROOT / path).is_file():
            page = path.removeprefix("docs/")
        elif path.startswith("docs/") and posixpath.dirname(path) == "docs" and path[5:-3] in planned():
            return match["text"]
        elif path.startswith("docs/"):
            return match[0]
        elif (ROOT / path).exists():
            return match["text"] if "`" in match["text"] else f"{match['text']} (`{path}`)"
        else:
            return match[0]
        page = posixpath.relpath(page, here or ".")
        return f"[{match['text']}]({page}{'#' * bool(anchor)}{anchor})"

    return outside_code(text, lambda part: LINK.sub(mend, part))


def planned() -> set[str]:
    """The pages that the table of contents names, there or not."""
    return set(PLANNED.findall((DOCS / "index.md").read_text(encoding="utf-8")))


def outside_code(text: str, change: Any) -> str:
    """Apply *change* to what is not in a fenced block."""
    parts = re.split(r"(^```.*?^```$)", text, flags=re.MULTILINE | re.DOTALL)
    return "".join(part if part.startswith("```") else change(part) for part in parts)


def fill_in(app: Sphinx, docname: str, source: list[str]) -> None:
    """The text of a page: that of the file it stands for, with its links mended."""
    origin = next((path for path, page in REPOSITORY.items() if page == docname), f"docs/{docname}.md")
    if docname in REPOSITORY.values():
        app.env.note_dependency(str(ROOT / origin))
        source[0] = (ROOT / origin).read_text(encoding="utf-8")
    source[0] = mend_links(source[0], origin, docname)
    if docname == "index":
        source[0] = PLANNED.sub(lambda line: line[0] if (DOCS / f"{line['page']}.md").exists() else "", source[0])
    if RUN in source[0]:
        source[0] = source[0].replace(RUN, published_run())
        for path in RESULTS.glob("*"):
            app.env.note_dependency(str(path))


# ---------------------------------------------------------------------------------------------- the published benchmark

RESULTS = ROOT / "bench" / "results"
RUN = "<!-- the published run -->"


def result_file() -> Path | None:
    """The result of the published run, or None where the repository has none."""
    return next(iter(sorted(RESULTS.glob("*.json"))), None)


def published_run() -> str:
    """The Markdown that stands for bench/results/: summary, charts, every workload in short, conditions, links."""
    file = result_file()
    if file is None:
        return "There is none in this copy of the repository: `bench/results/` is empty."
    from bench.suite import show
    from bench.suite.results import Results

    results = Results.load(file)
    # Blocks with blank lines between: the conditions, the summary, then more than fits here.
    conditions, summary, *_ = show.markdown(results).split("\n\n")
    # Each leads to itself: whole, it is larger than the column of a page, let alone a phone.
    charts = [
        f'<a href="results/{path.name}"><img class="chart" src="results/{path.name}" alt="Chart: {path.stem}"></a>'
        for path in sorted(RESULTS.glob("*.svg"), key=lambda path: (path.stem != "overview", path.stem))
    ]
    return "\n\n".join(
        [
            'The <a href="results/report.html">whole report</a> has times, intervals, latencies, processor time and '
            f'charts for each workload; <a href="results/{file.name}">{file.name}</a> has every single value.',
            summary,
            *charts,
            "### Every workload",
            "How many times as fast as asyncio; of servers the ratio of processor time per message, of memory "
            "(`idle.*`) that of bytes. ~ is a tie: the 95 % interval holds 1. The largest is bold, by noise perhaps.",
            show.brief(results),
            "### Conditions",
            # Two hyphens would become a dash.
            re.sub(r"(?<= )--[\w-]+", r"`\g<0>`", conditions),
        ]
    )


def copy_results(app: Sphinx, exception: Exception | None) -> None:
    """Put the result and its report beside the pages."""
    file = result_file()
    if exception is None and app.builder.format == "html" and file is not None:
        from bench.suite import page
        from bench.suite.results import Results

        folder = Path(app.outdir) / "results"
        shutil.copytree(RESULTS, folder, dirs_exist_ok=True)
        (folder / "report.html").write_text(page.html(Results.load(file)), encoding="utf-8")


# ------------------------------------------------------------------------------------------------------------ drawings


class InlineDrawings(SphinxPostTransform):
    """Puts the SVG itself in the place of an image of ours: as a part of the page it has the page's colours."""

    default_priority = 1
    formats = ("html",)

    def run(self, **options: Any) -> None:
        for image in list(self.document.findall(nodes.image)):
            path = DOCS / image["uri"]
            if path.parent == DOCS / "drawings" and path.suffix == ".svg":
                label = html.escape(image["alt"], quote=True)
                text = path.read_text(encoding="utf-8")
                text = text.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
                image.replace_self(nodes.raw("", f'<div class="drawn">{text}</div>', format="html"))


# --------------------------------------------------------------------------------------------------------- docstrings


def whole_comment(docstring: GoogleDocstring) -> list[str]:
    """The comment of an attribute as it is: napoleon takes what stands before a colon in it for its type."""
    return docstring._dedent(docstring._consume_to_end())


def hide_constructor(app: Sphinx, what: str, name: str, *rest: Any) -> tuple[str, None] | None:
    """Show no arguments of classes whose objects users are given, and do not make."""
    return ("", None) if what == "class" and name in MADE_BY_US else None


#: Documented by automodule, where a directive of their own would say so.
MADE_BY_US = {f"loopfast.fs.{name}" for name in ("BinaryFile", "DirEntry", "Opening", "ScanDir", "TextFile")}


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("source-read", fill_in)
    app.connect("autodoc-process-signature", hide_constructor)
    GoogleDocstring._parse_attribute_docstring = whole_comment
    app.connect("build-finished", copy_results)
    app.add_post_transform(InlineDrawings)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
