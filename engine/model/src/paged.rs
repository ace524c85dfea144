//! Tables by dense index that give memory back: a study numbers its nodes on and on, and few of them live at a time.

use std::{
    collections::VecDeque,
    ops::{Index, IndexMut, Range},
};

/// Entries of one page: small, so that a trial which lasts pins little.
const PAGE: usize = 64;

/// A growing table whose entries can be retired. A page goes when all its entries are retired.
#[derive(Clone, Debug)]
pub struct Paged<T> {
    /// From the first on that is still there; those behind it that are gone are empty.
    pages: VecDeque<Page<T>>,
    first: usize,
    len: usize,
}

#[derive(Clone, Debug)]
struct Page<T> {
    items: Vec<T>,
    retired: u32,
}

impl<T> Page<T> {
    fn is_gone(&self) -> bool {
        self.retired as usize == PAGE
    }
}

impl<T> Default for Paged<T> {
    fn default() -> Self {
        Self {
            pages: VecDeque::new(),
            first: 0,
            len: 0,
        }
    }
}

impl<T> Paged<T> {
    /// How many entries were ever pushed.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing was ever pushed.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds an entry.
    pub fn push(&mut self, item: T) {
        if self.len.is_multiple_of(PAGE) {
            self.pages.push_back(Page {
                items: Vec::with_capacity(PAGE),
                retired: 0,
            });
        }
        let last = self.pages.back_mut();
        let last = last.expect("the last page is not full, and only full pages go");
        last.items.push(item);
        self.len += 1;
    }

    /// The entry at an index; nothing beyond the end, and where the page is gone.
    pub fn get(&self, at: usize) -> Option<&T> {
        let page = (at / PAGE).checked_sub(self.first)?;
        self.pages.get(page)?.items.get(at % PAGE)
    }

    /// The entry at an index, to change it.
    pub fn get_mut(&mut self, at: usize) -> Option<&mut T> {
        let page = (at / PAGE).checked_sub(self.first)?;
        self.pages.get_mut(page)?.items.get_mut(at % PAGE)
    }

    /// Entries that stand together: `len` is a power of two up to 64, and `at` a multiple of it.
    ///
    /// # Panics
    /// When they are not all there.
    pub fn row_mut(&mut self, at: usize, len: usize) -> &mut [T] {
        let page = &mut self.pages[at / PAGE - self.first];
        &mut page.items[at % PAGE..at % PAGE + len]
    }

    /// Says that a range of entries will not be asked for again. Each index is retired once.
    pub fn retire(&mut self, range: Range<usize>) {
        for at in range {
            let page = (at / PAGE).checked_sub(self.first);
            let Some(page) = page.and_then(|page| self.pages.get_mut(page)) else {
                continue;
            };
            page.retired += 1;
            if page.is_gone() {
                page.items = Vec::new();
            }
        }
        while self.pages.front().is_some_and(Page::is_gone) {
            self.pages.pop_front();
            self.first += 1;
        }
    }

    /// The entries that are still there, with their indices.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &T)> {
        self.pages.iter().zip(self.first..).flat_map(|(page, ix)| {
            let items = page.items.iter().enumerate();
            items.map(move |(at, item)| (ix * PAGE + at, item))
        })
    }

    /// How many entries are held in memory.
    pub fn held(&self) -> usize {
        self.pages.iter().map(|page| page.items.len()).sum()
    }
}

impl<T: Clone> Paged<T> {
    /// Adds copies of an entry up to a length.
    pub fn grow(&mut self, len: usize, item: &T) {
        while self.len < len {
            self.push(item.clone());
        }
    }
}

impl<T> Index<usize> for Paged<T> {
    type Output = T;

    fn index(&self, at: usize) -> &T {
        self.get(at)
            .expect("an index of the table whose entry is not retired")
    }
}

impl<T> IndexMut<usize> for Paged<T> {
    fn index_mut(&mut self, at: usize) -> &mut T {
        self.get_mut(at)
            .expect("an index of the table whose entry is not retired")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_stay_where_they_are_and_pages_go_when_all_in_them_is_retired() {
        let mut table = Paged::default();
        (0..1000).for_each(|n| table.push(n));
        assert_eq!((table.len(), table.held(), table[700]), (1000, 1000, 700));
        table.retire(0..100);
        assert_eq!((table.get(63), table.get(64)), (None, Some(&64)));
        table.retire(100..128);
        assert_eq!((table.get(127), table[128]), (None, 128));
        assert_eq!((table.len(), table.held()), (1000, 1000 - 128));
        assert_eq!(table.iter().next(), Some((128, &128)));
        table[999] = 5;
        table.grow(1001, &7);
        assert_eq!((table[999], table[1000], table.get(1001)), (5, 7, None));
    }

    #[test]
    fn a_table_that_is_retired_as_it_grows_stays_small() {
        let mut table = Paged::default();
        for n in 0..100_000 {
            table.push(n);
            if n >= 10 {
                table.retire(n - 10..n - 9);
            }
        }
        assert!(table.held() <= 2 * PAGE, "{}", table.held());
    }
}
