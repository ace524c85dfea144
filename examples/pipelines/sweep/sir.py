"""One run of a stochastic SIR epidemic in a population read from a CSV file.

A chain-binomial model in steps of one day. People who share a contact rate are exchangeable, so they are moved between
the compartments in binomial numbers and not one by one, which keeps a run of 10,000 people far below a second. The
result is the same in distribution as an update of every single person.

A vaccinated person is fully protected with probability `--efficacy`, and otherwise not at all ("all or nothing").
"""

import argparse
import csv
import math
import random
from collections import Counter


def main() -> None:
    args = parse_arguments()
    rng = random.Random(args.seed)
    people = count_by_contact_rate(args.people)
    series = simulate(people, args, rng)
    with open(args.out, "w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["day", "susceptible", "infectious", "removed", "new_infections"])
        rows.writerows(series)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", required=True, help="CSV file with a column `contacts`")
    parser.add_argument("--beta", type=float, required=True, help="transmission rate a day at average contact")
    parser.add_argument("--coverage", type=float, default=0.0, help="share of people who are vaccinated")
    parser.add_argument("--efficacy", type=float, default=0.6, help="probability that a vaccine protects")
    parser.add_argument("--gamma", type=float, default=0.1, help="recovery rate a day (default: 0.1)")
    parser.add_argument("--infected", type=int, default=20, help="people infectious on day 0 (default: 20)")
    parser.add_argument("--days", type=int, default=180, help="length of the run (default: 180)")
    parser.add_argument("--seed", type=int, required=True, help="seed of the random numbers")
    parser.add_argument("--out", required=True, help="CSV file to write")
    return parser.parse_args()


def count_by_contact_rate(path):
    """Return {contact rate: number of people}, in rising order of the rate."""
    with open(path, newline="") as file:
        counts = Counter(row["contacts"] for row in csv.DictReader(file))
    return {float(rate): counts[rate] for rate in sorted(counts, key=float)}


def simulate(people, args, rng):
    """Yield (day, susceptible, infectious, removed, new infections) for each day; protected people count as removed."""
    rates = list(people)
    total = sum(people.values())
    # Contacts are made in proportion to the rates, so a contact is with a given class in proportion to rate x people.
    all_contacts = sum(rate * count for rate, count in people.items())

    protected = [binomial(rng, people[rate], args.coverage * args.efficacy) for rate in rates]
    susceptible = [people[rate] - safe for rate, safe in zip(rates, protected)]
    infectious = [0] * len(rates)
    for cls in rng.choices(range(len(rates)), weights=susceptible, k=min(args.infected, sum(susceptible))):
        if susceptible[cls] > 0:
            susceptible[cls] -= 1
            infectious[cls] += 1

    new = sum(infectious)
    p_recover = -math.expm1(-args.gamma)
    for day in range(args.days + 1):
        s, i = sum(susceptible), sum(infectious)
        yield day, s, i, total - s - i, new
        force = args.beta * sum(rate * count for rate, count in zip(rates, infectious)) / all_contacts
        new = 0
        for cls, rate in enumerate(rates):
            infected = binomial(rng, susceptible[cls], -math.expm1(-force * rate))
            recovered = binomial(rng, infectious[cls], p_recover)
            susceptible[cls] -= infected
            infectious[cls] += infected - recovered
            new += infected


def binomial(rng, n, p):
    """Draw a binomial number by jumping from success to success, so that the cost follows n * p and not n."""
    if n == 0 or p <= 0.0:
        return 0
    if p > 0.5:
        return n - binomial(rng, n, 1.0 - p)
    log_q = math.log1p(-p)
    successes, position = 0, 0
    while True:
        position += int(math.log(1.0 - rng.random()) / log_q) + 1
        if position > n:
            return successes
        successes += 1


if __name__ == "__main__":
    main()
