//! Prints `docs/TRANSITIONS.md`.

fn main() {
    print!("{}", ptefuzz_core::entry::carry::markdown());
}
