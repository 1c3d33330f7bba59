//! The table of fuzz targets. A target knows no engine: bytes in, a [`Failure`] or nothing out.

mod determinism;
mod entry;
mod text;

use ptefuzz_core::config::Defect;
use ptefuzz_core::program::Case;
use ptefuzz_core::program::family::Family;

use crate::pin::Pin;
use crate::session::{self, Failure, Session};

/// What a target takes its bytes for.
#[derive(Clone, Copy)]
pub enum Input {
    /// A case, in binary or text, which the function gives the shape that the target wants.
    Case(fn(&mut Case)),
    /// Bytes that a library function is tried on; the promises of the function are in the target.
    Bytes(fn(&[u8]) -> Result<(), Failure>),
}

/// Something to fuzz.
pub struct Target {
    /// Name, also that of its binary.
    pub name: &'static str,
    /// What it does, in one line.
    pub doc: &'static str,
    /// What it makes of its bytes.
    pub input: Input,
    /// Defect that is always on. Only the canary has one.
    pub planted: Option<Defect>,
    /// Family that its cases are mostly about.
    pub family: Option<Family>,
}

/// Everything.
pub static MACHINE: Target = Target {
    name: "machine",
    doc: "everything: any case, all CPUs, devices and interruptions",
    input: Input::Case(as_it_is),
    planted: None,
    family: None,
};

/// No concurrency.
pub static SEQUENTIAL: Target = Target {
    name: "sequential",
    doc: "one CPU, no interruptions: what is wrong here needs no race",
    input: Input::Case(on_one_cpu),
    planted: None,
    family: None,
};

/// Files.
pub static FILE: Target = Target {
    name: "file",
    doc: "files: shared and private mappings of tmpfs and of a disk file, truncation, holes, writeback",
    input: Input::Case(as_it_is),
    planted: None,
    family: Some(Family::File),
};

/// Huge pages and large folios.
pub static THP: Target = Target {
    name: "thp",
    doc: "huge pages and large folios: any case, most ops about them",
    input: Input::Case(as_it_is),
    planted: None,
    family: Some(Family::Thp),
};

/// userfaultfd.
pub static UFFD: Target = Target {
    name: "uffd",
    doc: "userfaultfd: threads that wait, the monitor's calls, protected and missing pages",
    input: Input::Case(as_it_is),
    planted: None,
    family: Some(Family::Uffd),
};

/// Entry encodings.
pub static ENTRY: Target = Target {
    name: "entry",
    doc: "entry encodings: total decoding, round trips, laws of the accessors",
    input: Input::Bytes(entry::check),
    planted: None,
    family: None,
};

/// The parser.
pub static TEXT: Target = Target {
    name: "text",
    doc: "text form of cases: what can be read can be printed and read again",
    input: Input::Bytes(text::check),
    planted: None,
    family: None,
};

/// One case, one result.
pub static DETERMINISM: Target = Target {
    name: "determinism",
    doc: "the same case gives the same trace, on a fresh machine, on a used one and in every build",
    input: Input::Bytes(determinism::check),
    planted: None,
    family: None,
};

/// Devices.
pub static DEVICE: Target = Target {
    name: "device",
    doc: "mostly devices: exclusive access, pages in device memory, and what the kernel does to both",
    input: Input::Case(as_it_is),
    planted: None,
    family: Some(Family::Device),
};

/// The target that must fail.
pub static CANARY: Target = Target {
    name: "canary",
    doc: "a planted defect (S4): must fail within seconds, or failures go unseen",
    input: Input::Case(as_it_is),
    planted: Some(Defect::S4),
    family: None,
};

/// Every target.
pub static TARGETS: [&Target; 10] =
    [&MACHINE, &SEQUENTIAL, &DEVICE, &FILE, &UFFD, &ENTRY, &TEXT, &DETERMINISM, &THP, &CANARY];

/// The target with this name.
pub fn by_name(name: &str) -> Option<&'static Target> {
    TARGETS.into_iter().find(|t| t.name == name)
}

impl Target {
    /// Runs one input.
    ///
    /// # Errors
    /// What is wrong with what was tested.
    pub fn run(&self, bytes: &[u8], session: &mut Session) -> Result<(), Failure> {
        match self.input {
            Input::Case(shape) => {
                let pin = self.pinned(session.pin());
                session.judge(bytes, &pin, shape)
            }
            Input::Bytes(check) => check(bytes),
        }
    }

    /// The case that [`Target::run`] makes of these bytes under a pin. False, and `case` as it was, when the target
    /// does not take cases.
    pub fn case_for(&self, pin: &Pin, bytes: &[u8], case: &mut Case) -> bool {
        let Input::Case(shape) = self.input else { return false };
        session::load(bytes, &self.pinned(pin), shape, case);
        true
    }

    fn pinned(&self, pin: &Pin) -> Pin {
        self.planted.map_or(*pin, |defect| pin.with_defect(defect))
    }
}

fn as_it_is(_: &mut Case) {}

fn on_one_cpu(case: &mut Case) {
    case.config.cpus = 1;
    case.interrupts.clear();
    for op in &mut case.ops {
        op.cpu = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ptefuzz_core::program::mutate::mutate_bytes;

    fn bytes(seed: u32) -> Vec<u8> {
        let mut data = vec![0; 512];
        let mut size = 0;
        for round in 0..24 {
            size = mutate_bytes(&mut data, size, 512, seed.wrapping_mul(31).wrapping_add(round));
        }
        data.truncate(size);
        data
    }

    #[test]
    fn targets_are_found_by_name_and_names_are_unique() {
        for target in TARGETS {
            assert!(std::ptr::eq(by_name(target.name).expect("it is in the table"), target));
        }
        assert!(by_name("no-such-target").is_none());
    }

    #[test]
    fn a_sequential_case_has_one_cpu_and_nobody_comes_between() {
        let mut case = Case::empty();
        for seed in 0..200 {
            assert!(SEQUENTIAL.case_for(&Pin::FIXED, &bytes(seed), &mut case));
            assert_eq!(case.config.cpus, 1);
            assert!(case.interrupts.is_empty() && case.ops.iter().all(|op| op.cpu == 0));
        }
    }

    #[test]
    fn only_the_canary_has_a_defect_of_its_own() {
        let mut case = Case::empty();
        for target in TARGETS.into_iter().filter(|t| matches!(t.input, Input::Case(_))) {
            target.case_for(&Pin::FIXED, &bytes(1), &mut case);
            assert_eq!(case.config.defects.iter().next(), target.planted);
        }
    }

    #[test]
    fn a_saved_case_says_what_was_run_and_runs_as_itself() {
        let mut case = Case::empty();
        let mut again = Case::empty();
        let pin = Pin::release(ptefuzz_core::config::Kernel::V6_12);
        for seed in 0..50 {
            MACHINE.case_for(&pin, &bytes(seed), &mut case);
            let text = session::case_text(&case);
            MACHINE.case_for(&pin, text.as_bytes(), &mut again);
            assert_eq!(again, case, "{text}");
        }
    }
}
