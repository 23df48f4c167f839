//! A child process that ends with the value that holds it, and at the latest with this process.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// A running child with a log file of its own. Dropping it kills the child and waits for it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command`; its stdout and stderr go to the file `log` (appended).
    pub fn start(name: &str, mut command: Command, log: &Path) -> Result<Process> {
        let file = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("can't open the log {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = spawn(command).with_context(|| format!("can't start {name}"))?;
        Ok(Process { name: name.to_string(), child, log: log.to_path_buf() })
    }

    /// The name of the process in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The log file.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The whole log so far.
    pub fn log_text(&self) -> String {
        std::fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// The last `lines` lines of the log, for error messages.
    pub fn log_tail(&self, lines: usize) -> String {
        let text = self.log_text();
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// Returns the exit status if the process has ended.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Sends a signal, such as `libc::SIGTERM`.
    pub fn signal(&self, signal: i32) -> Result<()> {
        // SAFETY: the child has not been waited for while `self` exists unless it exited, in which
        // case the id is still reserved for the zombie or kill reports ESRCH; no memory is
        // involved.
        if unsafe { libc::kill(self.child.id() as libc::pid_t, signal) } != 0 {
            bail!("can't signal {}: {}", self.name, std::io::Error::last_os_error());
        }
        Ok(())
    }

    /// Stops the process (SIGSTOP).
    pub fn pause(&self) -> Result<()> {
        self.signal(libc::SIGSTOP)
    }

    /// Resumes a stopped process (SIGCONT).
    pub fn resume(&self) -> Result<()> {
        self.signal(libc::SIGCONT)
    }

    /// Kills the process (SIGKILL) and waits for its end.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let pid = self.child.id();
        living().retain(|&other| other != pid);
    }

    /// Asks the process to end (SIGTERM), kills it after `patience`, and waits for its end.
    pub fn terminate(&mut self, patience: Duration) {
        let _ = self.signal(libc::SIGTERM);
        let end = Instant::now() + patience;
        while self.exited().is_none() {
            if Instant::now() > end {
                return self.kill();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Polls `ready` until it returns a value. Fails with the end of the log if the process ends
    /// or the time is over.
    pub fn wait_until<T>(&mut self, what: &str, patience: Duration, mut ready: impl FnMut() -> Option<T>) -> Result<T> {
        let end = Instant::now() + patience;
        let mut nap = Duration::from_millis(2);
        loop {
            if let Some(value) = ready() {
                return Ok(value);
            }
            if let Some(status) = self.exited() {
                bail!("{} ended ({status}) before {what}; its log ends:\n{}", self.name, self.log_tail(30));
            }
            if Instant::now() > end {
                bail!("{}: no {what} within {patience:?}; its log ends:\n{}", self.name, self.log_tail(30));
            }
            std::thread::sleep(nap);
            nap = (nap * 2).min(Duration::from_millis(50));
        }
    }

    /// Returns the CPU time, user and system, of all threads.
    pub fn cpu_time(&self) -> Result<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid()))?;
        // The command's name, in parentheses, may hold spaces; the fields behind it don't.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks: u64 = [11, 12].iter().filter_map(|&i| fields.get(i)?.parse::<u64>().ok()).sum();
        // SAFETY: sysconf has no preconditions.
        let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) }.max(1) as u64;
        Ok(Duration::from_nanos(ticks * (1_000_000_000 / per_second)))
    }

    /// CPU time by the scheduler's own count (nanoseconds), summed over the living threads; finer
    /// than [`Process::cpu_time`], whose unit is 10 ms.
    pub fn cpu_time_fine(&self) -> Result<Duration> {
        let mut total = 0;
        for task in std::fs::read_dir(format!("/proc/{}/task", self.pid()))?.flatten() {
            let text = std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
            total += text.split_whitespace().next().and_then(|t| t.parse::<u64>().ok()).unwrap_or(0);
        }
        Ok(Duration::from_nanos(total))
    }

    /// Returns the resident memory in bytes.
    pub fn resident_memory(&self) -> Result<u64> {
        status_kib(self.pid(), "VmRSS:")
    }

    /// Returns the highest resident memory so far, in bytes.
    pub fn peak_memory(&self) -> Result<u64> {
        status_kib(self.pid(), "VmHWM:")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn status_kib(pid: u32, field: &str) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)).context("no such field in /proc/status")?;
    Ok(line.split_whitespace().next().unwrap_or("0").parse::<u64>()? * 1024)
}

/// Polls `ready` until it returns true. Fails, naming `what`, if the time is over.
pub fn wait_until(what: &str, patience: Duration, mut ready: impl FnMut() -> bool) -> Result<()> {
    let end = Instant::now() + patience;
    while !ready() {
        if Instant::now() > end {
            bail!("no {what} within {patience:?}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

static LIVING: Mutex<Vec<u32>> = Mutex::new(Vec::new());

fn living() -> MutexGuard<'static, Vec<u32>> {
    LIVING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs when this process exits. What statics hold isn't dropped then; PR_SET_PDEATHSIG would end
/// these children too, but leave their remains to process 1, which in many a container collects
/// nothing.
extern "C" fn end_all() {
    let Ok(mut living) = LIVING.try_lock() else { return };
    for pid in living.drain(..) {
        let pid = pid as libc::pid_t;
        // SAFETY: waitpid with a null status only says whether this is still a child of ours; then
        // its id is its own.
        unsafe {
            if libc::waitpid(pid, std::ptr::null_mut(), libc::WNOHANG) == 0 {
                libc::kill(pid, libc::SIGKILL);
                libc::waitpid(pid, std::ptr::null_mut(), 0);
            }
        }
    }
}

type Request = (Command, mpsc::Sender<std::io::Result<Child>>);

/// Spawns in a thread that lives as long as this process: PR_SET_PDEATHSIG fires when the *thread*
/// that forked ends, and a test's thread ends long before the servers that several tests share.
fn spawn(command: Command) -> Result<Child> {
    static SPAWNER: OnceLock<mpsc::Sender<Request>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, receiver) = mpsc::channel::<Request>();
        // SAFETY: the handler is a plain function that lives as long as the process.
        unsafe { libc::atexit(end_all) };
        std::thread::spawn(move || {
            for (mut command, answer) in receiver {
                // SAFETY: the closure runs between fork and exec and calls async-signal-safe
                // functions only.
                unsafe {
                    command.pre_exec(|| {
                        // A Ctrl-C in the terminal is for this process, which then ends its
                        // children in order.
                        libc::setpgid(0, 0);
                        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                        let mut none: libc::sigset_t = std::mem::zeroed();
                        libc::sigemptyset(&mut none);
                        libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
                        Ok(())
                    });
                }
                let _ = answer.send(command.spawn());
            }
        });
        sender
    });
    let (sender, receiver) = mpsc::channel();
    spawner.send((command, sender)).ok().context("the spawning thread is gone")?;
    let child = receiver.recv().context("the spawning thread is gone")??;
    living().push(child.id());
    Ok(child)
}
