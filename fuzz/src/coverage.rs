//! State coverage: the table of counters in which the model says which transitions a case took.
//!
//! The table lies in the link section that libFuzzer reads as extra counters. libFuzzer clears it before each
//! input and takes every counter that is not zero afterwards for a feature of that input; an input with a new
//! feature enters the corpus. This works without any compiler instrumentation.
//!
//! There is one table in a process. Whoever fills it from several threads gets a mixture, which is no error but
//! of no use either.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use ptefuzz_core::run::COVERAGE_LEN;

/// libFuzzer clears the table in machine words, hence the alignment.
#[repr(C, align(64))]
struct Counters([AtomicU8; COVERAGE_LEN]);

#[cfg_attr(target_os = "linux", unsafe(link_section = "__libfuzzer_extra_counters"))]
#[allow(unsafe_code, reason = "the section is how libFuzzer finds the counters; it holds nothing else")]
static STATE: Counters = Counters([const { AtomicU8::new(0) }; COVERAGE_LEN]);

const _: () = assert!(COVERAGE_LEN.is_power_of_two() && COVERAGE_LEN >= WORD);

/// Counters that are looked at together.
const WORD: usize = size_of::<u64>();
const WORDS: usize = COVERAGE_LEN / WORD;

/// The table, in the form that [`ptefuzz_core::run::Machine::set_coverage`] takes.
pub fn state() -> &'static [AtomicU8] {
    &STATE.0
}

/// Reports a feature of an input, for targets that have no machine to do it. Any number is a feature.
pub fn note(feature: u64) {
    let slot = (feature.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as usize % COVERAGE_LEN;
    let old = STATE.0[slot].load(Ordering::Relaxed);
    STATE.0[slot].store(old.saturating_add(1), Ordering::Relaxed);
}

/// Sets every counter to zero, as libFuzzer does before each input.
pub fn clear() {
    for counter in &STATE.0 {
        counter.store(0, Ordering::Relaxed);
    }
}

/// Which counters have ever been hit.
pub struct Seen {
    /// For each counter a byte that is 1 when it was hit.
    hits: Box<[u64]>,
    count: u64,
}

impl Default for Seen {
    fn default() -> Self {
        Seen { hits: vec![0; WORDS].into_boxed_slice(), count: 0 }
    }
}

impl Seen {
    /// Adds what the table holds now.
    pub fn add(&mut self) {
        for (hits, word) in self.hits.iter_mut().zip(words()) {
            let now = word.load(Ordering::Relaxed);
            if now != 0 {
                let new = nonzero_bytes(now) & !*hits;
                self.count += u64::from(new.count_ones());
                *hits |= new;
            }
        }
    }

    /// Number of counters that have ever been hit.
    pub fn count(&self) -> u64 {
        self.count
    }
}

/// The table as words: one look for eight counters, because it is looked through after every input.
#[allow(unsafe_code, reason = "a byte-wise look at the whole table would cost as much as a small case")]
fn words() -> &'static [AtomicU64] {
    // SAFETY: the table is aligned to 64 and `COVERAGE_LEN` is a multiple of 8, so `WORDS` words lie exactly in
    // it; every bit pattern is valid for both types, both have interior mutability, and the table lives for ever.
    // Byte and word accesses could only clash from two threads; the only user of the words, the driver, runs its
    // machine on its own thread.
    unsafe { std::slice::from_raw_parts(STATE.0.as_ptr().cast::<AtomicU64>(), WORDS) }
}

/// 1 in each byte that is not zero.
fn nonzero_bytes(word: u64) -> u64 {
    const LOW: u64 = 0x7f7f_7f7f_7f7f_7f7f;
    ((((word & LOW) + LOW) | word) & !LOW) >> 7
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_counts_once_however_large_it_is() {
        assert_eq!(nonzero_bytes(0), 0);
        assert_eq!(nonzero_bytes(0x8000_0001_00ff_0010), 0x0100_0001_0001_0001);
        assert_eq!(nonzero_bytes(u64::MAX).count_ones(), 8);
    }
}
