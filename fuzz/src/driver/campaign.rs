//! What a worker is asked to do.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::pin::Pin;

/// Longest input in bytes: a header and more records than a case of arbitrary bytes keeps.
pub const DEFAULT_MAX_LEN: usize = 512;
/// Memory at which libFuzzer gives the worker up, in MiB.
pub const DEFAULT_RSS_LIMIT_MB: u32 = 2048;
/// Cases saved for each pair of rule and sites.
pub const DEFAULT_SAVED_PER_KEY: u32 = 3;

/// One worker's orders. As JSON it fits into an argument of its command line.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Campaign {
    /// Name of the target, as in [`crate::targets::TARGETS`].
    pub target: String,
    /// What every case is pinned to.
    pub pin: Pin,
    /// Seed of the engine. The same seed on an empty corpus gives the same inputs.
    pub seed: u32,
    /// How long to run. `None`: until something else stops it.
    pub time: Option<Duration>,
    /// How many inputs to run. `None`: until something else stops it.
    pub runs: Option<u64>,
    /// Longest input, in bytes.
    pub max_len: usize,
    /// Directory that inputs are read from at the start and interesting ones written to. `None`: in memory only.
    pub corpus: Option<PathBuf>,
    /// Directory for what is found. Made when missing.
    pub finds: PathBuf,
    /// Go on after a find instead of stopping at the first.
    pub keep_going: bool,
    /// Most cases saved for each pair of rule and sites; later ones are only counted.
    pub saved_per_key: u32,
    /// Memory at which the worker is given up, in MiB. 0: never.
    pub rss_limit_mb: u32,
}

impl Campaign {
    /// A campaign without end that stops at the first find.
    pub fn new(target: &str, pin: Pin, finds: PathBuf) -> Campaign {
        Campaign {
            target: target.to_owned(),
            pin,
            seed: 1,
            time: None,
            runs: None,
            max_len: DEFAULT_MAX_LEN,
            corpus: None,
            finds,
            keep_going: false,
            saved_per_key: DEFAULT_SAVED_PER_KEY,
            rss_limit_mb: DEFAULT_RSS_LIMIT_MB,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ptefuzz_core::config::Kernel;

    #[test]
    fn a_campaign_survives_the_way_to_its_worker() {
        let campaign = Campaign {
            time: Some(Duration::from_millis(1500)),
            runs: Some(10),
            corpus: Some("c".into()),
            ..Campaign::new("machine", Pin::release(Kernel::V6_12), "finds".into())
        };
        let json = serde_json::to_string(&campaign).expect("plain data");
        assert_eq!(serde_json::from_str::<Campaign>(&json).expect("what was written can be read"), campaign);
    }
}
