"""HTML pages that hold their figures, as text."""

from __future__ import annotations

import base64
import html
import math
import re
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from asvit_tf.design import savings
from search.report.figures import png


def embedded(figure: Figure, caption: str) -> str:
    """An HTML figure with the drawing inside, 125 pixels wide for each inch of it, whatever its resolution."""
    data = base64.b64encode(png(figure)).decode()
    text, width = html.escape(caption), round(_PIXELS_PER_INCH * figure.get_figwidth())
    return (
        f'<figure><img alt="{text}" width="{width}" src="data:image/png;base64,{data}">'
        f"<figcaption>{text}</figcaption></figure>"
    )


def paragraph(text: str) -> str:
    """A paragraph of plain text."""
    return f"<p>{html.escape(text)}</p>"


def heading(text: str) -> str:
    """A heading that `contents` leads to."""
    return f'<h2 id="{_anchor(text)}">{html.escape(text)}</h2>'


def contents(headings: Sequence[str]) -> str:
    """Links to headings, by their texts, in one line."""
    links = (f'<a href="#{_anchor(text)}">{html.escape(text)}</a>' for text in headings)
    return f"<p>{' &middot; '.join(links)}</p>"


def _anchor(text: str) -> str:
    return re.sub(r"\W+", "-", text.lower()).strip("-")


def items(texts: Sequence[str]) -> str:
    """A list of plain texts."""
    return "<ul>" + "".join(f"<li>{html.escape(text)}</li>" for text in texts) + "</ul>"


def folded(summary: str, part: str) -> str:
    """HTML that is shown when its summary, plain text, is clicked."""
    return f"<details><summary>{html.escape(summary)}</summary>{part}</details>"


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """An HTML table."""
    head = "".join(f"<th>{html.escape(str(cell))}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


_PIXELS_PER_INCH = 125

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 52rem; margin: 2rem auto; padding: 0 1rem; color: #222 }}
table {{ border-collapse: collapse; font-size: 14px }} th, td {{ padding: .3rem .7rem; text-align: left }}
tr {{ border-bottom: 1px solid #ddd }}
figure {{ margin: 1.5rem 0 }} img {{ max-width: 100%; height: auto }} figcaption {{ font-size: 14px; color: #555 }}
code {{ overflow-wrap: anywhere }}
</style></head><body><h1>{title}</h1>
{body}
</body></html>
"""


def page(title: str, parts: Sequence[str]) -> str:
    """A whole page.

    Args:
      title: Plain text.
      parts: HTML, one below the other.
    """
    return _PAGE.format(title=html.escape(title), body="\n".join(parts))


def sections_page(title: str, summary: Sequence[str], sections: Mapping[str, Sequence[str]]) -> str:
    """A whole page of sections.

    Args:
      title: Plain text.
      summary: HTML in front of them.
      sections: HTML, one below the other, by heading.
    """
    parts = [*summary, contents(list(sections))]
    for name, section in sections.items():
        parts += [heading(name), *section]
    return page(title, parts)


def family_table(family: Sequence[Mapping]) -> str:
    """Every member's topology and size."""
    rows = [(m["topology"], f"{m['parameters']:,}", f"{m['macs'] / 1e6:.2f} M") for m in family]
    return table(("topology", "parameters", "MACs"), rows)


def phase_table(phases: Sequence[savings.PlannedPhase], times: Sequence[savings.PhaseTime]) -> str:
    """Tokens, cost and measured time of every phase, with the planned saving below."""
    measured = {(time.stride, time.dilation): time for time in times}
    rows = []
    for phase in phases:
        time = measured.get((phase.stride, phase.dilation))
        seconds = ("", "")
        if time is not None and math.isfinite(time.warm_seconds):
            seconds = (f"{time.warm_seconds:.1f} s", f"{time.trace_seconds:.1f} s")
        tokens = f"{phase.token_grid[0]} x {phase.token_grid[1]}"
        macs = f"{phase.macs / 1e6:.2f} M"
        rows.append((phase.stride, phase.dilation, tokens, phase.steps, macs, f"{phase.share:.1%}", *seconds))
    header = ("stride", "dilation", "tokens", "steps", "MACs an image", "share of all", "training", "tracing")
    saving = savings.planned_saving(phases)
    return table(header, rows) + f"<p>Training multiply-accumulates saved by re-tokenization: {saving:.1%}.</p>"
