"""A card as one HTML page with inline SVG plots: no script, no network, prints well."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from frontload.corpus.card import Card, figures
from frontload.corpus.distribution import Distribution

_WIDTH, _HEIGHT = 260, 70
_MOST_GROUPS = 20
_STYLE = """
body { font: 16px/1.45 system-ui, sans-serif; max-width: 56rem; margin: 2rem auto; padding: 0 1rem;
       color: #1c2733; background: #fff; }
h1 { font-size: 1.5rem; overflow-wrap: anywhere; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; }
td { padding: .2rem .8rem .2rem 0; vertical-align: top; overflow-wrap: anywhere; }
td:first-child { font-weight: 600; } td:last-child { font-variant-numeric: tabular-nums; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: 1.5rem; }
figure { margin: 0; } figcaption { font-size: .85rem; } svg { width: 100%; height: auto; }
rect { fill: #2f6f9f; } svg text { font-size: 10px; fill: #4a5866; }
dl { font-size: .85rem; color: #4a5866; } dt { font-weight: 600; } dd { margin: 0 0 .3rem 0; }
@media (prefers-color-scheme: dark) {
  body { color: #dde5ec; background: #14191f; } rect { fill: #6fb1de; }
  svg text, dl { fill: #a9b6c2; color: #a9b6c2; }
}
"""


def page(card: Card) -> str:
    """The whole page."""
    name = escape(card.name)
    groups = groups_plot(card) if card.diversity.num_groups > 1 else ""
    grouped_by = escape(card.diversity.grouped_by or "")
    return "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{name}</title><style>{_STYLE}</style></head><body>",
            f"<h1>{name}</h1>",
            _table(figures(card)),
            "<h2>Lengths (logarithmic axes)</h2><div class=plots>",
            *(_figure(what, values) for what, values in card.depth.items()),
            "</div>",
            f"<h2>Largest {grouped_by}</h2>{groups}" if groups else "",
            "<h2>What the figures are</h2><dl>",
            f"<dt>fingerprint</dt><dd>{card.fingerprint}</dd>",
            *(
                f"<dt>{escape(term)}</dt><dd>{escape(rule)}</dd>"
                for term, rule in card.definitions.items()
            ),
            "</dl></body></html>\n",
        ]
    )


def length_plot(values: Distribution) -> str:
    """Bars of a distribution; the first and last edge are written below."""
    top = max(values.counts)
    step = _WIDTH / len(values.counts)
    bars = []
    for place, count in enumerate(values.counts):
        height = max(_HEIGHT * count / top, 1.0) if count else 0.0
        left, width = place * step, max(step - 1, 1.0)
        share = f"{values.edges[place]:,.0f} to {values.edges[place + 1]:,.0f}: {count:,}"
        bars.append(
            f'<rect x="{left:.1f}" y="{_HEIGHT - height:.1f}" width="{width:.1f}" '
            f'height="{height:.1f}"><title>{share}</title></rect>'
        )
    labels = (
        f'<text x="0" y="{_HEIGHT + 12}">{values.edges[0]:,.0f}</text>'
        f'<text x="{_WIDTH}" y="{_HEIGHT + 12}" text-anchor="end">{values.edges[-1]:,.0f}</text>'
    )
    return _svg(_WIDTH, _HEIGHT + 16, [*bars, labels], f"median {values.median:,}")


def groups_plot(card: Card) -> str:
    """Horizontal bars of the largest groups."""
    groups = list(card.diversity.groups.items())[:_MOST_GROUPS]
    top = groups[0][1]
    rows = []
    for place, (name, count) in enumerate(groups):
        y = place * 18
        width = 240 * count / top
        shown = name if len(name) <= 44 else name[:43] + "…"
        rows.append(
            f'<text x="0" y="{y + 12}">{escape(shown)}</text>'
            f'<rect x="240" y="{y + 3}" width="{width:.1f}" height="12"></rect>'
            f'<text x="{246 + width:.1f}" y="{y + 12}">{count:,}</text>'
        )
    return _svg(560, 18 * len(groups), rows, "largest groups")


def _figure(what: str, values: Distribution) -> str:
    caption = (
        f"<b>{escape(what)}</b><br>median {values.median:,}, 10 % to 90 %: {values.p10:,} to "
        f"{values.p90:,}, mean {values.mean:,.1f}, greatest {values.greatest:,}"
    )
    return f"<figure>{length_plot(values)}<figcaption>{caption}</figcaption></figure>"


def _table(rows: Iterable[tuple[str, str, str]]) -> str:
    cells = ("".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows)
    return "<table>" + "\n".join(f"<tr>{row}</tr>" for row in cells) + "</table>"


def _svg(width: float, height: float, parts: list[str], label: str) -> str:
    opening = f'<svg viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{escape(label)}"'
    return f'{opening} xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'
