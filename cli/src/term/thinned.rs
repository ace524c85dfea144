//! Which of many like events get a line of their own.

/// How many are told one by one.
const FIRST: u64 = 5;

/// Thins out like events: the first five are told one by one, then the 10th, 20th, 40th ... stand for all so far: each such
/// line says twice as much as the one before.
#[derive(Default)]
pub(super) struct Thinned {
    seen: u64,
}

/// What is said of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tell {
    /// The event itself.
    One,
    /// The event itself; those after it are only counted.
    LastOne,
    /// How many there were so far.
    SoFar(u64),
    /// Nothing.
    Nothing,
}

impl Thinned {
    /// Takes an event in.
    pub(super) fn next(&mut self) -> Tell {
        self.seen += 1;
        match self.seen {
            ..FIRST => Tell::One,
            FIRST => Tell::LastOne,
            n if n.is_multiple_of(10) && (n / 10).is_power_of_two() => Tell::SoFar(n),
            _ => Tell::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_are_told_and_then_ever_fewer() {
        let mut thinned = Thinned::default();
        let told: Vec<(u64, Tell)> = (1..=50)
            .map(|n| (n, thinned.next()))
            .filter(|(_, tell)| *tell != Tell::Nothing)
            .collect();
        let one_by_one = (1..FIRST).map(|n| (n, Tell::One));
        let expected = one_by_one
            .chain([(FIRST, Tell::LastOne)])
            .chain([10, 20, 40].map(|n| (n, Tell::SoFar(n))));
        assert_eq!(told, expected.collect::<Vec<_>>());
    }
}
