//! The worker processes: started, listened to, asked to stop, and killed only when they do not.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ptefuzz_fuzz::driver::{Campaign, WorkerMessage};

use crate::error::Error;

/// Something a worker did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Event {
    /// Which worker, from 0.
    pub(super) worker: usize,
    pub(super) what: What,
}

/// What it did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum What {
    /// It said something.
    Said(WorkerMessage),
    /// It wrote a line that is no message.
    Babbled(String),
    /// It has ended: how, in words, when it was not a normal end, and what it left behind.
    Ended {
        /// `None`: exit status 0.
        how: Option<String>,
        /// Inputs on which it crashed or hung.
        left: Vec<PathBuf>,
    },
}

enum Raw {
    Line(String),
    Closed,
}

struct Worker {
    child: Child,
    /// The leash: closing it asks the worker to stop.
    stdin: Option<ChildStdin>,
    folder: PathBuf,
    running: bool,
    /// True when it was killed because it did not stop.
    killed: bool,
}

/// All workers.
pub(super) struct Pool {
    workers: Vec<Worker>,
    lines: Receiver<(usize, Raw)>,
}

/// A folder for the workers of this hunt that no other hunt has.
pub(super) fn scratch(out: &Path) -> PathBuf {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    out.join(format!("run-{seconds}-{}", std::process::id()))
}

impl Pool {
    /// Starts one worker for each campaign.
    ///
    /// # Errors
    /// When a folder cannot be made or a process cannot be started; those already started are stopped.
    pub(super) fn start(campaigns: &[Campaign]) -> Result<Pool, Error> {
        let program = std::env::current_exe().map_err(|e| Error::io("<this program>", e))?;
        let (sender, lines) = mpsc::channel();
        let mut pool = Pool { workers: Vec::new(), lines };
        for (index, campaign) in campaigns.iter().enumerate() {
            match start_one(&program, index, campaign, &sender) {
                Ok(worker) => pool.workers.push(worker),
                Err(e) => {
                    pool.stop(Duration::ZERO);
                    return Err(e);
                }
            }
        }
        Ok(pool)
    }

    /// Workers that have not ended.
    pub(super) fn running(&self) -> usize {
        self.workers.iter().filter(|w| w.running).count()
    }

    /// What has happened; waits for something at most this long.
    pub(super) fn wait(&mut self, time: Duration) -> Vec<Event> {
        let mut events = Vec::new();
        match self.lines.recv_timeout(time) {
            Ok((worker, raw)) => events.push(self.event(worker, raw)),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return events,
        }
        while let Ok((worker, raw)) = self.lines.try_recv() {
            events.push(self.event(worker, raw));
        }
        events
    }

    /// Asks every worker to stop, listens to what they still have to say, and kills those that take longer than
    /// `grace`.
    pub(super) fn stop(&mut self, grace: Duration) -> Vec<Event> {
        for worker in &mut self.workers {
            worker.stdin = None;
        }
        let mut events = Vec::new();
        let end = Instant::now() + grace;
        while self.running() > 0 && Instant::now() < end {
            events.extend(self.wait(Duration::from_millis(20)));
        }
        for worker in self.workers.iter_mut().filter(|w| w.running) {
            // An error means that it has ended by itself meanwhile.
            let _ended = worker.child.kill();
            worker.killed = true;
        }
        let end = Instant::now() + Duration::from_secs(2);
        while self.running() > 0 && Instant::now() < end {
            events.extend(self.wait(Duration::from_millis(20)));
        }
        events
    }

    fn event(&mut self, index: usize, raw: Raw) -> Event {
        let what = match raw {
            Raw::Line(line) => match serde_json::from_str(&line) {
                Ok(message) => What::Said(message),
                Err(_) => What::Babbled(line),
            },
            Raw::Closed => {
                let worker = &mut self.workers[index];
                worker.running = false;
                worker.stdin = None;
                let how = match worker.child.wait() {
                    Ok(status) if status.success() => None,
                    Ok(_) if worker.killed => Some("did not stop when asked to, and was killed".to_owned()),
                    Ok(status) => Some(describe(status)),
                    Err(e) => Some(e.to_string()),
                };
                What::Ended { how, left: left_behind(&worker.folder) }
            }
        };
        Event { worker: index, what }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        for worker in self.workers.iter_mut().filter(|w| w.running) {
            let _ended = worker.child.kill();
            let _reaped = worker.child.wait();
        }
    }
}

fn start_one(
    program: &Path,
    index: usize,
    campaign: &Campaign,
    sender: &Sender<(usize, Raw)>,
) -> Result<Worker, Error> {
    let finds = campaign.finds.clone();
    fs::create_dir_all(&finds).map_err(|e| Error::io(&finds, e))?;
    let log_path = finds.join("libfuzzer.log");
    let log = File::create(&log_path).map_err(|e| Error::io(&log_path, e))?;
    let failed = |message: String| Error::Worker { index, message };
    let orders = serde_json::to_string(campaign).map_err(|e| failed(e.to_string()))?;
    let mut child = Command::new(program)
        .arg("worker")
        .arg(orders)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .map_err(|e| failed(format!("cannot be started: {e}")))?;
    let stdin = child.stdin.take();
    if let Some(stdout) = child.stdout.take() {
        let sender = sender.clone();
        thread::spawn(move || {
            // Lines that are not UTF-8 end the reading like a closed pipe: no worker writes them.
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send((index, Raw::Line(line))).is_err() {
                    return;
                }
            }
            let _nobody_listens = sender.send((index, Raw::Closed));
        });
    }
    Ok(Worker { child, stdin, folder: finds, running: true, killed: false })
}

/// How a process ended that did not end well.
fn describe(status: ExitStatus) -> String {
    #[cfg(unix)]
    {
        use std::os::unix::process::ExitStatusExt;
        if let Some(signal) = status.signal() {
            return format!("killed by signal {signal}");
        }
    }
    match status.code() {
        Some(code) => format!("ended with status {code}"),
        None => "ended without a status".to_owned(),
    }
}

/// Inputs that libFuzzer itself has saved because the process crashed, hung or ran out of memory.
fn left_behind(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let prefix = ptefuzz_fuzz::driver::CRASH_PREFIX;
    let mut paths: Vec<PathBuf> = entries
        .filter_map(|e| e.ok().map(|e| e.path()))
        .filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(prefix)))
        .collect();
    paths.sort();
    paths
}
