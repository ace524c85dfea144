//! Tables that come and go by whole deltas: slices, and lists of numbers by key.
//!
//! Knows nothing of what the numbers mean. A run without a study has one chunk, which every look-up finds at once.

use std::{collections::VecDeque, ops::Range};

use rustc_hash::FxHashMap;

/// Things that are numbered as they are pushed.
#[derive(Clone, Debug)]
struct Numbered<T> {
    /// From the first on that is still there; those behind it that are gone leave a gap.
    things: VecDeque<Option<T>>,
    first: u32,
}

impl<T> Default for Numbered<T> {
    fn default() -> Self {
        Self {
            things: VecDeque::new(),
            first: 0,
        }
    }
}

impl<T> Numbered<T> {
    fn push(&mut self, thing: T) -> u32 {
        self.things.push_back(Some(thing));
        self.first + offset(self.things.len()) - 1
    }

    fn get(&self, number: u32) -> Option<&T> {
        let at = number.checked_sub(self.first)?;
        self.things.get(at as usize)?.as_ref()
    }

    fn take(&mut self, number: u32) -> Option<T> {
        let at = number.checked_sub(self.first)?;
        let taken = self.things.get_mut(at as usize)?.take();
        while self.things.front().is_some_and(Option::is_none) {
            self.things.pop_front();
            self.first += 1;
        }
        taken
    }
}

/// A growing table that is read in slices; what was pushed together is kept and dropped together.
#[derive(Clone, Debug)]
pub(crate) struct Chunks<T>(Numbered<Box<[T]>>);

/// Where items stand: what they were pushed with, the place of the first in it, and how many they are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slice {
    pub(crate) chunk: u32,
    pub(crate) start: u32,
    pub(crate) len: u32,
}

impl<T> Default for Chunks<T> {
    fn default() -> Self {
        Self(Numbered::default())
    }
}

impl<T> Chunks<T> {
    /// Adds items; gives the number of the chunk that they are.
    pub(crate) fn push(&mut self, items: Vec<T>) -> u32 {
        self.0.push(items.into_boxed_slice())
    }

    /// The items of a slice. Its chunk is there, or it is empty.
    pub(crate) fn slice(&self, slice: Slice) -> &[T] {
        if slice.len == 0 {
            return &[];
        }
        let items = self.0.get(slice.chunk);
        let items = items.expect("slices are asked for while their chunk is there");
        &items[slice.start as usize..(slice.start + slice.len) as usize]
    }

    /// Drops a chunk.
    pub(crate) fn retire(&mut self, chunk: u32) {
        self.0.take(chunk);
    }
}

/// Lists of numbers by key: compressed rows for the keys of each push, and what later pushes add to older keys.
#[derive(Clone, Debug, Default)]
pub(crate) struct Adjacency {
    /// By push: its first key, where in this row the list of each key begins, the end of the last, and the lists.
    rows: Numbered<Box<[u32]>>,
    /// What later pushes added to a key, in their order.
    added: FxHashMap<u32, Vec<u32>>,
    /// By push: the older keys that it added to, where there are some.
    older: FxHashMap<u32, Vec<u32>>,
}

/// A place in a list, which does not borrow it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cursor {
    key: u32,
    /// The push that the key came with, and how far its row was read.
    push: u32,
    at: u32,
    end: u32,
    /// How many of the added ones were read.
    added: u32,
}

impl Adjacency {
    /// Adds new keys, and edges from these or older ones, in an order that each list keeps; gives the number of the push.
    pub(crate) fn push(
        &mut self,
        keys: Range<u32>,
        edges: impl Iterator<Item = (u32, u32)> + Clone,
    ) -> u32 {
        let ends = keys.len() + 1;
        let mut row = vec![0; ends + 1];
        row[0] = keys.start;
        row[1] = offset(row.len());
        for (key, _) in edges.clone().filter(|(key, _)| keys.contains(key)) {
            row[(key - keys.start) as usize + 2] += 1;
        }
        for at in 2..=ends {
            row[at] += row[at - 1];
        }
        let mut next = row.clone();
        row.resize(row[ends] as usize, 0);
        let mut older = Vec::new();
        for (key, value) in edges {
            if keys.contains(&key) {
                let at = &mut next[(key - keys.start) as usize + 1];
                row[*at as usize] = value;
                *at += 1;
            } else {
                self.added.entry(key).or_default().push(value);
                older.push(key);
            }
        }
        let push = self.rows.push(row.into());
        if !older.is_empty() {
            older.sort_unstable();
            older.dedup();
            self.older.insert(push, older);
        }
        push
    }

    /// Drops the keys of a push, and the values that it gave to older keys.
    pub(crate) fn retire(&mut self, push: u32, keys: &Range<u32>, values: &Range<u32>) {
        self.rows.take(push);
        for key in self.older.remove(&push).unwrap_or_default() {
            if let Some(list) = self.added.get_mut(&key) {
                list.retain(|value| !values.contains(value));
                if list.is_empty() {
                    self.added.remove(&key);
                }
            }
        }
        if !self.added.is_empty() {
            for key in keys.clone() {
                self.added.remove(&key);
            }
        }
    }

    /// The beginning of the list of a key that came with a push.
    pub(crate) fn cursor(&self, push: u32, key: u32) -> Cursor {
        let (at, end) = self.rows.get(push).map_or((0, 0), |row| {
            let key = (key - row[0]) as usize;
            (row[key + 1], row[key + 2])
        });
        Cursor {
            key,
            push,
            at,
            end,
            added: 0,
        }
    }

    /// The number at a place, which moves on.
    pub(crate) fn next(&self, cursor: &mut Cursor) -> Option<u32> {
        if cursor.at < cursor.end {
            cursor.at += 1;
            let row = self.rows.get(cursor.push)?;
            return Some(row[cursor.at as usize - 1]);
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

    fn list(lists: &Adjacency, push: u32, key: u32) -> Vec<u32> {
        let mut cursor = lists.cursor(push, key);
        std::iter::from_fn(|| lists.next(&mut cursor)).collect()
    }

    #[test]
    fn lists_grow_by_pushes_and_keep_their_order() {
        let mut lists = Adjacency::default();
        let a = lists.push(0..2, [(0, 10), (1, 20), (0, 11)].into_iter());
        let b = lists.push(2..3, [(2, 30), (0, 12)].into_iter());
        lists.push(3..3, std::iter::empty());
        lists.push(3..3, [(2, 31)].into_iter());
        let c = lists.push(3..5, [(4, 40), (0, 13)].into_iter());
        assert_eq!(list(&lists, a, 0), [10, 11, 12, 13]);
        assert_eq!(list(&lists, a, 1), [20]);
        assert_eq!(list(&lists, b, 2), [30, 31]);
        assert_eq!(list(&lists, c, 4), [40]);
        assert!(list(&lists, c, 3).is_empty());
    }

    #[test]
    fn what_a_push_brought_goes_with_it() {
        let mut lists = Adjacency::default();
        let a = lists.push(0..2, [(0, 1), (1, 1)].into_iter());
        let b = lists.push(2..3, [(2, 5), (0, 5), (1, 5)].into_iter());
        let c = lists.push(3..4, [(3, 6), (0, 6)].into_iter());
        lists.retire(b, &(2..3), &(5..6));
        assert_eq!(list(&lists, a, 0), [1, 6]);
        assert_eq!(list(&lists, a, 1), [1]);
        assert!(list(&lists, b, 2).is_empty());
        assert_eq!(list(&lists, c, 3), [6]);
        lists.retire(c, &(3..4), &(6..7));
        assert_eq!((list(&lists, a, 0), lists.added.len()), (vec![1], 0));
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
        assert_eq!((chunks.0.first, chunks.0.things.len()), (3, 1));
        assert_eq!(read(&chunks, d, 0, 1), [6]);
        assert!(read(&chunks, a, 0, 0).is_empty());
        chunks.retire(d);
        assert_eq!(chunks.push(vec![7]), 4);
        assert_eq!(read(&chunks, 4, 0, 1), [7]);
    }
}
