//! Named network namespaces (`ip netns`), and programs and connections inside of them.

use std::ffi::OsStr;
use std::fs::File;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

/// The name of a network namespace. This type neither creates nor removes it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Namespace(String);

impl Namespace {
    /// Names a namespace.
    pub fn named(name: impl Into<String>) -> Namespace {
        Namespace(name.into())
    }

    /// The name, as `ip netns` lists it.
    pub fn name(&self) -> &str {
        &self.0
    }

    /// The file through which the namespace is entered.
    pub fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.0)
    }

    /// A command to be run in it, with its own `/etc/hosts` and the like from `/etc/netns`. `ip`
    /// becomes the program by exec, so that the child's id is the program's.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0]).arg(program);
        command
    }

    /// Moves the calling thread, and everything that it starts afterwards, into the namespace.
    pub fn enter(&self) -> Result<()> {
        let file = File::open(self.path()).with_context(|| format!("there is no network namespace {}", self.0))?;
        // SAFETY: the descriptor is open for the time of the call.
        if unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) } != 0 {
            bail!("can't enter the network namespace {}: {}", self.0, std::io::Error::last_os_error());
        }
        Ok(())
    }

    /// Runs a task inside the namespace, in a thread of its own. Sockets that the task opens stay
    /// in the namespace.
    pub fn within<T: Send>(&self, task: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.enter()?;
                task()
            });
            thread.join().map_err(|_| anyhow!("a task in the network namespace {} panicked", self.0))?
        })
    }

    /// Connects from inside the namespace.
    pub fn connect(&self, addr: SocketAddr, patience: Duration) -> Result<TcpStream> {
        self.within(|| Ok(TcpStream::connect_timeout(&addr, patience)?))
            .with_context(|| format!("can't connect to {addr} from {}", self.0))
    }
}
