//! What a run costs: wall time, processor time and bytes read of the program with all its children, the same of
//! its server meanwhile, and peak memory.
//!
//! Processor time of the program is what the kernel adds to this process when it reaps the program
//! (`cutime`, `cstime`: all descendants that were waited for). Of the server it is the difference of the
//! same figures over the postmaster and its children, so that a WAL sender or an `archive_command` that
//! has ended counts. Write-back by the kernel's own threads counts for nobody. Bytes read are what `read` and
//! its like returned (`rchar` of /proc/PID/io, where reaped children count as well), from the page cache or the
//! disk: a program's own pipes count, what a socket received does not, unless by `read`. Memory is the sum over
//! the program's processes of each one's peak resident set, looked at every 10 ms.

use std::collections::HashMap;
use std::fs::{self, File};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{
    Pid, WaitId, WaitIdOptions, WaitOptions, getpid, set_child_subreaper, waitid, waitpid,
};

use super::cluster::Cluster;

/// Clock ticks in a second, in /proc/PID/stat of every Linux.
const TICKS: f64 = 100.0;

/// What one run cost.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cost {
    pub wall: f64,
    pub cpu: f64,
    pub server: f64,
    pub memory_mib: f64,
    /// Bytes that the program read, and its server.
    pub read: f64,
    pub server_read: f64,
}

/// Runs a command to its end, which must be good.
pub fn measure(command: &mut Command, server: Option<&Cluster>) -> Cost {
    let said = tempfile::tempfile().unwrap();
    command.stdout(Stdio::from(said.try_clone().unwrap()));
    command.stderr(Stdio::from(said.try_clone().unwrap()));
    let (cpu, before) = (children_cpu(), server.map_or((0.0, 0.0), server_total));
    let begin = Instant::now();
    let mut child = command.spawn().unwrap_or_else(|why| panic!("{command:?}: {why}"));
    let ended = AtomicBool::new(false);
    let root = child.id();
    let (wall, memory_mib) = std::thread::scope(|scope| {
        let watch = scope.spawn(|| peak_memory(root, &ended));
        await_end(root);
        let wall = begin.elapsed().as_secs_f64();
        ended.store(true, Ordering::Relaxed);
        (wall, watch.join().unwrap())
    });
    let read = read_by(root);
    let status = child.wait().unwrap();
    assert!(status.success(), "{command:?}: {status}\n{}", text(said));
    let after = server.map_or((0.0, 0.0), server_total);
    Cost {
        wall,
        cpu: children_cpu() - cpu,
        server: after.0 - before.0,
        memory_mib,
        read,
        server_read: after.1 - before.1,
    }
}

/// As [`measure`] without a look at memory, for runs of a few milliseconds.
pub fn measure_short(command: &mut Command) -> Cost {
    let said = tempfile::tempfile().unwrap();
    command.stdout(Stdio::from(said.try_clone().unwrap()));
    command.stderr(Stdio::from(said.try_clone().unwrap()));
    let cpu = children_cpu();
    let begin = Instant::now();
    let status = command.spawn().unwrap().wait().unwrap();
    let wall = begin.elapsed().as_secs_f64();
    assert!(status.success(), "{command:?}: {status}\n{}", text(said));
    Cost { wall, cpu: children_cpu() - cpu, ..Cost::default() }
}

/// Returns when a child has ended, which is left to be reaped: until then /proc says what it has read.
fn await_end(pid: u32) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT).unwrap();
}

fn text(mut said: File) -> String {
    use std::io::{Read as _, Seek as _, SeekFrom};
    let mut text = String::new();
    said.seek(SeekFrom::Start(0)).unwrap();
    said.read_to_string(&mut text).ok();
    text
}

/// The fields of /proc/PID/stat after the name, which may hold spaces.
fn stat(pid: &str) -> Option<Vec<f64>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    Some(rest.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect())
}

/// User and system time of a process (`own`) and of the children it has reaped.
fn cpu_of(pid: &str, own: bool) -> f64 {
    let Some(fields) = stat(pid) else { return 0.0 };
    let from = if own { 10 } else { 12 };
    fields.get(from..14).map_or(0.0, |times| times.iter().sum::<f64>() / TICKS)
}

/// User and system time of this process itself.
pub fn own_cpu() -> f64 {
    cpu_of("self", true) - cpu_of("self", false)
}

/// User and system time of the programs that this process has reaped, and of those they reaped.
pub fn children_cpu() -> f64 {
    cpu_of("self", false)
}

/// User and system time of another process and of the children it has reaped.
pub fn process_cpu(pid: u32) -> f64 {
    cpu_of(&pid.to_string(), true)
}

/// Programs that lose their parent meanwhile, as pgBackRest's asynchronous commands do on purpose: they become
/// children of this process and are waited for in the end, so that what they and their own children spent
/// is in [`children_cpu`] like everything else.
pub struct Orphans {
    before: Vec<u32>,
}

impl Orphans {
    pub fn adopt() -> Self {
        set_child_subreaper(Some(getpid())).unwrap();
        Self { before: own_children() }
    }

    /// Returns when all of them have ended.
    pub fn reap(self) {
        loop {
            let mut left = own_children();
            left.retain(|pid| !self.before.contains(pid));
            if left.is_empty() {
                break;
            }
            for pid in left {
                let pid = Pid::from_raw(i32::try_from(pid).unwrap());
                waitpid(pid, WaitOptions::NOHANG).unwrap();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        set_child_subreaper(None).unwrap();
    }
}

/// Of all threads.
fn own_children() -> Vec<u32> {
    let tasks = fs::read_dir("/proc/self/task").unwrap().flatten();
    let texts = tasks.map(|task| fs::read_to_string(task.path().join("children")));
    let text = texts.flatten().collect::<Vec<String>>().join(" ");
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

fn children(pid: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// Bytes read by a process and by the children it has reaped.
fn read_by(pid: u32) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
    let count = text.lines().find_map(|line| line.strip_prefix("rchar:"));
    count.map_or(f64::NAN, |count| count.trim().parse().unwrap())
}

/// Processor time of a server, and bytes it has read.
fn server_total(cluster: &Cluster) -> (f64, f64) {
    let postmaster = cluster.postmaster();
    let processes = || std::iter::once(postmaster).chain(children(postmaster));
    let read = processes().map(read_by).filter(|read| read.is_finite()).sum();
    (processes().map(process_cpu).sum(), read)
}

fn peak_memory(root: u32, ended: &AtomicBool) -> f64 {
    let mut peaks: HashMap<u32, f64> = HashMap::new();
    while !ended.load(Ordering::Relaxed) {
        let mut open = vec![root];
        while let Some(pid) = open.pop() {
            open.extend(children(pid));
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
            if let Some(kib) = kib {
                peaks.insert(pid, kib / 1024.0);
            }
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    peaks.values().sum()
}
