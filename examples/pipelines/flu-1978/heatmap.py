"""Draw the losses over the grid as heat maps: one for each target, and their sum. A ring marks the best point of each.

Dashed lines join points of equal R0 = transmission / recovery.
"""

import argparse
import csv

import svg

# Anchors of the colour map viridis, from dark to light; low losses are dark.
VIRIDIS = [(68, 1, 84), (72, 40, 120), (62, 74, 137), (49, 104, 142), (38, 130, 142), (31, 158, 137), (53, 183, 121),
           (110, 206, 88), (181, 222, 43), (253, 231, 37)]
TITLES = {"curve": "daily counts", "peak": "peak height and day", "total": "sum of both"}
SIDE, TOP, LEFT, GAP, RIGHT = 280, 58, 70, 54, 26
BAR_TOP, BAR_HEIGHT = TOP + SIDE + 66, 12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", required=True, help="CSV file written by rank.py")
    parser.add_argument("--out", required=True, help="SVG file to write")
    args = parser.parse_args()

    with open(args.table, newline="") as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    with open(args.out, "w", encoding="utf-8") as file:
        file.write(figure(rows))


def figure(rows):
    losses = [name for name in rows[0] if name not in ("transmission", "recovery", "r0")]
    parts = []
    for k, loss in enumerate(losses):
        parts += heatmap(rows, loss, LEFT + k * (SIDE + GAP), letter="abcdefgh"[k], first=k == 0)
    width = LEFT + len(losses) * (SIDE + GAP) - GAP + RIGHT
    return svg.page(width, BAR_TOP + BAR_HEIGHT + 56, parts)


def heatmap(rows, loss, left, letter, first):
    """Draw one panel with its colour bar."""
    xs = sorted({row["transmission"] for row in rows})
    ys = sorted({row["recovery"] for row in rows})
    x_step, y_step = (xs[-1] - xs[0]) / (len(xs) - 1), (ys[-1] - ys[0]) / (len(ys) - 1)
    panel = svg.Panel(left, TOP, SIDE, SIDE, (xs[0] - x_step / 2, xs[-1] + x_step / 2), (ys[0] - y_step / 2, ys[-1] + y_step / 2))
    low, high = min(row[loss] for row in rows), max(row[loss] for row in rows)

    parts = [svg.text(left, TOP - 30, letter, "title"), svg.text(left + 16, TOP - 30, TITLES.get(loss, loss), "label")]
    width, height = SIDE / len(xs), SIDE / len(ys)
    for row in rows:
        fill = viridis((row[loss] - low) / (high - low or 1))
        x, y = panel.x(row["transmission"] - x_step / 2), panel.y(row["recovery"] + y_step / 2)
        parts.append(svg.rect(x, y, width + 0.3, height + 0.3, fill))  # the overlap hides seams between cells
    parts += r0_lines(panel)
    parts += mark(panel, min(rows, key=lambda row: row[loss]))
    parts += panel.x_axis(labelled(xs), "transmission (per day)")
    parts += panel.y_axis(labelled(ys), "recovery (per day)" if first else "")
    return parts + colour_bar(left, low, high)


def r0_lines(panel):
    """Draw the lines of equal R0 that reach the top of the panel, or its right side, with their labels there."""
    (x_low, x_high), (y_low, y_high) = panel.x_range, panel.y_range
    parts = []
    for r0 in range(1, 20):
        start, end = max(x_low, r0 * y_low), min(x_high, r0 * y_high)
        if end - start < 0.15 * (x_high - x_low):
            continue
        parts.append(svg.line(panel.x(start), panel.y(start / r0), panel.x(end), panel.y(end / r0), "#fff", 1.2,
                              'stroke-dasharray="5 4" stroke-opacity="0.85"'))
        if end < x_high:
            parts.append(svg.text(panel.x(end), panel.top - 6, f"R₀ = {r0}", "small", "middle"))
        else:
            parts.append(svg.text(panel.right + 5, panel.y(end / r0) + 4, r0, "small"))
    return parts


def mark(panel, best):
    x, y = panel.x(best["transmission"]), panel.y(best["recovery"])
    return [svg.circle(x, y, 8, "none", 'stroke="#000" stroke-width="4"'),
            svg.circle(x, y, 8, "none", 'stroke="#fff" stroke-width="2"')]


def colour_bar(left, low, high):
    steps = 56
    parts = [svg.rect(left + k * SIDE / steps, BAR_TOP, SIDE / steps + 0.3, BAR_HEIGHT, viridis(k / (steps - 1)))
             for k in range(steps)]
    for share in (0, 0.5, 1):
        x = left + share * SIDE
        parts.append(svg.line(x, BAR_TOP + BAR_HEIGHT, x, BAR_TOP + BAR_HEIGHT + 4))
        anchor = {0: "start", 1: "end"}.get(share, "middle")
        parts.append(svg.text(x, BAR_TOP + BAR_HEIGHT + 17, f"{low + share * (high - low):.2f}", "tick", anchor))
    parts.append(svg.text(left + SIDE / 2, BAR_TOP + BAR_HEIGHT + 38, "relative error (CRPS)", "label", "middle"))
    return parts


def labelled(values, most=8):
    """Return (value, text) for at most `most` of the values, all texts with the same number of decimals."""
    shown = values[:: -(-len(values) // most)]
    decimals = max(len(f"{value:.3g}".partition(".")[2]) for value in shown)
    return [(value, f"{value:.{decimals}f}") for value in shown]


def viridis(position):
    """Return the colour at a position between 0 and 1."""
    place = position * (len(VIRIDIS) - 1)
    k = min(int(place), len(VIRIDIS) - 2)
    mixed = [round(a + (b - a) * (place - k)) for a, b in zip(VIRIDIS[k], VIRIDIS[k + 1])]
    return "#{:02x}{:02x}{:02x}".format(*mixed)


if __name__ == "__main__":
    main()
