//! Frames behind a PFN map: a device's registers, or memory on its board.
//!
//! They have no `struct page`, so there is nothing here that could be counted, locked, or put on a list: only what a load
//! reads. Whoever takes such a frame for a page is noticed where he asks for the page (`pfnmap.taken-for-page`).

use super::Pfn;
use crate::config::{RAW_BANK, RAW_BANKS, RAW_PFN_BASE};
use crate::observe::Token;

/// What the frames hold, bank by bank, as far as something was stored to them.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct RawFrames {
    banks: [Vec<Token>; RAW_BANKS],
}

impl RawFrames {
    /// Nothing was stored anywhere, keeping allocations.
    pub fn reset(&mut self) {
        self.banks.iter_mut().for_each(Vec::clear);
    }

    /// Frame number of a page of a bank.
    #[inline]
    pub fn pfn(bank: usize, page: u32) -> Pfn {
        RAW_PFN_BASE + bank as u32 * RAW_BANK + page
    }

    /// Bank and page of a frame, if it is one of these.
    #[inline]
    pub fn place(pfn: u64) -> Option<(usize, u32)> {
        let offset = pfn.checked_sub(u64::from(RAW_PFN_BASE))?;
        let bank = (offset / u64::from(RAW_BANK)) as usize;
        (bank < RAW_BANKS).then_some((bank, (offset % u64::from(RAW_BANK)) as u32))
    }

    /// What a load from a frame reads.
    pub fn load(&self, pfn: Pfn) -> Token {
        let Some((bank, page)) = RawFrames::place(u64::from(pfn)) else { return 0 };
        self.banks[bank].get(page as usize).copied().unwrap_or(0)
    }

    /// Stores to a frame.
    pub fn store(&mut self, pfn: Pfn, value: Token) {
        let Some((bank, page)) = RawFrames::place(u64::from(pfn)) else { return };
        let cells = &mut self.banks[bank];
        if cells.len() <= page as usize {
            cells.resize(page as usize + 1, 0);
        }
        cells[page as usize] = value;
    }

    /// The device is reset: all of a bank reads zero.
    pub fn clear_bank(&mut self, bank: usize) {
        self.banks[bank].clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_different_banks_are_different_and_none_is_memory_of_the_machine() {
        let mut raw = RawFrames::default();
        raw.store(RawFrames::pfn(1, 3), 7);
        let of = |bank| raw.load(RawFrames::pfn(bank, 3));
        assert_eq!([of(0), of(1), of(2)], [0, 7, 0]);
        assert_eq!(RawFrames::place(u64::from(RawFrames::pfn(2, 5))), Some((2, 5)));
        assert_eq!((RawFrames::place(5), RawFrames::place(u64::from(RawFrames::pfn(3, 0)))), (None, None));
    }
}
