//! Tables by dense index that give memory back: a study numbers its nodes on and on, and few of them live at a time.

use std::ops::{Index, IndexMut, Range};

/// Entries of one page: small, so that a trial which lasts pins little.
const PAGE: usize = 64;

/// A growing table whose entries can be retired. A page goes when all its entries are retired.
#[derive(Clone, Debug)]
pub struct Paged<T> {
    pages: Vec<Option<Box<Page<T>>>>,
    len: usize,
}

#[derive(Clone, Debug)]
struct Page<T> {
    items: Vec<T>,
    retired: u32,
}

impl<T> Default for Paged<T> {
    fn default() -> Self {
        Self {
            pages: Vec::new(),
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
            self.pages.push(Some(Box::new(Page {
                items: Vec::with_capacity(PAGE),
                retired: 0,
            })));
        }
        self.pages
            .last_mut()
            .and_then(Option::as_mut)
            .expect("the last page is not full, and only full pages go")
            .items
            .push(item);
        self.len += 1;
    }

    /// The entry at an index; nothing beyond the end, and where the page is gone.
    pub fn get(&self, at: usize) -> Option<&T> {
        self.pages.get(at / PAGE)?.as_ref()?.items.get(at % PAGE)
    }

    /// The entry at an index, to change it.
    pub fn get_mut(&mut self, at: usize) -> Option<&mut T> {
        self.pages
            .get_mut(at / PAGE)?
            .as_mut()?
            .items
            .get_mut(at % PAGE)
    }

    /// Entries that stand together: `len` is a power of two up to 64, and `at` a multiple of it.
    ///
    /// # Panics
    /// When they are not all there.
    pub fn row_mut(&mut self, at: usize, len: usize) -> &mut [T] {
        let page = self.pages[at / PAGE].as_mut();
        let page = page.expect("rows are asked for while their page is there");
        &mut page.items[at % PAGE..at % PAGE + len]
    }

    /// Says that a range of entries will not be asked for again. Each index is retired once.
    pub fn retire(&mut self, range: Range<usize>) {
        for at in range {
            let slot = &mut self.pages[at / PAGE];
            if let Some(page) = slot {
                page.retired += 1;
                if page.retired as usize == PAGE {
                    *slot = None;
                }
            }
        }
    }

    /// The entries that are still there, with their indices.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &T)> {
        self.pages.iter().enumerate().flat_map(|(ix, page)| {
            let items = page.iter().flat_map(|page| &page.items);
            items
                .enumerate()
                .map(move |(at, item)| (ix * PAGE + at, item))
        })
    }

    /// How many entries are held in memory.
    pub fn held(&self) -> usize {
        self.pages
            .iter()
            .flatten()
            .map(|page| page.items.len())
            .sum()
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
