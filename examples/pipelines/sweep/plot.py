"""Draw the sweep as an SVG figure: a panel of epidemic curves for each scenario, and the attack rates side by side.

Only the standard library is used. A panel is a rectangle with two linear scales; all drawing goes through it.
"""

import argparse
import json
import math
from html import escape

RAMP = ["#9ecae1", "#5ba3cf", "#2d7dbb", "#12579b", "#08306b"]  # light to dark for rising beta
MARKERS = ["#1b1b1b", "#d95f0e", "#31a354", "#756bb1", "#c51b8a"]  # one colour for each scenario in the last panel
PANEL_WIDTH, PANEL_HEIGHT = 300, 260
LEFT, TOP, GAP, BOTTOM, RIGHT = 66, 48, 66, 92, 22


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, help="SVG file to write")
    parser.add_argument("tables", nargs="+", help="summaries written by summarise.py, one for each scenario")
    args = parser.parse_args()

    summaries = []
    for path in args.tables:
        with open(path) as file:
            summaries.append(json.load(file))
    with open(args.out, "w", encoding="utf-8") as file:
        file.write(figure(summaries))


def figure(summaries):
    """Return the whole figure as SVG text."""
    betas = sorted({curve["beta"] for summary in summaries for curve in summary["curves"]})
    colours = {beta: ramp(k / max(1, len(betas) - 1)) for k, beta in enumerate(betas)}
    days = max(len(curve["infectious"]["median"]) for summary in summaries for curve in summary["curves"]) - 1
    top = nice_top(max(max(c["infectious"]["high"]) for s in summaries for c in s["curves"]) * 100)

    parts = []
    for k, summary in enumerate(summaries):
        panel = Panel(k, (0, days), (0, top), letter=chr(ord("a") + k), title=label(summary["scenario"]))
        parts += panel.frame(ticks(0, days, 6), ticks(0, top, 5), "day", "infectious (% of people)" if k == 0 else "")
        parts += curves(panel, summary, colours)
    reach = (betas[-1] - betas[0]) * 0.08 or 0.05
    last = Panel(len(summaries), (betas[0] - reach, betas[-1] + reach), (0, 100),
                 letter=chr(ord("a") + len(summaries)), title=f"ever infected by day {days}")
    parts += last.frame(betas, ticks(0, 100, 5), "transmission rate β (per day)", "attack rate (% of people)")
    parts += attack_rates(last, summaries)

    width = last.right + RIGHT
    height = TOP + PANEL_HEIGHT + BOTTOM
    replicates = max(curve["replicates"] for summary in summaries for curve in summary["curves"])
    parts += beta_legend(colours, height - 26)
    parts.append(text(width - RIGHT, height - 22, f"median and 10–90 % band of {replicates} replicates", "end", "note"))
    return "\n".join([header(width, height), *parts, "</svg>", ""])


def curves(panel, summary, colours):
    """Draw the band and the median of each transmission rate."""
    bands, lines = [], []
    for curve in summary["curves"]:
        colour = colours[curve["beta"]]
        low, median, high = ([100 * value for value in curve["infectious"][name]] for name in ("low", "median", "high"))
        outline = list(enumerate(high)) + list(enumerate(low))[::-1]
        bands.append(f'<path d="{panel.path(outline)}Z" fill="{colour}" fill-opacity="0.25"/>')
        lines.append(f'<path d="{panel.path(enumerate(median))}" fill="none" stroke="{colour}" stroke-width="1.8"/>')
    return bands + lines


def attack_rates(panel, summaries):
    """Draw one series of attack rates with error bars for each scenario, and a legend in the free corner."""
    parts = []
    for k, summary in enumerate(summaries):
        colour = MARKERS[k % len(MARKERS)]
        shift = 4 * (k - (len(summaries) - 1) / 2)  # keeps error bars of equal betas apart, in pixels
        points = [(panel.x(c["beta"]) + shift, {n: panel.y(100 * v) for n, v in c["attack_rate"].items()})
                  for c in summary["curves"]]
        joined = " ".join(f"{x:.1f},{y['median']:.1f}" for x, y in points)
        parts.append(f'<polyline points="{joined}" fill="none" stroke="{colour}" stroke-width="1" stroke-opacity="0.5"/>')
        for x, y in points:
            parts.append(line(x, y["low"], x, y["high"], colour, 1.4))
            parts.append(f'<circle cx="{x:.1f}" cy="{y["median"]:.1f}" r="3.4" fill="{colour}"/>')
        entry = panel.bottom - 14 - 17 * (len(summaries) - 1 - k)
        parts.append(f'<circle cx="{panel.right - 14}" cy="{entry - 4}" r="3.4" fill="{colour}"/>')
        parts.append(text(panel.right - 24, entry, label(summary["scenario"]), "end", "tick"))
    return parts


def beta_legend(colours, y):
    parts = [text(LEFT, y + 4, "β (per day)", "start", "note")]
    for k, (beta, colour) in enumerate(colours.items()):
        x = LEFT + 84 + 62 * k
        parts.append(line(x, y, x + 22, y, colour, 3))
        parts.append(text(x + 28, y + 4, f"{beta:g}", "start", "tick"))
    return parts


class Panel:
    """A plotting area: where it stands, and how data become pixels."""

    def __init__(self, position, x_range, y_range, letter, title):
        self.left = LEFT + position * (PANEL_WIDTH + GAP)
        self.right = self.left + PANEL_WIDTH
        self.top, self.bottom = TOP, TOP + PANEL_HEIGHT
        self.x_range, self.y_range = x_range, y_range
        self.letter, self.title = letter, title

    def x(self, value):
        low, high = self.x_range
        return self.left + (value - low) / (high - low) * PANEL_WIDTH

    def y(self, value):
        low, high = self.y_range
        return self.bottom - (value - low) / (high - low) * PANEL_HEIGHT

    def path(self, points):
        return "M" + "L".join(f"{self.x(x):.1f} {self.y(y):.1f}" for x, y in points)

    def frame(self, x_ticks, y_ticks, x_label, y_label):
        """Draw the grid, the axes, the ticks and the labels."""
        parts = [f'<text class="title" x="{self.left}" y="{self.top - 16}"><tspan font-weight="bold">{self.letter}</tspan>'
                 f'<tspan dx="8">{escape(self.title)}</tspan></text>']
        for value in y_ticks:
            parts.append(line(self.left, self.y(value), self.right, self.y(value), "#e6e6e6", 1))
            parts.append(text(self.left - 8, self.y(value) + 4, f"{value:g}", "end", "tick"))
        for value in x_ticks:
            parts.append(line(self.x(value), self.bottom, self.x(value), self.bottom + 5, "#555", 1))
            parts.append(text(self.x(value), self.bottom + 19, f"{value:g}", "middle", "tick"))
        parts.append(line(self.left, self.bottom, self.right, self.bottom, "#555", 1))
        parts.append(line(self.left, self.top, self.left, self.bottom, "#555", 1))
        middle = (self.left + self.right) / 2
        parts.append(text(middle, self.bottom + 40, x_label, "middle", "label"))
        x, y = self.left - 42, (self.top + self.bottom) / 2
        parts.append(f'<text class="label" text-anchor="middle" transform="translate({x} {y}) rotate(-90)">{escape(y_label)}</text>')
        return parts


def header(width, height):
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">\n'
            "<style>text{font-family:Helvetica,Arial,'Liberation Sans','DejaVu Sans',sans-serif;fill:#222}"
            ".title{font-size:15px}.label{font-size:13px}.tick{font-size:12px;fill:#444}.note{font-size:12px;fill:#444}</style>\n"
            f'<rect width="{width}" height="{height}" fill="#fff"/>')


def text(x, y, content, anchor, kind):
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(content)}</text>'


def line(x1, y1, x2, y2, colour, width):
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="{width}"/>'


def label(scenario):
    """Say what a scenario is; it is an object of the matrix, or just its name."""
    if not isinstance(scenario, dict):
        return str(scenario)
    attributes = [f"{name} {value:.0%}" if isinstance(value, float) else f"{name} {value}"
                  for name, value in scenario.items() if name != "name"]
    return ", ".join([str(scenario["name"]), *attributes])


def ramp(position):
    """Pick the colour at a position between 0 and 1."""
    return RAMP[round(position * (len(RAMP) - 1))]


def ticks(low, high, count):
    """Return about `count` round numbers from low to high."""
    raw = (high - low) / count
    power = 10 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 3, 5, 10) if factor * power >= raw * 0.999)
    return [round(low + k * step, 10) for k in range(int((high - low) / step + 1e-9) + 1)]


def nice_top(value):
    """Round up to the end of a scale that leaves a little air."""
    step = 5 if value > 10 else 1
    return max(step, math.ceil(value * 1.02 / step) * step)


if __name__ == "__main__":
    main()
