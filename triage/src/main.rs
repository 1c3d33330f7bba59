//! The `ptefuzz` command. Everything is in the library; see [`ptefuzz_triage`].

use std::process::ExitCode;

fn main() -> ExitCode {
    ptefuzz_triage::main()
}
