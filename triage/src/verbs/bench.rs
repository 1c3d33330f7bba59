//! `ptefuzz bench`: how fast cases run, what one case costs, and how long each defect takes to find (`find`).
//!
//! Each target runs a pool of inputs from a fixed seed, over and over, through the very function that a fuzzer
//! calls: decoding, model, oracle and invariants are all in the figure. An *op* of a target that takes no cases
//! is one input.

mod find;

use std::time::{Duration, Instant};

use ptefuzz_core::program::generate::{GenConfig, generate};
use ptefuzz_core::program::rng::Rng;
use ptefuzz_core::program::text::{Document, print};
use ptefuzz_core::program::{Case, codec};
use ptefuzz_fuzz::targets::{Input, TARGETS, Target};
use ptefuzz_fuzz::{Pin, Session};
use serde::Serialize;

use crate::cli::{Bench, Measure};
use crate::error::{EXIT_CLEAN, Error, Outcome};
use crate::input;
use crate::judge::{Judge, guarded};
use crate::output::{Format, Out};

/// Inputs in a pool.
const POOL: usize = 512;
/// Ops in each case of it.
const OPS: usize = 16;
/// Bytes in each input of a target that takes bytes.
const BYTES: usize = 64;
/// Seed of the pools.
const SEED: u64 = 0x7074_6566;
/// Time before measuring.
const WARM_UP: Duration = Duration::from_millis(200);

/// Figures of one target. Field names are public and stable.
#[derive(Serialize, Debug)]
struct Figures {
    target: &'static str,
    cases_per_second: f64,
    ops_per_second: f64,
    cases: u64,
    seconds: f64,
}

/// Figures of one case. Field names are public and stable.
#[derive(Serialize, Debug)]
struct One {
    file: String,
    verdict: &'static str,
    id: Option<&'static str>,
    seconds: f64,
    ops: u64,
    steps: u64,
    cases_per_second: f64,
    ops_per_second: f64,
    /// `None` where the system does not tell.
    peak_rss_bytes: Option<u64>,
}

pub(super) fn run(options: &Bench) -> Outcome {
    let mut out = Out::stdout();
    if let Some(Measure::Find(options)) = &options.what {
        return find::run(options, &mut out);
    }
    if let Some(path) = &options.file {
        one(path, options.format, &mut out)?;
        out.flush()?;
        return Ok(EXIT_CLEAN);
    }
    if options.format == Format::Text {
        out.line(&format!("{:<12}{:>14}{:>16}", "target", "cases/s", "ops/s"))?;
    }
    for target in TARGETS.iter().filter(|t| wanted(t, options.target.as_deref())) {
        let figures = measure(target, options.seconds)?;
        match options.format {
            Format::Json => out.json(&figures)?,
            Format::Text => out.line(&format!(
                "{:<12}{:>14.0}{:>16.0}",
                figures.target, figures.cases_per_second, figures.ops_per_second
            ))?,
        }
        out.flush()?;
    }
    Ok(EXIT_CLEAN)
}

/// The target that was asked for, or every one that is not made to fail.
fn wanted(target: &Target, asked: Option<&str>) -> bool {
    asked.map_or(target.planted.is_none(), |name| name == target.name)
}

/// Inputs of a target, each with the ops that it stands for.
fn pool(target: &Target) -> Result<Vec<(Vec<u8>, u64)>, Error> {
    let mut rng = Rng::new(SEED);
    let mut judge = Judge::new();
    let mut case = Case::empty();
    let mut ready = Case::empty();
    let mut inputs = Vec::with_capacity(POOL);
    let config = GenConfig {
        max_ops: OPS,
        sequential: target.name == "sequential",
        bias: target.family,
        ..GenConfig::default()
    };
    while inputs.len() < POOL {
        generate(&mut rng, &mut case, &config);
        if case.ops.len() != OPS {
            continue;
        }
        inputs.push(match target.input {
            Input::Case(_) => {
                let bytes = codec::encode_raw(&case);
                target.case_for(&Pin::FIXED, &bytes, &mut ready);
                judge.run(target.name, &ready)?;
                (bytes, judge.ops_run())
            }
            Input::Bytes(_) if target.name == "text" => (print(&Document::from(case.clone())).into_bytes(), OPS as u64),
            Input::Bytes(_) => ((0..BYTES).map(|_| rng.next_u64() as u8).collect(), 1),
        });
    }
    Ok(inputs)
}

/// Runs the pool of a target for some time.
fn measure(target: &'static Target, time: Duration) -> Result<Figures, Error> {
    let pool = pool(target)?;
    let mut session = Session::new(Pin::FIXED);
    let bug = |message| Error::Harness { file: format!("target {}", target.name), message };
    let mut run = |time| guarded(|| rounds(target, &pool, &mut session, time)).map_err(bug);
    run(WARM_UP)?;
    let (cases, ops, seconds) = run(time)?;
    Ok(Figures {
        target: target.name,
        cases_per_second: cases as f64 / seconds,
        ops_per_second: ops as f64 / seconds,
        cases,
        seconds,
    })
}

/// Whole rounds over the pool until the time is up: cases, ops and seconds.
fn rounds(target: &Target, pool: &[(Vec<u8>, u64)], session: &mut Session, time: Duration) -> (u64, u64, f64) {
    let start = Instant::now();
    let (mut cases, mut ops) = (0, 0);
    loop {
        for (bytes, of_case) in pool {
            // A violation costs time like a clean verdict; what it says is not asked here.
            let _verdict = std::hint::black_box(target.run(bytes, session));
            ops += of_case;
        }
        cases += pool.len() as u64;
        let elapsed = start.elapsed();
        if elapsed >= time {
            return (cases, ops, elapsed.as_secs_f64().max(1e-9));
        }
    }
}

/// One run of one case on a machine of its own.
fn one(path: &std::path::Path, format: Format, out: &mut Out) -> Result<(), Error> {
    let input = input::load(path)?;
    let start = Instant::now();
    let mut judge = Judge::new();
    let violation = judge.run(&input.name, &input.doc.case)?;
    let seconds = start.elapsed().as_secs_f64().max(1e-9);
    let one = One {
        verdict: if violation.is_some() { "violation" } else { "clean" },
        id: violation.map(|v| v.rule.id()),
        seconds,
        ops: judge.ops_run(),
        steps: judge.steps(),
        cases_per_second: 1.0 / seconds,
        ops_per_second: judge.ops_run() as f64 / seconds,
        peak_rss_bytes: peak_rss(),
        file: input.name,
    };
    if format == Format::Json {
        return out.json(&one);
    }
    let memory = one.peak_rss_bytes.map_or_else(|| "unknown".to_owned(), |b| format!("{} MiB", b >> 20));
    out.line(&format!(
        "{}: {} in {:.3} s, {} ops, {} steps, peak memory {memory}",
        one.file,
        one.id.unwrap_or("clean"),
        one.seconds,
        one.ops,
        one.steps
    ))
}

/// Most memory that this process has had, in bytes.
fn peak_rss() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}
