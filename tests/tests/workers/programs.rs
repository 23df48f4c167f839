//! The programs of `tests/clients` that run while Redis comes and goes, and what became of them.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use redis_mesh_tests::client_library::Library;
use redis_mesh_tests::process::Process;
use redis_mesh_tests::workspace;

/// What a program is written in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Language {
    Python,
    JavaScript,
    Go,
    Java,
    Ruby,
    Rust,
}

use Language::{Go, Java, JavaScript, Python, Ruby, Rust};

/// What a program does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Role {
    /// It does jobs. At most this many of them may be lost with a connection: what the library has
    /// taken from its queue and not confirmed, such as the answer to a BRPOP that was under way.
    Worker {
        may_lose: usize,
    },
    Subscriber,
}

use Role::{Subscriber, Worker};

/// A program that runs until it is ended.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    pub name: &'static str,
    language: Language,
    role: Role,
    /// Whether the keys of one of its transactions or scripts are of one slot.
    pub fits_a_cluster: bool,
}

const fn program(name: &'static str, language: Language, role: Role, fits_a_cluster: bool) -> Program {
    Program { name, language, role, fits_a_cluster }
}

pub const PROGRAMS: [Program; 16] = [
    // A job is noted as taken only after the BRPOP that has taken it.
    program("celery", Python, Worker { may_lose: 1 }, true),
    program("rq", Python, Worker { may_lose: 1 }, false),
    program("dramatiq", Python, Worker { may_lose: 2 }, true),
    program("huey", Python, Worker { may_lose: 1 }, false),
    program("bullmq", JavaScript, Worker { may_lose: 0 }, true),
    program("asynq", Go, Worker { may_lose: 2 }, true),
    program("sidekiq", Ruby, Worker { may_lose: 1 }, false),
    program("redis-py", Python, Subscriber, true),
    program("node-redis", JavaScript, Subscriber, true),
    program("ioredis", JavaScript, Subscriber, true),
    program("go-redis", Go, Subscriber, true),
    program("rueidis", Go, Subscriber, true),
    program("lettuce", Java, Subscriber, true),
    program("jedis", Java, Subscriber, true),
    program("redisson", Java, Subscriber, true),
    program("redis-rs", Rust, Subscriber, true),
];

/// A library that sets, gets and pipelines.
#[derive(Clone, Copy, Debug)]
pub struct Greeter {
    pub name: &'static str,
    language: Language,
}

const fn greeter(name: &'static str, language: Language) -> Greeter {
    Greeter { name, language }
}

pub const GREETERS: [Greeter; 10] = [
    greeter("redis-py", Python),
    greeter("node-redis", JavaScript),
    greeter("ioredis", JavaScript),
    greeter("go-redis", Go),
    greeter("rueidis", Go),
    greeter("lettuce", Java),
    greeter("jedis", Java),
    greeter("redisson", Java),
    greeter("redis-rb", Ruby),
    greeter("redis-rs", Rust),
];

impl Greeter {
    /// Returns what came of it. `None` if this machine can't run it.
    pub fn greet(&self, text: &str, at: SocketAddr) -> Result<Option<Result<()>>> {
        if self.language == Rust {
            return Ok(Some(greet_in_rust(text, at)));
        }
        let Some(library) = library(self.language)? else { return Ok(None) };
        let args = [format!("{}-greet", self.name), at.ip().to_string(), at.port().to_string(), text.to_owned()];
        Ok(Some(library.run(&args).and_then(|output| {
            ensure!(output.contains(&format!("said {text}\n")), "{output}");
            Ok(())
        })))
    }
}

/// Returns the programs in a language. `None` if this machine can't run them.
fn library(language: Language) -> Result<Option<Library>> {
    let library = match language {
        Python => Some(Library::python("worker.py")?),
        JavaScript => Some(Library::javascript("worker.js")?),
        Go => Library::go("worker")?,
        Java => Library::java("Programs.java")?,
        Ruby => Library::ruby("worker.rb")?,
        Rust => None,
    };
    if library.is_none() {
        workspace::progress(&format!("this machine has no {language:?}: what needs it is left out"));
    }
    Ok(library)
}

/// A running program.
pub struct Running {
    program: Program,
    life: Life,
    /// The jobs whose taking the server has confirmed.
    given: Vec<String>,
    /// When the last text was heard, or the last jobs were done, since that began.
    after: Option<Duration>,
}

/// Where a program runs.
enum Life {
    Process { library: Library, process: Process },
    Thread { said: Arc<Mutex<String>>, over: Arc<AtomicBool> },
}

impl Drop for Life {
    fn drop(&mut self) {
        if let Life::Thread { over, .. } = self {
            over.store(true, Ordering::Relaxed);
        }
    }
}

impl Running {
    /// Starts a program. `None` if this machine can't run it.
    pub fn start(program: &Program, at: SocketAddr) -> Result<Option<Running>> {
        let life = if program.language == Rust {
            let (said, over) = (Arc::new(Mutex::new(String::new())), Arc::new(AtomicBool::new(false)));
            let (into, until) = (said.clone(), over.clone());
            std::thread::spawn(move || hear_in_rust(at, &into, &until));
            Life::Thread { said, over }
        } else {
            let Some(library) = library(program.language)? else { return Ok(None) };
            let does = if program.role == Subscriber { "hear" } else { "work" };
            let what = format!("{}-{does}", program.name);
            let process = library.start(&[what, at.ip().to_string(), at.port().to_string()])?;
            Life::Process { library, process }
        };
        Ok(Some(Running { program: *program, life, given: Vec::new(), after: None }))
    }

    pub fn name(&self) -> &'static str {
        self.program.name
    }

    pub fn works(&self) -> bool {
        self.program.role != Subscriber
    }

    fn log(&self) -> String {
        match &self.life {
            Life::Process { process, .. } => process.log_text(),
            Life::Thread { said, .. } => said.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// Gives a worker jobs, with a client of the same library.
    pub fn give(&mut self, text: &str, count: usize, at: SocketAddr) -> Result<()> {
        let Life::Process { library, .. } = &self.life else { bail!("{} takes no jobs", self.program.name) };
        let what = format!("{}-give", self.program.name);
        let args = [what, at.ip().to_string(), at.port().to_string(), text.to_owned(), count.to_string()];
        library.run(&args).with_context(|| format!("jobs for {}", self.program.name))?;
        self.given.extend((0..count).map(|number| format!("{text}-{number}")));
        self.after = None;
        Ok(())
    }

    /// Returns what was said, in order.
    fn said(&self) -> Vec<String> {
        self.log().lines().filter_map(|line| line.strip_prefix("said ")).map(str::to_owned).collect()
    }

    /// Returns whether the first text was said.
    pub fn has_begun(&self, text: &str) -> bool {
        let first = if self.works() { format!("{text}-0") } else { text.to_owned() };
        self.said().contains(&first)
    }

    /// Returns how many of the jobs aren't done.
    fn lost(&self) -> usize {
        let said: BTreeSet<String> = self.said().into_iter().collect();
        self.given.iter().filter(|job| !said.contains(*job)).count()
    }

    /// Returns whether there is nothing to wait for: a subscriber has heard this, a worker has done
    /// this and all jobs, or but for those that it may lose, if `settled`; or it has ended. Notes
    /// when that was first so.
    pub fn is_done(&mut self, text: &str, begun: Instant, settled: bool) -> bool {
        if self.has_begun(text) && self.after.is_none() {
            self.after = Some(begun.elapsed());
        }
        if let Life::Process { process, .. } = &mut self.life
            && process.exited().is_some()
        {
            return true;
        }
        match self.program.role {
            Subscriber => self.has_begun(text),
            Worker { may_lose } => self.has_begun(text) && self.lost() <= if settled { may_lose } else { 0 },
        }
    }

    /// Returns what became of it.
    pub fn outcome(&mut self, text: &str) -> Outcome {
        let ended = match &mut self.life {
            Life::Process { process, .. } => process.exited().map(|status| status.to_string()),
            Life::Thread { .. } => None,
        };
        let (said, lost) = (self.said(), self.lost());
        let distinct: BTreeSet<&String> = said.iter().collect();
        let (role, name) = (self.program.role, self.program.name);
        let twice = if self.works() { said.len() - distinct.len() } else { 0 };
        let after = self.after.filter(|_| self.has_begun(text));
        Outcome { name, role, ended, after, given: self.given.len(), lost, twice, log: self.log_tail() }
    }
}

/// What became of a program.
pub struct Outcome {
    pub name: &'static str,
    role: Role,
    /// The exit status, if it has ended.
    ended: Option<String>,
    /// The time from the end of the disturbance until it went on. `None`: it didn't.
    after: Option<Duration>,
    given: usize,
    lost: usize,
    /// The number of jobs that were done more than once, which at-least-once allows.
    twice: usize,
    /// The end of its log.
    pub log: String,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:12}", self.name)?;
        match (&self.ended, self.after) {
            (Some(status), _) => write!(f, " has ended ({status})")?,
            (None, Some(after)) => write!(f, " goes on after {:4.1} s", after.as_secs_f64())?,
            (None, None) => write!(f, " doesn't go on")?,
        }
        match self.role {
            Subscriber => Ok(()),
            Worker { .. } => write!(f, "; of {} jobs lost {}, done again {}", self.given, self.lost, self.twice),
        }
    }
}

impl Outcome {
    /// Returns what is wrong and isn't so without a proxy, too.
    pub fn fault(&self, reference: Option<&Outcome>) -> Option<String> {
        let stopped = |one: &Outcome| one.ended.is_some() || one.after.is_none();
        let may_lose = if let Worker { may_lose } = self.role { may_lose } else { 0 };
        let may_lose = may_lose.max(reference.map_or(0, |one| one.lost));
        let bad = (stopped(self) && !reference.is_some_and(stopped)) || self.lost > may_lose;
        bad.then(|| self.to_string())
    }
}

/// A subscriber with redis-rs, which leaves it to the application to subscribe again.
fn hear_in_rust(at: SocketAddr, said: &Mutex<String>, over: &AtomicBool) {
    let note = |text: &str| said.lock().unwrap_or_else(PoisonError::into_inner).push_str(text);
    let hear = || -> redis::RedisResult<()> {
        let mut connection =
            redis::Client::open(format!("redis://{at}/"))?.get_connection_with_timeout(Duration::from_secs(1))?;
        let mut subscriber = connection.as_pubsub();
        subscriber.set_read_timeout(Some(Duration::from_millis(500)))?;
        subscriber.subscribe("news")?;
        while !over.load(Ordering::Relaxed) {
            match subscriber.get_message() {
                Ok(message) => note(&format!("said {}\n", message.get_payload::<String>()?)),
                Err(error) if error.is_timeout() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    };
    while !over.load(Ordering::Relaxed) {
        if let Err(error) = hear() {
            note(&format!("{error}\n"));
            sleep(Duration::from_millis(200));
        }
    }
}

fn greet_in_rust(text: &str, at: SocketAddr) -> Result<()> {
    use redis::Commands;

    // redis-rs doesn't go back to RESP2 by itself, and begins with it unless it is told otherwise.
    let mut connection = redis::Client::open(format!("redis://{at}/"))?.get_connection()?;
    let _: () = connection.set("greeting", text)?;
    let found: String = connection.get("greeting")?;
    let both: [String; 2] = redis::pipe().get("greeting").get("greeting").query(&mut connection)?;
    ensure!(found == text && both == [text, text], "{found:?}, {both:?}");
    Ok(())
}
