"""Report a calibration: a table of the best trials as Markdown, and a figure of the search and of the fit as SVG."""

import argparse
import csv
import statistics
from collections import Counter
from html import escape
from math import ceil, floor, log10

SHOWN = 10  # trials in the table
OBSERVED, BEST, BAND, DOT, DOT_EDGE, INK = "#111", "#08519c", "#c6dbef", "#9ecae1", "#4292c6", "#555"
LEFT, TOP, WIDTH, HEIGHT, GAP = 66, 52, 300, 250, 76
MONTHS = "JFMAMJJASOND"
STYLE = (
    "text{font-family:Helvetica,Arial,'Liberation Sans','DejaVu Sans',sans-serif;fill:#222}"
    ".title{font-size:15px;font-weight:bold}.label{font-size:13px}.tick{font-size:12px;fill:#444}"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", required=True, help="table of the study, CSV")
    parser.add_argument("--observed", required=True, help="observed cases, CSV")
    parser.add_argument("--table", required=True, help="Markdown file to write")
    parser.add_argument("--figure", required=True, help="SVG file to write")
    parser.add_argument("simulated", nargs="+", help="CSV files written by models/typhoid.py at the best point")
    args = parser.parse_args()

    with open(args.trials, newline="") as file:
        trials = list(csv.DictReader(file))
    complete = [row for row in trials if row["state"] == "complete"]
    with open(args.table, "w", encoding="utf-8") as file:
        file.write(table(trials, complete))
    with open(args.figure, "w", encoding="utf-8") as file:
        file.write(figure(complete, args.observed, args.simulated))


def table(trials, complete):
    """Return the best trials, the best first."""
    names = [name for name in trials[0] if name.startswith("params.")]
    lines = [
        "# Calibration",
        "",
        f"{len(trials)} trials, of which {len(trials) - len(complete)} failed. The best {min(SHOWN, len(complete))}:",
        "",
        "| trial | " + " | ".join(name.removeprefix("params.") for name in names) + " | loss |",
        "|" + "---|" * (len(names) + 2),
    ]
    for row in sorted(complete, key=loss)[:SHOWN]:
        cells = [row["trial"], *(short(row[name]) for name in names), f"{loss(row):.1f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def loss(row):
    return float(row["values.loss"])


def short(cell):
    """Return a number with four digits, and anything else as it is."""
    try:
        return f"{float(cell):.4g}"
    except ValueError:
        return cell


def figure(complete, observed, simulated):
    parts = search(panel(0), complete)
    ages = list(dict.fromkeys(row["age"] for row in read(observed)))
    parts += fit(panel(1), "b", "age", ages, [age.replace("-", "–") for age in ages], "age (years)", observed, simulated)
    parts += fit(panel(2), "c", "month", [str(m) for m in range(1, 13)], list(MONTHS), "month", observed, simulated)
    parts += legend(panel(2).right + 20, TOP + 14, len(simulated))
    width, height = panel(2).right + 168, TOP + HEIGHT + 58
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">',
        f'<style>{STYLE}</style><rect width="{width}" height="{height}" fill="#fff"/>',
        *parts,
        "</svg>\n",
    ])


def search(area, complete):
    """Draw the loss of every trial, and the best up to there as steps. The scale is logarithmic: first trials are far off."""
    values = [(int(row["trial"]), loss(row)) for row in complete]
    low, high = min(y for _, y in values) / 1.3, max(y for _, y in values) * 1.3
    last = max(x for x, _ in values)
    area.scale((0, last + 1), (log10(low), log10(high)))
    corners, best = [], None
    for x, y in values:
        if best is None or y < best:
            corners += [(x, best)] if best is not None else []
            corners.append((x, y))
            best = y
    corners.append((last, best))

    parts = area.title("a", "loss of every trial, and the best so far")
    ticks = [m * 10.0**k for k in range(floor(log10(low)), ceil(log10(high)) + 1) for m in ((1, 3) if high / low > 20 else (1, 2, 5))]
    parts += area.y_axis([(log10(y), f"{y:,g}") for y in ticks if low <= y <= high], "loss (deviance)")
    parts += [area.dot(x, log10(y), 3.2, DOT, f'stroke="{DOT_EDGE}" stroke-width="0.7"') for x, y in values]
    parts.append(area.path([(x, log10(y)) for x, y in corners], f'fill="none" stroke="{BEST}" stroke-width="2"'))
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, 200, 500, last) if last / step <= 6)
    return parts + area.x_axis([(x, x) for x in range(0, last + 1, step)], "trial")


def fit(area, letter, column, groups, names, label, observed, simulated):
    """Draw the observed cases of each group over the range and the median of the simulated ones."""
    seen = cases(observed, column)
    runs = [cases(path, column) for path in simulated]
    by_group = [sorted(run[group] for run in runs) for group in groups]
    top, step = round_up(max(max(values[-1], seen[group]) for values, group in zip(by_group, groups)))
    area.scale((-0.5, len(groups) - 0.5), (0, top))

    parts = area.title(letter, f"cases by {column}")
    parts += area.y_axis([(y, f"{y:,}") for y in range(0, top + 1, step)], "cases in ten years" if letter == "b" else "")
    for k, (values, group) in enumerate(zip(by_group, groups)):
        low, high = quantile(values, 0.05), quantile(values, 0.95)
        parts.append(area.bar(k, low, high, 0.62))
        parts.append(area.path([(k - 0.31, statistics.median(values)), (k + 0.31, statistics.median(values))],
                               f'stroke="{BEST}" stroke-width="2.2"'))
        parts.append(area.dot(k, seen[group], 4.2, OBSERVED, 'stroke="#fff" stroke-width="1"'))
    return parts + area.x_axis(list(enumerate(names)), label)


def legend(x, y, count):
    return [
        f'<circle cx="{x + 11}" cy="{y - 4}" r="4.2" fill="{OBSERVED}"/>', text(x + 30, y, "observed"),
        f'<rect x="{x}" y="{y + 10}" width="22" height="14" fill="{BAND}"/>', text(x + 30, y + 22, f"90 % of {count} runs"),
        f'<path d="M{x} {y + 40}h22" stroke="{BEST}" stroke-width="2.2"/>', text(x + 30, y + 44, "their median"),
    ]


def panel(k):
    return Panel(LEFT + k * (WIDTH + GAP), TOP)


class Panel:
    """A plotting area: where it stands on the page, and how data become pixels."""

    def __init__(self, left, top):
        self.left, self.top, self.right, self.bottom = left, top, left + WIDTH, top + HEIGHT

    def scale(self, x_range, y_range):
        self.x_range, self.y_range = x_range, y_range

    def x(self, value):
        low, high = self.x_range
        return self.left + (value - low) / (high - low) * WIDTH

    def y(self, value):
        low, high = self.y_range
        return self.bottom - (value - low) / (high - low) * HEIGHT

    def path(self, points, style):
        return f'<path d="M{"L".join(f"{self.x(x):.1f} {self.y(y):.1f}" for x, y in points)}" {style}/>'

    def dot(self, x, y, radius, fill, style=""):
        return f'<circle cx="{self.x(x):.1f}" cy="{self.y(y):.1f}" r="{radius}" fill="{fill}" {style}/>'

    def bar(self, x, low, high, width):
        left, top = self.x(x - width / 2), self.y(high)
        return (f'<rect x="{left:.1f}" y="{top:.1f}" width="{self.x(x + width / 2) - left:.1f}" '
                f'height="{max(self.y(low) - top, 1):.1f}" fill="{BAND}"/>')

    def title(self, letter, words):
        return [text(self.left, self.top - 26, letter, "title"), text(self.left + 16, self.top - 26, words, "label")]

    def x_axis(self, ticks, label):
        parts = [f'<path d="M{self.left} {self.bottom}H{self.right}" stroke="{INK}"/>']
        parts += [text(self.x(value), self.bottom + 18, name, "tick", "middle") for value, name in ticks]
        return [*parts, text((self.left + self.right) / 2, self.bottom + 40, label, "label", "middle")]

    def y_axis(self, ticks, label):
        parts = [f'<path d="M{self.left} {self.y(value):.1f}H{self.right}" stroke="#e6e6e6"/>' for value, _ in ticks]
        parts.append(f'<path d="M{self.left} {self.top}V{self.bottom}" stroke="{INK}"/>')
        parts += [text(self.left - 8, self.y(value) + 4, name, "tick", "end") for value, name in ticks]
        middle = f'translate({self.left - 46} {(self.top + self.bottom) / 2}) rotate(-90)'
        return [*parts, f'<text class="label" text-anchor="middle" transform="{middle}">{escape(label)}</text>'] if label else parts


def text(x, y, content, kind="tick", anchor="start"):
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(str(content))}</text>'


def round_up(value):
    """Return a round number that is not below `value`, and the distance of ticks up to it."""
    step = next(m * 10**k for k in range(9) for m in (1, 2, 5) if m * 10**k * 6 >= value)
    return max(ceil(value / step), 1) * step, step


def quantile(ordered, q):
    """Return the q-quantile of sorted values, linear between neighbours."""
    place = q * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def cases(path, column):
    counts = Counter()
    for row in read(path):
        counts[row[column]] += int(row["cases"])
    return counts


def read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


if __name__ == "__main__":
    main()
