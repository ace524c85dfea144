"""Draw the observed outbreak over the epidemics that the best-fitting parameters predict: median, 50 % and 95 % bands."""

import argparse
import csv
import datetime

import svg

OBSERVED, MEDIAN, INNER, OUTER = "#111", "#08519c", "#9ecae1", "#deebf7"
LEFT, TOP, WIDTH, HEIGHT, LEGEND = 74, 26, 540, 320, 236


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--transmission", type=float, required=True, help="as fitted")
    parser.add_argument("--recovery", type=float, required=True, help="as fitted")
    parser.add_argument("--observed", required=True, help="CSV file with columns `date` and `in_bed`")
    parser.add_argument("--out", required=True, help="SVG file to write")
    parser.add_argument("curves", nargs="+", help="CSV files written by simulate.py")
    args = parser.parse_args()

    with open(args.observed, newline="") as file:
        observed = [(datetime.date.fromisoformat(row["date"]), int(row["in_bed"])) for row in csv.DictReader(file)]
    curves = [read_counts(path) for path in args.curves]
    with open(args.out, "w", encoding="utf-8") as file:
        file.write(figure(observed, curves, args.transmission, args.recovery))


def figure(observed, curves, transmission, recovery):
    days = list(range(1, len(observed) + 1))
    by_day = [sorted(counts) for counts in zip(*curves)]
    low, lower, median, upper, high = ([quantile(counts, q) for counts in by_day] for q in (0.025, 0.25, 0.5, 0.75, 0.975))
    top = -(-max(max(high), max(count for _, count in observed)) // 50) * 50
    panel = svg.Panel(LEFT, TOP, WIDTH, HEIGHT, (0.5, len(days) + 0.5), (0, top))

    step = 50 if top <= 500 else 100
    parts = panel.y_axis([(y, y) for y in range(0, int(top) + 1, step)], "boys in bed", grid=True)
    parts.append(panel.band(days, low, high, OUTER))
    parts.append(panel.band(days, lower, upper, INNER))
    parts.append(panel.curve(days, median, MEDIAN))
    parts += [svg.circle(panel.x(day), panel.y(count), 4.2, OBSERVED, 'stroke="#fff" stroke-width="1"')
              for day, (_, count) in zip(days, observed)]
    dates = [(day, f"{date.day} {date:%b}" if day == 1 or date.day == 1 else f"{date.day}") for day, (date, _) in zip(days, observed)]
    parts += panel.x_axis(dates, f"day in {observed[0][0].year}")
    parts += legend(panel, len(curves), transmission, recovery)
    return svg.page(LEFT + WIDTH + LEGEND, TOP + HEIGHT + 62, parts)


def legend(panel, count, transmission, recovery):
    x, y = panel.right + 22, panel.top + 18
    parts = [svg.circle(x + 12, y - 4, 4.2, OBSERVED), svg.text(x + 34, y, "observed", "note")]
    parts += [svg.line(x, y + 18, x + 24, y + 18, MEDIAN, 2), svg.text(x + 34, y + 22, f"model, median of {count} runs", "note")]
    for k, (fill, name) in enumerate([(INNER, "half of the runs"), (OUTER, "95 % of the runs")]):
        parts += [svg.rect(x, y + 33 + 22 * k, 24, 13, fill), svg.text(x + 34, y + 44 + 22 * k, name, "note")]
    for k, fact in enumerate([f"transmission {transmission:.3g} per day", f"recovery {recovery:.3g} per day",
                              f"R₀ = {transmission / recovery:.2f}"]):
        parts.append(svg.text(x + 34, y + 96 + 18 * k, fact, "note"))
    return parts


def quantile(ordered, q):
    """Return the q-quantile of sorted values, linear between neighbours."""
    position = q * (len(ordered) - 1)
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def read_counts(path):
    with open(path, newline="") as file:
        return [int(row["in_bed"]) for row in csv.DictReader(file)]


if __name__ == "__main__":
    main()
