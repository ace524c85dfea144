//! Tables that come and go by whole deltas: slices, and lists of numbers by key.
//!
//! Knows nothing of what the numbers mean. A run without a study has one chunk, which every look-up finds at once.

use std::{collections::VecDeque, ops::Range};

use rustc_hash::FxHashMap;

/// A growing table that is read in slices; what was pushed together is kept and dropped together.
#[derive(Clone, Debug)]
pub(crate) struct Chunks<T> {
    /// From the first on that is still there; those behind it that are gone leave a gap.
    chunks: VecDeque<Option<Box<[T]>>>,
    first: u32,
}

/// Where items stand: what they were pushed with, the place of the first in it, and how many they are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slice {
    pub(crate) chunk: u32,
    pub(crate) start: u32,
    pub(crate) len: u32,
}

impl<T> Default for Chunks<T> {
    fn default() -> Self {
        Self {
            chunks: VecDeque::new(),
            first: 0,
        }
    }
}

impl<T> Chunks<T> {
    /// Adds items; gives the number of the chunk that they are.
    pub(crate) fn push(&mut self, items: Vec<T>) -> u32 {
        self.chunks.push_back(Some(items.into_boxed_slice()));
        self.first + offset(self.chunks.len()) - 1
    }

    /// The items of a slice. Its chunk is there, or it is empty.
    pub(crate) fn slice(&self, slice: Slice) -> &[T] {
        if slice.len == 0 {
            return &[];
        }
        let chunk = self.chunks[(slice.chunk - self.first) as usize].as_deref();
        let items = chunk.expect("slices are asked for while their chunk is there");
        &items[slice.start as usize..(slice.start + slice.len) as usize]
    }

    /// Drops a chunk.
    pub(crate) fn retire(&mut self, chunk: u32) {
        let at = chunk.checked_sub(self.first).map(|at| at as usize);
        if let Some(known) = at.and_then(|at| self.chunks.get_mut(at)) {
            *known = None;
        }
        while self.chunks.front().is_some_and(Option::is_none) {
            self.chunks.pop_front();
            self.first += 1;
        }
    }
}

/// Lists of numbers by key: compressed rows for the keys of each push, and what later pushes add to older keys.
#[derive(Clone, Debug, Default)]
pub(crate) struct Adjacency {
    /// In the order of pushes, which is that of first keys too. Most are dropped near the front.
    rows: VecDeque<Rows>,
    /// What later pushes added to a key, in their order.
    added: FxHashMap<u32, Vec<u32>>,
}

#[derive(Clone, Debug)]
struct Rows {
    /// Which push it came with.
    push: u32,
    keys: Range<u32>,
    /// Where the list of each key begins, and the end of the last.
    starts: Box<[u32]>,
    values: Box<[u32]>,
    /// Older keys that this push added to.
    older: Vec<u32>,
}

/// A place in a list, which does not borrow it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cursor {
    key: u32,
    /// The rows of the key, and how far they were read.
    rows: u32,
    at: u32,
    end: u32,
    /// How many of the added ones were read.
    added: u32,
}

impl Adjacency {
    /// Adds new keys, and edges from these or older ones, in an order that each list keeps.
    pub(crate) fn push(
        &mut self,
        push: u32,
        keys: Range<u32>,
        edges: impl Iterator<Item = (u32, u32)> + Clone,
    ) {
        let mut starts = vec![0u32; keys.len() + 1];
        for (key, _) in edges.clone().filter(|(key, _)| keys.contains(key)) {
            starts[(key - keys.start) as usize + 1] += 1;
        }
        for at in 1..starts.len() {
            starts[at] += starts[at - 1];
        }
        let mut values = vec![0; starts[keys.len()] as usize];
        let mut next = starts.clone();
        let mut older = Vec::new();
        for (key, value) in edges {
            if keys.contains(&key) {
                let at = &mut next[(key - keys.start) as usize];
                values[*at as usize] = value;
                *at += 1;
            } else {
                self.added.entry(key).or_default().push(value);
                older.push(key);
            }
        }
        older.sort_unstable();
        older.dedup();
        if keys.is_empty() && older.is_empty() {
            return;
        }
        self.rows.push_back(Rows {
            push,
            keys,
            starts: starts.into(),
            values: values.into(),
            older,
        });
    }

    /// Drops the keys of a push, and the values that it gave to older keys.
    pub(crate) fn retire(&mut self, push: u32, values: &Range<u32>) {
        let at = self.rows.partition_point(|rows| rows.push < push);
        let is_there = self.rows.get(at).is_some_and(|rows| rows.push == push);
        let dropped = is_there.then(|| self.rows.remove(at)).flatten();
        let Some(Rows { keys, older, .. }) = dropped else {
            return;
        };
        for key in older {
            if let Some(list) = self.added.get_mut(&key) {
                list.retain(|value| !values.contains(value));
                if list.is_empty() {
                    self.added.remove(&key);
                }
            }
        }
        for key in keys {
            self.added.remove(&key);
        }
    }

    /// The beginning of a key's list.
    pub(crate) fn cursor(&self, key: u32) -> Cursor {
        let after = self.rows.partition_point(|rows| rows.keys.start <= key);
        // Pushes without keys of their own stand beside one that has them.
        let found = (0..after)
            .rev()
            .take_while(|at| self.rows[*at].keys.end > key || self.rows[*at].keys.is_empty())
            .find(|at| self.rows[*at].keys.contains(&key));
        let (rows, at, end) = found.map_or((0, 0, 0), |at| {
            let rows = &self.rows[at];
            let row = (key - rows.keys.start) as usize;
            (at as u32, rows.starts[row], rows.starts[row + 1])
        });
        Cursor {
            key,
            rows,
            at,
            end,
            added: 0,
        }
    }

    /// The number at a place, which moves on.
    pub(crate) fn next(&self, cursor: &mut Cursor) -> Option<u32> {
        if cursor.at < cursor.end {
            cursor.at += 1;
            return Some(self.rows[cursor.rows as usize].values[cursor.at as usize - 1]);
        }
        if self.added.is_empty() {
            return None;
        }
        let value = self.added.get(&cursor.key)?.get(cursor.added as usize)?;
        cursor.added += 1;
        Some(*value)
    }
}

fn offset(len: usize) -> u32 {
    u32::try_from(len).expect("the planner's budget keeps tables below 2^32")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(lists: &Adjacency, key: u32) -> Vec<u32> {
        let mut cursor = lists.cursor(key);
        std::iter::from_fn(|| lists.next(&mut cursor)).collect()
    }

    #[test]
    fn lists_grow_by_pushes_and_keep_their_order() {
        let mut lists = Adjacency::default();
        lists.push(1, 0..2, [(0, 10), (1, 20), (0, 11)].into_iter());
        lists.push(2, 2..3, [(2, 30), (0, 12)].into_iter());
        lists.push(3, 3..3, std::iter::empty());
        lists.push(4, 3..3, [(2, 31)].into_iter());
        lists.push(5, 3..5, [(4, 40), (0, 13)].into_iter());
        assert_eq!(list(&lists, 0), [10, 11, 12, 13]);
        assert_eq!(list(&lists, 1), [20]);
        assert_eq!(list(&lists, 2), [30, 31]);
        assert_eq!(list(&lists, 4), [40]);
        assert!(list(&lists, 3).is_empty() && list(&lists, 5).is_empty());
    }

    #[test]
    fn what_a_push_brought_goes_with_it() {
        let mut lists = Adjacency::default();
        lists.push(0, 0..2, [(0, 1), (1, 1)].into_iter());
        lists.push(2, 2..3, [(2, 5), (0, 5), (1, 5)].into_iter());
        lists.push(3, 3..4, [(3, 6), (0, 6)].into_iter());
        lists.retire(2, &(5..6));
        assert_eq!(list(&lists, 0), [1, 6]);
        assert_eq!(list(&lists, 1), [1]);
        assert_eq!(list(&lists, 3), [6]);
        lists.retire(3, &(6..7));
        assert_eq!((list(&lists, 0), lists.added.len()), (vec![1], 0));
    }

    #[test]
    fn slices_stay_where_they_are() {
        let mut chunks = Chunks::default();
        let all = [vec![1, 2, 3], Vec::new(), vec![4, 5], vec![6]];
        let [a, b, c, d] = all.map(|items| chunks.push(items));
        let read = |chunks: &Chunks<i32>, chunk, start, len| {
            let slice = Slice { chunk, start, len };
            chunks.slice(slice).to_vec()
        };
        assert_eq!(read(&chunks, a, 1, 2), [2, 3]);
        assert!(read(&chunks, b, 0, 0).is_empty());
        // In the middle, then before it.
        chunks.retire(c);
        assert_eq!(read(&chunks, a, 0, 1), [1]);
        chunks.retire(a);
        chunks.retire(b);
        assert_eq!((chunks.first, chunks.chunks.len()), (3, 1));
        assert_eq!(read(&chunks, d, 0, 1), [6]);
        assert!(read(&chunks, a, 0, 0).is_empty());
        chunks.retire(d);
        assert_eq!(chunks.push(vec![7]), 4);
        assert_eq!(read(&chunks, 4, 0, 1), [7]);
    }
}
