//! A short deterministic run without any engine, for tests: seed in, first failure out.

use ptefuzz_core::program::family::Family;
use ptefuzz_core::program::mutate::{CaseMutator, MutateConfig};
use ptefuzz_core::program::rng::Rng;

use crate::driver::DEFAULT_MAX_LEN;
use crate::pin::Pin;
use crate::session::{Failure, Session, case_text};
use crate::targets::{Input, MACHINE, Target};
use ptefuzz_core::program::Case;

/// Inputs that mutation goes on from.
const POOL: usize = 32;
/// Mutations of an input before it is run.
const DEPTH: u32 = 12;
/// Every so often an input of the pool starts again from nothing.
const RESTART_PERCENT: u32 = 10;

/// Runs `runs` inputs that follow from `seed` alone.
///
/// # Errors
/// The first failure.
pub fn smoke(target: &Target, pin: Pin, runs: u64, seed: u64) -> Result<(), Failure> {
    let mut session = Session::new(pin);
    let mut inputs = Inputs::new(seed, target.family);
    for _ in 0..runs {
        let bytes = match target.input {
            Input::Case(_) => inputs.case(),
            Input::Bytes(_) => inputs.bytes(),
        };
        target.run(bytes, &mut session)?;
    }
    Ok(())
}

/// An endless supply of inputs.
struct Inputs {
    rng: Rng,
    pool: Vec<Vec<u8>>,
    scratch: Vec<u8>,
    case: Case,
    mutator: CaseMutator,
}

impl Inputs {
    fn new(seed: u64, bias: Option<Family>) -> Inputs {
        let pool = vec![Vec::new(); POOL];
        let mutator = CaseMutator::new(MutateConfig { bias, ..MutateConfig::default() });
        Inputs { rng: Rng::new(seed), pool, scratch: Vec::new(), case: Case::empty(), mutator }
    }

    /// The next case: one of the pool, mutated some more.
    fn case(&mut self) -> &[u8] {
        let slot = self.rng.index(POOL);
        let data = &mut self.pool[slot];
        if self.rng.percent(RESTART_PERCENT) {
            data.clear();
        }
        let mut size = data.len();
        data.resize(DEFAULT_MAX_LEN, 0);
        for _ in 0..=self.rng.below(DEPTH) {
            size =
                self.mutator.mutate_bytes(data, size, DEFAULT_MAX_LEN, self.rng.next_u64() as u32).min(DEFAULT_MAX_LEN);
        }
        data.truncate(size);
        data
    }

    /// The next bytes: anything at all, or the text of a case with a few bytes spoiled.
    fn bytes(&mut self) -> &[u8] {
        self.scratch.clear();
        if self.rng.percent(50) {
            let len = self.rng.index(65);
            let rng = &mut self.rng;
            self.scratch.extend((0..len).map(|_| if rng.percent(40) { 0 } else { rng.next_u64() as u8 }));
        } else {
            self.case();
            let slot = self.rng.index(POOL);
            MACHINE.case_for(&Pin::FIXED, &self.pool[slot], &mut self.case);
            self.scratch = case_text(&self.case).into_bytes();
            for _ in 0..self.rng.below(4) {
                let at = self.rng.index(self.scratch.len());
                self.scratch[at] = b' ' + self.rng.below(95) as u8;
            }
        }
        &self.scratch
    }
}
