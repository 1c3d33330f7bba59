//! libFuzzer, called as a library: the only place that speaks to it.

#![allow(unsafe_code, reason = "libFuzzer is C++ and has a C interface")]

use std::cell::RefCell;
use std::ffi::{CString, c_char, c_int};
use std::path::Path;
use std::ptr;

use super::CRASH_PREFIX;
use super::campaign::Campaign;
use super::message::{Report, WorkerMessage};
use super::worker::{Next, Worker, remember_panics};

unsafe extern "C" {
    fn LLVMFuzzerRunDriver(
        argc: *mut c_int,
        argv: *mut *mut *mut c_char,
        one_input: extern "C" fn(*const u8, usize) -> c_int,
    ) -> c_int;

    /// `_exit(2)`: ends the process at once. The ordinary way would run libFuzzer's exit handler, which takes the
    /// end of the process during an input for a crash.
    safe fn _exit(status: c_int) -> !;
}

/// Exit status when the campaign could not be run.
const FAILED: c_int = 2;
/// Time after which libFuzzer gives an input up, in seconds.
const TIMEOUT: u32 = 20;
/// Stands in for seed 0, which libFuzzer takes for "any seed".
const SEED_FOR_ZERO: u32 = 0x9e37_79b9;

thread_local! {
    static WORKER: RefCell<Option<Worker>> = const { RefCell::new(None) };
}

/// Runs a campaign in this process and ends the process: with status 0 after [`WorkerMessage::Done`], 2 after
/// [`WorkerMessage::Failed`].
///
/// One call in a process. The caller must not count on destructors or exit handlers.
pub fn run_worker(campaign: Campaign, mut report: Report) -> ! {
    let arguments = match arguments(&campaign) {
        Ok(arguments) => arguments,
        Err(error) => fail(&mut report, error),
    };
    remember_panics();
    match Worker::new(campaign, report) {
        Ok(worker) => WORKER.set(Some(worker)),
        Err((error, mut report)) => fail(&mut report, error),
    }
    let status = drive(&arguments);
    let error = format!("libFuzzer ended by itself with status {status}");
    match WORKER.take() {
        Some(worker) => fail(&mut worker.into_report(), error),
        None => _exit(FAILED),
    }
}

fn fail(report: &mut Report, error: String) -> ! {
    report(&WorkerMessage::Failed { error });
    _exit(FAILED)
}

/// libFuzzer's command line.
fn arguments(campaign: &Campaign) -> Result<Vec<CString>, String> {
    let seed = if campaign.seed == 0 { SEED_FOR_ZERO } else { campaign.seed };
    let artifacts = campaign.finds.join(CRASH_PREFIX);
    let mut arguments = vec![
        "ptefuzz".to_owned(),
        format!("-seed={seed}"),
        format!("-max_len={}", campaign.max_len.max(1)),
        format!("-rss_limit_mb={}", campaign.rss_limit_mb),
        format!("-timeout={TIMEOUT}"),
        format!("-artifact_prefix={}", artifacts.display()),
    ];
    // Whole records are put in and taken out, so there is no need to let inputs grow slowly.
    let fixed =
        ["-len_control=0", "-verbosity=0", "-reload=0", "-detect_leaks=0", "-use_value_profile=0", "-print_funcs=0"];
    // Its accounts of how rare each feature is cost more than running the cases.
    let fixed = fixed.into_iter().chain(["-entropic=0"]);
    let signals = ["-handle_int=0", "-handle_term=0", "-handle_usr1=0", "-handle_usr2=0"];
    arguments.extend(fixed.chain(signals).map(str::to_owned));
    // A path that begins with a dash would be taken for a flag.
    arguments.extend(campaign.corpus.iter().map(|dir| Path::new(".").join(dir).display().to_string()));
    let nul = |e: std::ffi::NulError| format!("a zero byte in an argument: {e}");
    arguments.into_iter().map(|a| CString::new(a).map_err(nul)).collect()
}

/// Hands the process over. Comes back only when libFuzzer refuses to begin.
fn drive(arguments: &[CString]) -> c_int {
    let mut pointers: Vec<*mut c_char> = arguments.iter().map(|a| a.as_ptr().cast_mut()).collect();
    let Ok(mut argc) = c_int::try_from(pointers.len()) else { return FAILED };
    pointers.push(ptr::null_mut());
    let mut argv = pointers.as_mut_ptr();
    // SAFETY: `argv` points to `argc` strings that end in a zero byte, and to a null pointer after them, as for
    // `main`; all of them outlive the call. libFuzzer copies the strings before it looks at them and writes to none.
    unsafe { LLVMFuzzerRunDriver(&mut argc, &mut argv, one_input) }
}

/// libFuzzer's callback. It does not unwind: the worker catches what the target throws, and a panic of the worker
/// itself ends the process as a panic in any `extern "C"` function does.
extern "C" fn one_input(data: *const u8, size: usize) -> c_int {
    let bytes = if size == 0 {
        &[]
    } else {
        // SAFETY: libFuzzer passes `size` readable bytes at `data` and leaves them alone until this returns.
        unsafe { std::slice::from_raw_parts(data, size) }
    };
    match WORKER.with_borrow_mut(|worker| worker.as_mut().map(|w| w.input(bytes))) {
        Some(Next::Keep) => 0,
        Some(Next::Reject) => -1,
        Some(Next::Stop) => _exit(0),
        None => _exit(FAILED),
    }
}
