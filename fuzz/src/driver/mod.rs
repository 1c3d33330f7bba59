//! The embedded driver: libFuzzer inside an ordinary process, on the stable toolchain, with nothing installed.
//!
//! libFuzzer takes over the process that it runs in and ends it, so it gets a *worker* process of its own. The
//! parent starts the worker with a [`Campaign`] and reads one [`WorkerMessage`] a line from it:
//!
//! - standard output carries messages and nothing else;
//! - standard error is libFuzzer's own chatter and belongs in a log file;
//! - standard input is the leash: when the parent closes it, or dies, the worker stops
//!   ([`stop_when_stdin_closes`]).
//!
//! The last message is [`WorkerMessage::Done`] or [`WorkerMessage::Failed`]. A worker that ends without either has
//! crashed or hung in a way that cannot be caught; libFuzzer then leaves the input in a file that begins with
//! [`CRASH_PREFIX`] beside the finds. That is a mistake of the harness, never a find.

mod campaign;
mod libfuzzer;
mod message;
mod worker;

use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use ptefuzz_core::program::Case;

pub use campaign::{Campaign, DEFAULT_MAX_LEN, DEFAULT_RSS_LIMIT_MB, DEFAULT_SAVED_PER_KEY};
pub use libfuzzer::run_worker;
pub use message::{Report, Stats, StopReason, Unsaved, WorkerMessage, report_to_stdout};

use crate::targets;

/// Beginning of the names of files that libFuzzer itself leaves when the worker crashes or hangs.
pub const CRASH_PREFIX: &str = "harness-";

static STOP: AtomicBool = AtomicBool::new(false);

/// Asks the worker in this process to stop before its next input. It reports what it has and ends.
pub fn request_stop() {
    STOP.store(true, Ordering::Relaxed);
}

fn stop_requested() -> bool {
    STOP.load(Ordering::Relaxed)
}

/// Starts a thread that asks the worker to stop when standard input ends.
pub fn stop_when_stdin_closes() {
    thread::spawn(|| {
        let mut buffer = [0; 64];
        let mut stdin = std::io::stdin().lock();
        while matches!(stdin.read(&mut buffer), Ok(n) if n > 0) {}
        request_stop();
    });
}

/// The case that a worker of this campaign runs for these bytes. False, and `case` as it was, when the target is
/// unknown or does not take cases.
pub fn case_for(campaign: &Campaign, bytes: &[u8], case: &mut Case) -> bool {
    targets::by_name(&campaign.target).is_some_and(|t| t.case_for(&campaign.pin, bytes, case))
}
