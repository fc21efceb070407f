"""A folder of Markdown pages and executed notebooks as a static site: Sphinx with MyST-NB and the theme furo.

It opens from disk without a network: no script or font of others is loaded, formulas become MathML. Nothing is
executed. This module is also the Sphinx extension (`setup`) for formulas, figures and links.
"""

import html
import io
import posixpath
import re
import sys
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote

ASSETS = Path(__file__).parent / "assets"
LIBRARIES = {"sphinx": "sphinx", "myst_nb": "myst-nb", "furo": "furo"}  # module: name at the registry
SETTINGS = {
    "extensions": ["myst_nb", __name__],
    "html_theme": "furo",
    "html_math_renderer": "mathml",
    "html_static_path": [str(ASSETS)],
    "html_css_files": ["report.css"],
    "html_js_files": [("report.js", {"defer": "defer"})],
    "html_show_search_summary": False,  # it fetches pages, which a browser forbids where they come from disk
    "html_copy_source": False,
    "html_show_copyright": False,
    "html_use_index": False,
    "myst_enable_extensions": ["dollarmath"],
    "myst_heading_anchors": 3,
    "nb_execution_mode": "off",
    "nb_merge_streams": True,
    "nb_render_markdown_format": "myst",  # the default, CommonMark, has no tables
    "nb_ipywidgets_js": {},  # else from a CDN
    "nb_mime_priority_overrides": [
        ("html", "application/vnd.jupyter.widget-view+json", None),
        ("html", "application/javascript", None),
    ],
    # Links to notebooks that have not run become text; headings of outputs need not follow those of the page.
    "suppress_warnings": ["myst.xref_missing", "myst.header", "misc.highlighting_failure", "mystnb.mime_type"],
}


def check_libraries() -> None:
    """ValueError that says what to install, when a library of the site is missing."""
    if missing := [name for module, name in LIBRARIES.items() if not find_spec(module)]:
        raise ValueError(f"the report needs {', '.join(missing)}; pip install {' '.join(missing)}")


def build_site(source: Path, out: Path, title: str, extra: Path) -> None:
    """Build the pages below `source`, index.md first, into `out`, and copy there what lies in the folder `extra`.

    Everything else that the build leaves is in the folder above `out`. What Sphinx warns of goes to stderr.
    """
    from sphinx.application import Sphinx
    from sphinx.util.docutils import docutils_namespace, patch_docutils

    settings = SETTINGS | {"project": title, "html_title": title, "html_extra_path": [str(extra)]}
    warnings = io.StringIO()
    with patch_docutils(), docutils_namespace():
        Sphinx(
            source, None, out, out.parent / "doctrees", "html", settings, status=None, warning=warnings
        ).build()  # fmt: skip
    print(re.sub(r"\x1b\[[\d;]*m", "", warnings.getvalue()), end="", file=sys.stderr)  # without colours


def setup(app) -> dict:
    """What Sphinx calls of an extension."""
    app.add_html_math_renderer("mathml", (_write_math, None), (_write_math, None))
    app.connect("doctree-read", _name_figures)
    app.connect("doctree-resolved", _mend_links)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _write_math(translator, node) -> None:
    """A formula as MathML; as TeX where docutils cannot read it."""
    from docutils.nodes import SkipNode, math_block
    from docutils.utils.math import MathError
    from docutils.utils.math.latex2mathml import tex2mathml

    try:
        translator.body.append(tex2mathml(node.astext(), as_block=isinstance(node, math_block)))
    except MathError:
        translator.body.append(f"<code>{html.escape(node.astext())}</code>")
    raise SkipNode


def _name_figures(_app, doctree) -> None:
    """Outputs of notebooks have no alternative text; their section's title is one."""
    from docutils.nodes import image, section, title

    for figure in doctree.findall(image):
        part = figure.parent
        while part and not isinstance(part, section):
            part = part.parent
        heading = part.next_node(title).astext() if part else "before the title"
        figure["alt"] = figure.get("alt") or f"Figure: {heading}"


def _mend_links(app, doctree, page: str) -> None:
    """What MyST found no page for: a link to a file beside the pages, named from their top, else only its text."""
    from docutils.nodes import inline, reference

    for link in list(doctree.findall(reference)):
        text = link.next_node(inline)
        if not link.get("refid") or not text or "xref" not in text["classes"]:
            continue
        file = unquote(link["refid"])
        if (Path(app.config.html_extra_path[0]) / file).is_file():
            link["refuri"] = posixpath.relpath(link.attributes.pop("refid"), posixpath.dirname(page) or ".")
        else:
            link.replace_self(link.children)
