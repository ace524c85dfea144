"""Draw a calibration: the fit against the record, and how the trials found it. Write the estimate as JSON.

fit.svg is the figure of best_fit.py with epidemics of the calibrated rates, each moved in time as for the score. trials.svg
has the negative log-likelihood of every trial with the best so far, and the rates that were tried.
"""

import argparse
import csv
import datetime
import json
from math import ceil, floor

import best_fit
import svg
from likelihood import align, read_epidemics
from heatmap import viridis

DOT, BEST = "#9ecae1", "#08519c"
TRANSMISSION, RECOVERY = (1.0, 3.0), (0.25, 0.85)  # the space of the study
LEFT, TOP, WIDTH, HEIGHT, GAP, RIGHT = 74, 54, 400, 300, 96, 40


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", required=True, help="table of the study, CSV")
    parser.add_argument("--observed", required=True, help="CSV file with columns `date` and `in_bed`")
    parser.add_argument("--fit", required=True, help="SVG file to write")
    parser.add_argument("--trials", required=True, help="SVG file to write")
    parser.add_argument("--estimate", required=True, help="JSON file to write")
    parser.add_argument("curves", nargs="+", help="CSV files written by outbreaks.py at the best point")
    args = parser.parse_args()

    trials = read_trials(args.table)
    best = min(trials, key=lambda trial: trial["nll"])
    with open(args.observed, newline="") as file:
        observed = [(datetime.date.fromisoformat(row["date"]), int(row["in_bed"])) for row in csv.DictReader(file)]
    counts = [count for _, count in observed]
    curves = [align(epidemic, counts) for epidemic in read_epidemics(args.curves)]

    with open(args.fit, "w", encoding="utf-8") as file:
        file.write(best_fit.figure(observed, curves, best["transmission"], best["recovery"]))
    with open(args.trials, "w", encoding="utf-8") as file:
        file.write(figure(trials, best))
    estimate = {**best, "r0": round(best["transmission"] / best["recovery"], 3)}
    print(f"best: trial {best['trial']}, R0 {estimate['r0']}")
    with open(args.estimate, "w") as file:
        json.dump(estimate, file, indent=1)


def read_trials(path):
    """Return the trials that have a value, in order."""
    with open(path, newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["state"] == "complete"]
    return [
        {
            "trial": int(row["trial"]),
            "transmission": float(row["params.transmission"]),
            "recovery": float(row["params.recovery"]),
            "nll": float(row["values.nll"]),
        }
        for row in rows
    ]


def figure(trials, best):
    parts = progress(trials, best) + rates(trials, best)
    return svg.page(LEFT + 2 * WIDTH + GAP + RIGHT, TOP + HEIGHT + 60, parts)


def progress(trials, best):
    """Draw the negative log-likelihood of each trial, and the lowest up to there as steps."""
    last = max(trial["trial"] for trial in trials)
    low, high = 5 * floor(best["nll"] / 5 - 0.2), 5 * ceil(max(t["nll"] for t in trials) / 5)
    panel = svg.Panel(LEFT, TOP, WIDTH, HEIGHT, (0, last + 1), (low, high))
    steps, reached = [], None
    for trial in trials:
        if reached is None or trial["nll"] < reached:
            if reached is not None:
                steps.append((trial["trial"], reached))
            reached = trial["nll"]
            steps.append((trial["trial"], reached))
    steps.append((last, reached))

    parts = title(LEFT, "a", "fit of each trial")
    parts += panel.y_axis([(y, y) for y in svg.round_ticks(low, high)], "negative log-likelihood", grid=True)
    parts += [svg.circle(panel.x(t["trial"]), panel.y(t["nll"]), 3.4, DOT, 'stroke="#4292c6" stroke-width="0.8"') for t in trials]
    parts.append(panel.curve([x for x, _ in steps], [y for _, y in steps], BEST))
    parts += panel.x_axis([(x, x) for x in svg.round_ticks(0, last)], "trial")
    x, y = panel.right - 190, TOP - 32
    parts += [svg.circle(x, y, 3.4, DOT, 'stroke="#4292c6" stroke-width="0.8"'), svg.text(x + 12, y + 4, "trial", "note")]
    parts += [svg.line(x + 60, y, x + 82, y, BEST, 2), svg.text(x + 92, y + 4, "best so far", "note")]
    return parts


def rates(trials, best):
    """Draw where the trials went; a ring marks the best."""
    left = LEFT + WIDTH + GAP
    (x_low, x_high), (y_low, y_high) = TRANSMISSION, RECOVERY
    panel = svg.Panel(left, TOP, WIDTH, HEIGHT, TRANSMISSION, RECOVERY)
    parts = title(left, "b", "rates that were tried, from yellow (first) to violet (last)")
    parts += panel.y_axis([(y / 10, f"{y / 10:.1f}") for y in range(3, 9)], "recovery (per day)", grid=True)
    for r0 in (2, 3, 4, 5, 6):
        end = min(x_high, r0 * y_high)
        start = max(x_low, r0 * y_low)
        parts.append(svg.line(panel.x(start), panel.y(start / r0), panel.x(end), panel.y(end / r0), "#aaa", 1, 'stroke-dasharray="5 4"'))
        if end < x_high:
            parts.append(svg.text(panel.x(end), panel.top - 6, f"R₀ = {r0}", "small", "middle"))
        else:
            parts.append(svg.text(panel.right + 5, panel.y(end / r0) + 4, f"{r0}", "small"))
    for k, trial in enumerate(trials):
        shade = viridis(1 - k / max(len(trials) - 1, 1))
        parts.append(svg.circle(panel.x(trial["transmission"]), panel.y(trial["recovery"]), 4, shade, 'stroke="#555" stroke-width="0.6"'))
    parts.append(svg.circle(panel.x(best["transmission"]), panel.y(best["recovery"]), 8, "none", 'stroke="#d7301f" stroke-width="2.2"'))
    parts += panel.x_axis([(x / 2, f"{x / 2:.1f}") for x in range(2, 7)], "transmission (per day)")
    return parts


def title(left, letter, words):
    return [svg.text(left, TOP - 28, letter, "title"), svg.text(left + 16, TOP - 28, words, "label")]


if __name__ == "__main__":
    main()
