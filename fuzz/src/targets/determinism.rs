//! Determinism: the same case gives the same verdict and the same trace, on a fresh machine and on a used one, and
//! this build gives the traces that every build gives.

use std::cell::RefCell;
use std::sync::OnceLock;

use ptefuzz_core::program::codec;
use ptefuzz_core::run::{FINGERPRINT, Machine, fingerprint};

use crate::session::Failure;

thread_local! {
    static USED: RefCell<Machine> = RefCell::new(Machine::new());
}

/// Runs one case three times. A case keeps its own kernel and defects: a violation is no failure here.
pub(super) fn check(bytes: &[u8]) -> Result<(), Failure> {
    static BUILD: OnceLock<u64> = OnceLock::new();
    let build = *BUILD.get_or_init(fingerprint);
    let fail = |id, message: String| Err(Failure::Property { id, message, input: bytes.to_vec() });
    if build != FINGERPRINT {
        return fail("determinism.build", format!("fingerprint {build:#018x}, expected {FINGERPRINT:#018x}"));
    }
    let case = codec::from_any(bytes);
    let fresh = Machine::new().run_traced(&case);
    let (first, second) = USED.with_borrow_mut(|machine| (machine.run_traced(&case), machine.run_traced(&case)));
    if first != fresh {
        return fail("determinism.used-machine", format!("{}, on a fresh machine {}", first.0, fresh.0));
    }
    if second != first {
        return fail("determinism.twice", format!("{}, then {}", first.0, second.0));
    }
    Ok(())
}
