"""Simulate one stochastic SIR epidemic in a closed school, and write how many boys are in bed each day.

The model is the continuous-time Markov chain, simulated event by event (Gillespie's direct method), so no time step has
to be chosen:

    infection   S -> I   at rate  transmission * S * I / N
    recovery    I -> R   at rate  recovery * I

Infectious boys are taken to be those in bed. The run starts on the first day of the record with the boys counted then.
"""

import argparse
import csv
import random


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transmission", type=float, required=True, help="infections a day by one boy among susceptibles")
    parser.add_argument("--recovery", type=float, required=True, help="recoveries a day; 1 / recovery is the mean stay in bed")
    parser.add_argument("--seed", type=int, required=True, help="seed of the random numbers")
    parser.add_argument("--boys", type=int, default=763, help="boys at the school (default: 763)")
    parser.add_argument("--initial", type=int, default=3, help="boys in bed on day 1 (default: 3)")
    parser.add_argument("--days", type=int, default=14, help="days to report (default: 14)")
    parser.add_argument("--out", required=True, help="CSV file to write")
    args = parser.parse_args()

    counts = simulate(args.transmission, args.recovery, args.boys, args.initial, args.days, random.Random(args.seed))
    with open(args.out, "w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["day", "in_bed"])
        rows.writerows(enumerate(counts, start=1))


def simulate(transmission, recovery, boys, initial, days, rng):
    """Return the number of infectious boys at the start of each day."""
    susceptible, infectious = boys - initial, initial
    time, counts = 0.0, []
    while infectious > 0:
        infection_rate = transmission * susceptible * infectious / boys
        total_rate = infection_rate + recovery * infectious
        time += rng.expovariate(total_rate)
        while len(counts) < time:  # nothing changed up to now: report the days that went by
            counts.append(infectious)
            if len(counts) == days:
                return counts
        if rng.random() * total_rate < infection_rate:
            susceptible -= 1
            infectious += 1
        else:
            infectious -= 1
    return counts + [0] * (days - len(counts))


if __name__ == "__main__":
    main()
