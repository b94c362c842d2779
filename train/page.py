"""One self-contained HTML page: sections, tables and pictures; nothing loaded, no scripts."""

import base64
from collections.abc import Sequence
from html import escape

from .plots import DARK, LIGHT, Plot

__all__ = ["document", "facts", "figures", "section", "table"]

_STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1c2024; --soft: #5b646d;
  --line: #d8dce0; --best: #d7ecd9; }
@media (prefers-color-scheme: dark) { :root { --paper: #16191d; --ink: #e4e7ea; --soft: #a3acb5;
  --line: #3c434a; --best: #1f4a2a; } }
body { background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif;
  margin: 0 auto; padding: 1rem; max-width: 72rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem;
  border-top: 1px solid var(--line); padding-top: 1rem; }
p, figcaption { max-width: 44rem; } figcaption, .caption { color: var(--soft); font-size: .9rem; }
nav a { margin-right: 1rem; white-space: nowrap; } a { color: inherit; }
.figures { display: grid; gap: 1.5rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); }
figure { margin: 0; } figure h3 { font-size: 1rem; margin: 0 0 .3rem; }
img { width: 100%; max-width: 34rem; height: auto; display: block; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--line); text-align: right; }
th:first-child, td:first-child { text-align: left; } thead th { white-space: nowrap; }
.facts td { text-align: left; } .facts td + td { overflow-wrap: anywhere; }
td.best { background: var(--best); font-weight: 600; }
summary { cursor: pointer; margin: .8rem 0; }
"""


def document(title: str, sections: Sequence[tuple[str, str]]) -> str:
    """The page; `sections` are anchors and the HTML that `section` made for them."""
    links = " ".join(f'<a href="#{name}">{escape(name)}</a>' for name, _ in sections)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n<nav>{links}</nav>\n"
        + "\n".join(html for _, html in sections)
        + "\n</body>\n</html>\n"
    )


def section(anchor: str, title: str, *parts: str) -> tuple[str, str]:
    """The anchor and a section of ready HTML parts."""
    inside = "\n".join(parts)
    html = f'<section id="{anchor}">\n<h2>{escape(title)}</h2>\n{inside}\n</section>'
    return anchor, html


def figures(items: Sequence[tuple[str, Plot, str]]) -> str:
    """Plots side by side where there is room: title, plot and a caption that says how to read."""
    return '<div class="figures">' + "\n".join(_figure(*item) for item in items) + "</div>"


def _figure(title: str, plot: Plot, caption: str) -> str:
    light, dark = _uri(plot.png(LIGHT)), _uri(plot.png(DARK))
    return (
        f"<figure><h3>{escape(title)}</h3><picture>"
        f'<source media="(prefers-color-scheme: dark)" srcset="{dark}">'
        f'<img src="{light}" alt="{escape(title)}"></picture>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def facts(values: dict[str, object]) -> str:
    """A table of names and values."""
    rows = "".join(f"<tr><td>{escape(n)}</td><td>{escape(str(v))}</td></tr>"
                   for n, v in values.items())  # fmt: skip
    return f'<div class="wide"><table class="facts">{rows}</table></div>'


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    caption: str,
    best: frozenset[tuple[int, int]] = frozenset(),
) -> str:
    """A table of ready text; `best` are the (row, column) to mark."""
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "".join(
        "<tr>"
        + "".join(
            f'<td class="best">{escape(cell)}</td>'
            if (i, j) in best
            else f"<td>{escape(cell)}</td>"
            for j, cell in enumerate(row)
        )
        + "</tr>\n"
        for i, row in enumerate(rows)
    )
    return (
        f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table>'
        f'</div><p class="caption">{escape(caption)}</p>'
    )


def _uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
