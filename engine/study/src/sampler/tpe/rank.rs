//! Which of the told trials are the best ones.
//!
//! The feasible come first, then the infeasible by how much they break. With one objective the feasible are ordered by it. With
//! several they are ordered by fronts (those that no other one dominates, then those that only these dominate, and so on); of a
//! front that does not fit in whole, with two objectives those are taken that add the most to the area which the taken ones
//! dominate (Optuna's rule), and with more those that have the emptiest surroundings (crowding distance, Deb 2002).

use std::cmp::Ordering;

use crate::view::{compare, dominates};

/// How many trials are always kept with one objective: more than are ever asked for.
const KEPT: usize = 32;
/// The same with several: so many that the later fronts are there when earlier ones shrink.
const KEPT_OF_SEVERAL: usize = 256;

/// A told trial.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// By how much constraints are broken.
    pub(super) violation: f64,
    /// The objectives, to be minimised.
    pub(super) values: Vec<f64>,
    /// Its position among those with values.
    pub(super) number: usize,
    /// Its position in the history.
    pub(super) at: usize,
}

/// The best of the told trials.
#[derive(Debug, Default)]
pub(super) struct Ranking {
    /// At most twice as many as are kept.
    entries: Vec<Entry>,
    /// The last answer, as long as nothing was added.
    answer: Option<(usize, Vec<usize>)>,
}

impl Ranking {
    pub(super) fn push(&mut self, entry: Entry) {
        let kept = match entry.values.len() {
            1 => KEPT,
            _ => KEPT_OF_SEVERAL,
        };
        self.answer = None;
        self.entries.push(entry);
        if self.entries.len() == 2 * kept {
            let mut chosen = choose(&self.entries, kept);
            chosen.sort_unstable();
            self.entries = chosen.iter().map(|at| self.entries[*at].clone()).collect();
        }
    }

    /// The best `count`, in the order in which they were told.
    pub(super) fn best(&mut self, count: usize) -> Vec<&Entry> {
        if self.answer.as_ref().is_none_or(|it| it.0 != count) {
            let mut chosen = choose(&self.entries, count);
            chosen.sort_unstable();
            self.answer = Some((count, chosen));
        }
        let chosen = self.answer.iter().flat_map(|it| &it.1);
        chosen.map(|at| &self.entries[*at]).collect()
    }
}

/// The positions of the best `count`.
fn choose(entries: &[Entry], count: usize) -> Vec<usize> {
    let (mut feasible, mut broken): (Vec<usize>, Vec<usize>) =
        (0..entries.len()).partition(|at| entries[*at].violation == 0.0);
    let values = |at: usize| entries[at].values.as_slice();
    // A stable sort: of equal ones the first told comes first.
    feasible.sort_by(|a, b| compare(values(*a), values(*b)));
    broken.sort_by(|a, b| entries[*a].violation.total_cmp(&entries[*b].violation));
    let mut chosen = match entries.first().map_or(1, |it| it.values.len()) {
        1 => feasible,
        objectives => {
            let mut chosen = Vec::new();
            for front in fronts(&feasible, values) {
                let room = count - chosen.len();
                if front.len() <= room {
                    chosen.extend(front);
                } else if objectives == 2 {
                    chosen.extend(widest(&front, values, room));
                } else {
                    chosen.extend(emptiest(&front, values, room));
                }
                if chosen.len() == count {
                    break;
                }
            }
            chosen
        }
    };
    chosen.extend(broken);
    chosen.truncate(count);
    chosen
}

/// The fronts one after the other, each in the given order, which is that of the values.
fn fronts<'a>(sorted: &[usize], values: impl Fn(usize) -> &'a [f64]) -> Vec<Vec<usize>> {
    let mut fronts: Vec<Vec<usize>> = Vec::new();
    for &at in sorted {
        // Nothing dominates what stands before it in this order.
        let free = |front: &&mut Vec<usize>| {
            let mut others = front.iter().rev();
            !others.any(|other| dominates(values(*other), values(at)))
        };
        match fronts.iter_mut().find(free) {
            Some(front) => front.push(at),
            None => fronts.push(vec![at]),
        }
    }
    fronts
}

/// Of a front of two objectives, by the first one: those that dominate the greatest area, one after the other.
fn widest<'a>(front: &[usize], values: impl Fn(usize) -> &'a [f64], count: usize) -> Vec<usize> {
    let reference = [0, 1].map(|objective| {
        let worst = front.iter().fold(f64::NEG_INFINITY, |worst, at| {
            worst.max(values(*at)[objective])
        });
        let beyond = (1.1 * worst).max(0.9 * worst);
        if beyond == 0.0 { 1e-12 } else { beyond }
    });
    // The corner of the free area of each one.
    let mut left: Vec<(usize, [f64; 2])> = front.iter().map(|at| (*at, reference)).collect();
    let mut chosen = Vec::new();
    while chosen.len() < count && !left.is_empty() {
        let area = |(at, corner): &(usize, [f64; 2])| {
            let value = values(*at);
            (corner[0] - value[0]) * (corner[1] - value[1])
        };
        let best = first_greatest(left.iter().map(area));
        let (taken, _) = left.remove(best);
        let value = values(taken);
        for (_, corner) in &mut left[..best] {
            corner[0] = corner[0].min(value[0]);
        }
        for (_, corner) in &mut left[best..] {
            corner[1] = corner[1].min(value[1]);
        }
        chosen.push(taken);
    }
    chosen
}

/// Of a front, those with the greatest crowding distance.
fn emptiest<'a>(front: &[usize], values: impl Fn(usize) -> &'a [f64], count: usize) -> Vec<usize> {
    let objectives = front.first().map_or(0, |at| values(*at).len());
    let mut distances = vec![0.0; front.len()];
    for objective in 0..objectives {
        let value = |at: usize| values(front[at])[objective];
        let mut order: Vec<usize> = (0..front.len()).collect();
        order.sort_by(|a, b| value(*a).total_cmp(&value(*b)));
        let (first, last) = (order[0], order[front.len() - 1]);
        let range = value(last) - value(first);
        distances[first] = f64::INFINITY;
        distances[last] = f64::INFINITY;
        for three in order.windows(3).filter(|_| range > 0.0) {
            distances[three[1]] += (value(three[2]) - value(three[0])) / range;
        }
    }
    let mut order: Vec<usize> = (0..front.len()).collect();
    order.sort_by(|a, b| distances[*b].total_cmp(&distances[*a]));
    order.truncate(count);
    order.iter().map(|at| front[*at]).collect()
}

/// The position of the greatest, of equal ones the first.
fn first_greatest(items: impl Iterator<Item = f64>) -> usize {
    let mut best = (0, f64::NEG_INFINITY);
    for (at, item) in items.enumerate() {
        if item.total_cmp(&best.1) == Ordering::Greater {
            best = (at, item);
        }
    }
    best.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::Chance;

    fn entries(rows: &[(&[f64], f64)]) -> Vec<Entry> {
        let numbered = rows.iter().enumerate();
        numbered
            .map(|(number, (values, violation))| Entry {
                violation: *violation,
                values: values.to_vec(),
                number,
                at: number,
            })
            .collect()
    }

    fn check(rows: &[(&[f64], f64)], count: usize, expected: &[usize]) {
        assert_eq!(choose(&entries(rows), count), expected);
    }

    #[test]
    fn one_objective_orders_and_the_broken_come_last() {
        let rows: [(&[f64], f64); 5] = [
            (&[3.0], 0.0),
            (&[0.0], 2.0),
            (&[1.0], 0.0),
            (&[-9.0], 1.0),
            (&[1.0], 0.0),
        ];
        check(&rows, 2, &[2, 4]);
        check(&rows, 5, &[2, 4, 0, 3, 1]);
        check(&rows, 9, &[2, 4, 0, 3, 1]);
        check(&rows, 0, &[]);
    }

    #[test]
    fn several_objectives_go_front_by_front() {
        let rows: [(&[f64], f64); 6] = [
            (&[0.0, 4.0], 0.0),
            (&[5.0, 5.0], 0.0),
            (&[4.0, 0.0], 0.0),
            (&[2.0, 2.0], 0.0),
            (&[2.0, 3.0], 0.0),
            (&[0.0, 0.0], 0.5),
        ];
        check(&rows, 3, &[0, 3, 2]);
        check(&rows, 4, &[0, 3, 2, 4]);
        check(&rows, 6, &[0, 3, 2, 4, 1, 5]);
        // The middle one dominates the most by itself.
        check(&rows, 1, &[3]);
    }

    #[test]
    fn a_front_of_three_keeps_its_ends() {
        let rows: Vec<Vec<f64>> = (0..10)
            .map(|i| vec![f64::from(i), 9.0 - f64::from(i), 1.0])
            .collect();
        let rows: Vec<(&[f64], f64)> = rows.iter().map(|it| (it.as_slice(), 0.0)).collect();
        let mut chosen = choose(&entries(&rows), 2);
        chosen.sort_unstable();
        assert_eq!(chosen, [0, 9]);
    }

    #[test]
    fn what_is_kept_is_what_counts() {
        for objectives in [1, 2] {
            let mut chance = Chance(7);
            let mut ranking = Ranking::default();
            let mut all = Vec::new();
            for number in 0..700 {
                let values = (0..objectives).map(|_| chance.unit()).collect();
                let entry = Entry {
                    violation: if chance.below(3) == 0 {
                        chance.unit()
                    } else {
                        0.0
                    },
                    values,
                    number,
                    at: number,
                };
                all.push(entry.clone());
                ranking.push(entry);
                let best: Vec<usize> = ranking.best(20).iter().map(|it| it.number).collect();
                if objectives == 1 || number < 2 * KEPT_OF_SEVERAL - 1 {
                    let mut expected = choose(&all, 20);
                    expected.sort_unstable();
                    assert_eq!(best, expected);
                }
                assert_eq!(best.len(), 20.min(number + 1));
            }
        }
    }
}
