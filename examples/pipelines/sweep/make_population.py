"""Draw a synthetic population: one CSV row for each person, on standard output.

Each person has an age, and a contact rate relative to the average of the population. Children mix most and the old
least, as contact surveys find; within an age group the rates differ from person to person.
"""

import argparse
import csv
import random
import sys

# Upper age (exclusive), share of the population, mean relative contact rate.
AGE_GROUPS = [(18, 0.25, 1.5), (65, 0.55, 1.0), (95, 0.20, 0.5)]
CONTACT_LEVELS = [0.5, 1.0, 1.5]  # spread within an age group


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--people", type=int, required=True, help="size of the population")
    parser.add_argument("--seed", type=int, default=1, help="seed of the draw (default: 1)")
    args = parser.parse_args()

    people = list(draw(args.people, random.Random(args.seed)))
    mean = sum(contacts for _, contacts in people) / len(people)
    rows = csv.writer(sys.stdout, lineterminator="\n")
    rows.writerow(["person", "age", "contacts"])
    rows.writerows([person, age, f"{contacts / mean:.4f}"] for person, (age, contacts) in enumerate(people))


def draw(count, rng):
    """Yield (age, unscaled contact rate) for each of `count` people."""
    uppers = [upper for upper, _, _ in AGE_GROUPS]
    lowers = [0] + uppers[:-1]
    groups = rng.choices(range(len(AGE_GROUPS)), weights=[share for _, share, _ in AGE_GROUPS], k=count)
    for group in groups:
        yield rng.randrange(lowers[group], uppers[group]), AGE_GROUPS[group][2] * rng.choice(CONTACT_LEVELS)


if __name__ == "__main__":
    main()
