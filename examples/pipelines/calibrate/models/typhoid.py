"""Simulate endemic typhoid fever in a town, person by person, and write its cases by month and age.

The model is a small relative of those used to plan vaccination, made for this example. It steps by weeks.

    people      are born and die, and the town keeps its size. They are exposed by age: most at school age.
    infection   comes from people: every exposure meets somebody at random. An infection is acute (a case, reported) with
                probability `p_acute`, else it passes unnoticed; unnoticed ones are half as infectious.
    immunity    each infection multiplies a person's susceptibility by 1 - `immunity`, for life.
    carriers    the town starts with `carriers` chronic carriers. Few infections make another one, more so with age; they
                are a fifth as infectious as an acute case, for many years.
    season      `flat`, or `monsoon`: more exposures from July to October, fewer in the dry months.

`beta` is how many exposures a week an acute case causes. Five years go by before the first that is reported, so that the
town forgets how it started, all but its carriers.
"""

import argparse
import csv
import json
import math
import random

AGE_BINS = ["0-1", "2-4", "5-9", "10-14", "15-24", "25-44", "45+"]
FIRST_YEAR_OF_BIN = [0, 2, 5, 10, 15, 25, 45]
EXPOSURE = [0.3, 0.9, 1.5, 1.4, 1.0, 0.7, 0.5]  # of an age bin; relative
CARRIAGE = [0.0, 0.0005, 0.001, 0.001, 0.002, 0.004, 0.008]  # probability that an infection leaves a chronic carrier
PEOPLE, OLDEST, MEAN_LIFE = 8000, 85, 38  # years
WEEKS, SETTLING = 52, 5  # weeks of a year, years before the first reported one
MEAN_INFECTION = 5  # weeks
UNNOTICED, CARRIER = 0.5, 0.2  # infectiousness relative to an acute case
MEAN_CARRIAGE = 12 * WEEKS
ARRIVALS = 0.05  # exposures a week from outside the town, so that the disease can come back


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--params", required=True, help="JSON object with beta, p_acute, immunity, carriers and season")
    parser.add_argument("--years", type=int, default=10, help="years to report (default: 10)")
    parser.add_argument("--seed", type=int, required=True, help="seed of the random numbers")
    parser.add_argument("--out", required=True, help="CSV file to write")
    args = parser.parse_args()

    cases = simulate(**json.loads(args.params), years=args.years, rng=random.Random(args.seed))
    with open(args.out, "w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["year", "month", "age", "cases"])
        for (year, month, age), count in cases.items():
            rows.writerow([year, month, AGE_BINS[age], count])


def simulate(beta, p_acute, immunity, carriers, season, years, rng):
    """Return the number of cases by (year, month, age bin); years and months count from 1."""
    town = Town(immunity, carriers, rng)
    cases = {(year + 1, month + 1, age): 0 for year in range(years) for month in range(12) for age in range(len(AGE_BINS))}
    for week in range((SETTLING + years) * WEEKS):
        town.births_and_deaths(week)
        town.recoveries(week)
        exposures = beta * season_factor(season, week) * town.infectiousness() + ARRIVALS
        for age in town.infections(week, exposures, p_acute):
            year = week // WEEKS - SETTLING
            if year >= 0:
                cases[year + 1, week % WEEKS * 12 // WEEKS + 1, age] += 1
    return cases


class Town:
    """The people, by number, and who of them is infected until when."""

    def __init__(self, immunity, carriers, rng):
        self.rng, self.immunity = rng, immunity
        self.born = [-int(self.draw_age() * WEEKS) for _ in range(PEOPLE)]
        self.susceptibility = [1.0] * PEOPLE
        self.until = [0] * PEOPLE  # the week in which an infection or carriage ends; 0: neither
        self.weight = [0.0] * PEOPLE  # infectiousness
        self.ends = {}  # week -> people whose infection or carriage ends then
        adults = [person for person in range(PEOPLE) if self.born[person] < -25 * WEEKS]
        for person in rng.sample(adults, carriers):
            self.infect(person, 0, CARRIER, MEAN_CARRIAGE)
        for person in rng.sample(range(PEOPLE), 40):
            if not self.until[person]:
                self.infect(person, 0, UNNOTICED, MEAN_INFECTION)

    def draw_age(self):
        """Draw from the ages of a town where all die at the same rate, up to the oldest."""
        return -MEAN_LIFE * math.log(1 - self.rng.random() * (1 - math.exp(-OLDEST / MEAN_LIFE)))

    def infectiousness(self):
        return math.fsum(self.weight)

    def age_bin(self, person, week):
        years = (week - self.born[person]) / WEEKS
        return sum(years >= first for first in FIRST_YEAR_OF_BIN) - 1

    def births_and_deaths(self, week):
        """Put a newborn in the place of everybody who dies."""
        for _ in range(self.poisson(PEOPLE / (MEAN_LIFE * WEEKS))):
            person = int(self.rng.random() * PEOPLE)
            self.born[person], self.susceptibility[person] = week, 1.0
            self.until[person], self.weight[person] = 0, 0.0

    def infect(self, person, week, weight, mean):
        """Make a person infectious for a time that is geometric with this mean, in weeks."""
        self.until[person] = week + 1 + int(math.log(1 - self.rng.random()) / math.log(1 - 1 / mean))
        self.weight[person] = weight
        self.ends.setdefault(self.until[person], []).append(person)

    def recoveries(self, week):
        for person in self.ends.pop(week, ()):
            if self.until[person] != week:  # died, and somebody else was born
                continue
            was_carrier = self.weight[person] == CARRIER
            self.until[person], self.weight[person] = 0, 0.0
            if not was_carrier and self.rng.random() < CARRIAGE[self.age_bin(person, week)]:
                self.infect(person, week, CARRIER, MEAN_CARRIAGE)

    def infections(self, week, exposures, p_acute):
        """Expose people at random, and return the age bin of every new case."""
        cases, highest, rng = [], max(EXPOSURE), self.rng
        for _ in range(self.poisson(exposures * highest)):
            person = int(rng.random() * PEOPLE)
            chance = rng.random() * highest
            if self.until[person] or chance >= self.susceptibility[person] * 1.5:
                continue
            age = self.age_bin(person, week)
            if chance >= self.susceptibility[person] * EXPOSURE[age]:
                continue
            self.susceptibility[person] *= 1 - self.immunity
            acute = rng.random() < p_acute
            self.infect(person, week, 1.0 if acute else UNNOTICED, MEAN_INFECTION)
            if acute:
                cases.append(age)
        return cases

    def poisson(self, mean):
        count, time = 0, self.rng.expovariate(1.0)
        while time < mean:
            count += 1
            time += self.rng.expovariate(1.0)
        return count


def season_factor(season, week):
    """Return how exposure in this week compares with that of the whole year; the mean is 1."""
    if season == "flat":
        return 1.0
    return 1 + 0.7 * math.cos(2 * math.pi * (week % WEEKS - 34) / WEEKS)  # highest late in August


if __name__ == "__main__":
    main()
