//! What a worker says to its parent.

use std::io::Write;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// How far a worker is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Stats {
    /// Inputs run.
    pub cases: u64,
    /// Inputs that failed, repetitions of the same failure included.
    pub finds: u64,
    /// Failures saved.
    pub saved: u64,
    /// State counters that were seen hit; counters that only a few inputs hit may be missing.
    pub coverage: u64,
    /// Time since the start, in milliseconds.
    pub millis: u64,
    /// Time on a CPU since the start, in milliseconds; the same as `millis` where the system does not tell.
    pub busy_millis: u64,
}

/// Why a worker stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StopReason {
    /// Its time was up.
    Time,
    /// It had run as many inputs as it should.
    Runs,
    /// It found something, and was not to go on.
    Find,
    /// It was asked to.
    Requested,
    /// The harness panicked.
    HarnessPanic,
}

/// What a worker could not write to its file, and who reads its messages must keep.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Unsaved {
    /// Why not, in one line.
    pub error: String,
    /// What the file should have held.
    pub contents: Vec<u8>,
}

/// One line of a worker's output.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "message", rename_all = "kebab-case")]
pub enum WorkerMessage {
    /// About every 200 ms.
    Stats(Stats),
    /// Something was found.
    Find {
        /// Id of the broken rule or promise.
        id: String,
        /// Names of the sites, the cause first.
        sites: Vec<String>,
        /// What is wrong, in one line.
        summary: String,
        /// Where it was saved.
        path: PathBuf,
        /// Given when it could not be saved there.
        unsaved: Option<Unsaved>,
        /// How far the worker was.
        stats: Stats,
    },
    /// The harness itself panicked, which is no find. The worker stops.
    HarnessPanic {
        /// Message and place of the panic, in one line.
        summary: String,
        /// Where the input was saved.
        path: PathBuf,
        /// Given when it could not be saved there.
        unsaved: Option<Unsaved>,
        /// How far the worker was.
        stats: Stats,
    },
    /// The worker has stopped.
    Done {
        /// Why.
        reason: StopReason,
        /// What it has done.
        stats: Stats,
    },
    /// The worker could not start.
    Failed {
        /// Why, in one line.
        error: String,
    },
}

/// Where a worker's messages go.
pub type Report = Box<dyn FnMut(&WorkerMessage)>;

/// Messages to standard output as JSON, one a line. When nobody reads them any more the worker is asked to stop.
pub fn report_to_stdout() -> Report {
    Box::new(|message| {
        let mut out = std::io::stdout().lock();
        let written = serde_json::to_writer(&mut out, message).map_err(std::io::Error::from);
        if written.and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush()).is_err() {
            super::request_stop();
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_single_lines_and_can_be_read_again() {
        let stats = Stats { cases: 1, finds: 2, saved: 3, coverage: 4, millis: 5, busy_millis: 4 };
        let messages = [
            WorkerMessage::Stats(stats),
            WorkerMessage::Find {
                id: "progress.reclaim".into(),
                sites: vec!["a:b".into()],
                summary: "two\nlines".into(),
                path: "x/y.case".into(),
                unsaved: None,
                stats,
            },
            WorkerMessage::HarnessPanic {
                summary: "no".into(),
                path: "x/y.bin".into(),
                unsaved: Some(Unsaved { error: "disk full".into(), contents: vec![0, 10, 255] }),
                stats,
            },
            WorkerMessage::Done { reason: StopReason::HarnessPanic, stats },
            WorkerMessage::Failed { error: "no".into() },
        ];
        for message in messages {
            let line = serde_json::to_string(&message).expect("plain data");
            assert!(!line.contains('\n'), "{line}");
            assert_eq!(serde_json::from_str::<WorkerMessage>(&line).expect("what was written can be read"), message);
        }
    }
}
