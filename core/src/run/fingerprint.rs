//! A fingerprint of the model: one number that every build on every machine must give.

use super::Machine;
use crate::arch::Arch;
use crate::config::{Config, Defect, Kernel};
use crate::program::Case;
use crate::program::generate::{GenConfig, generate};
use crate::program::rng::Rng;
use std::fmt::{self, Write};

/// What [`fingerprint`] gives. It changes with the model, the generator and the words of the trace; then the new
/// value, which the test prints, takes its place here. When it changes and none of these did, something is not
/// deterministic.
pub const FINGERPRINT: u64 = 0x2948bfa6fc7a9a3d;

/// Hash of the verdicts and traces of [`pool`].
pub fn fingerprint() -> u64 {
    let mut machine = Machine::new();
    let mut hash = Fnv(0xcbf2_9ce4_8422_2325);
    for case in pool() {
        let result = machine.run_traced(&case);
        // Writing to a hash cannot fail.
        let _ = write!(hash, "{result:?}");
    }
    hash.0
}

/// Cases for each release and architecture.
const EACH: usize = 9;

/// Defects that many cases run into.
const COMMON: [Defect; 5] = [Defect::S1, Defect::S4, Defect::S7, Defect::S11, Defect::S17];

/// 54 generated cases: every release as it was, with its defects, on both architectures, one to four CPUs. Every
/// third has one defect more.
pub fn pool() -> Vec<Case> {
    let mut rng = Rng::new(0x5eed);
    let mut cases = Vec::new();
    for kernel in Kernel::ALL {
        for arch in Arch::ALL {
            for n in 0..EACH {
                let mut config = Config { arch, cpus: 1 + (n % 4) as u8, ..Config::of(kernel) };
                if n % 3 == 2 {
                    config.defects = config.defects.with(COMMON[cases.len() / 3 % COMMON.len()]);
                }
                let mut case = Case::empty();
                generate(&mut rng, &mut case, &GenConfig { config, max_ops: 24, sequential: n == 0, bias: None });
                cases.push(case);
            }
        }
    }
    cases
}

/// FNV-1a, fed with text.
struct Fnv(u64);

impl Write for Fnv {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        Ok(())
    }
}
