"""An executed notebook as a page that needs nothing else: no network, no script.

Formulas are drawn by the browser itself: they are MathML, made here.
"""

import re
import unicodedata
from html import escape
from pathlib import Path

from jinja2 import pass_context
from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode

from helpers.run import notebook as file

# What the converter does not know behind \big, or at all.
SPELLINGS = {r"\lVert": "‖", r"\rVert": "‖", r"\|": "‖", r"\vert": "|", r"\arg": r"\operatorname{arg}"}
LIMITS = r"<msub>(<mo>(?:max|min|sup|inf|lim)</mo>.*?)</msub>(?=<)"


def markdown(text: str, attachments: dict | None = None) -> str:
    """Markdown with LaTeX formulas -> HTML with MathML."""
    return MarkdownWithMath(renderer=_Renderer(escape=False, attachments=attachments or {})).render(text)


def formula(latex: str, display: bool = False) -> str:
    r"""LaTeX, without its dollars -> MathML; what cannot be read stays LaTeX.

    display: whether it stands on a line of its own, with its \tag at the end of the line.
    """
    latex, *numbers = re.split(r"\\tag\{([^}]*)\}", latex)
    for spelling, other in SPELLINGS.items():
        latex = re.sub(re.escape(spelling) + "(?![A-Za-z])", lambda _, other=other: other, latex)
    try:
        drawn = convert(latex.strip(), display="block" if display else "inline")
    except Exception:  # it has many kinds, none documented
        return f"<code>{escape(latex)}</code>"
    drawn = re.sub(r' xmlns="[^"]*"', "", drawn)
    drawn = re.sub(r'(<m[in]) mathvariant="([a-z-]+)">([^<]+)<', _styled, drawn)
    if not display:
        return drawn
    drawn = re.sub(LIMITS, r"<munder>\1</munder>", drawn)
    return f'<span class="formula">{drawn}{"".join(f"<span>({n})</span>" for n in numbers[::2])}</span>'


def write(node: NotebookNode, name: str) -> str:
    """The page of an executed notebook, whose first traceback has the anchor #traceback."""
    exporter = HTMLExporter(log_level="ERROR")
    exporter.raw_template = Path(__file__).with_name("page.html.j2").read_text(encoding="utf-8")
    exporter.register_filter("markdown2html", _filter)
    text, _ = exporter.from_notebook_node(file.without_widgets(node), {"metadata": {"name": name}})
    return text


class _Renderer(IPythonRenderer):
    """Markdown with formulas as MathML; links to other notebooks lead to their pages."""

    def block_math(self, body):
        return formula(body, display=True)

    def latex_environment(self, name, body):
        return formula(f"\\begin{{{name}}}{body}\\end{{{name}}}", display=True)

    def inline_math(self, body):
        return formula(body)

    def link(self, text, url, title=None):
        return super().link(text, _moved(url), title)


@pass_context
def _filter(context, source):
    """The filter of nbconvert's template."""
    return markdown(source, context.get("cell", {}).get("attachments"))


def _moved(url):
    """Where a link of a notebook leads to from its page in reports/<profile>/."""
    if re.match("[a-z]+:|#", url):
        return url
    page = re.sub(r"^(\w+)\.ipynb(?=$|#)", r"\1.html", url)
    return page if page != url else f"../../notebooks/{url}"


def _styled(found):
    """Characters with a `mathvariant`, which browsers ignore, as those that Unicode has for this style."""
    start, style, text = found.groups()
    if style == "normal":
        return found[0]
    style = style.upper().replace("-ITALIC", " ITALIC")
    return f"{start}>{''.join(_character(style, one) for one in text)}<"


def _character(style, character):
    name = re.sub("^(LATIN|GREEK) | LETTER", "", unicodedata.name(character))
    for full in (f"MATHEMATICAL {style} {name}", f"{style} {name}"):  # ℰ and its like have the short name
        try:
            return unicodedata.lookup(full)
        except KeyError:
            continue
    return character
