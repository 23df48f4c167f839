//! `cargo demo`: runs every example on a real Envoy, a real Redis and a real Redis Cluster. It
//! needs only a checkout.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use redis_mesh_tests::envoy::Envoy;
use redis_mesh_tests::net::{self, Subnet};
use redis_mesh_tests::stage::{PASSWORD, SERVERS, SERVICES, Stage};
use redis_mesh_tests::walkthrough::{Walkthrough, examples};
use redis_mesh_tests::{cli, command_line};

const HELP: &str = "\
Runs every example of redis-mesh on this machine. It fetches Envoy (and Valkey if no Redis is installed),
builds the filter and the command line, starts one Redis with a password and a Redis Cluster of six
nodes on loopback addresses, and runs the commands of the READMEs in examples/ one after the other.
At the end one Envoy keeps running until Ctrl-C, so that you can connect to it.

Usage: cargo demo [OPTIONS] [EXAMPLE]...

Arguments:
  [EXAMPLE]...  Run only these, such as prefix-routing

Options:
  --exit        Exit after the last example: with 0 if all results are those of the READMEs, else with 1
  --servers     Only start the servers, so that you can type the examples' commands
  -h, --help    Print this

Nothing is installed outside of the checkout: tools are kept in .cache ($REDIS_MESH_CACHE), files
of the run in the directory for temporary files. $REDIS_MESH_ENVOY and $REDIS_MESH_REDIS are paths of
programs that replace the fetched or installed ones.
";

/// The combination that stays at the end, as arguments of `redis-mesh`.
const FINALE: &[&str] = &["services.yaml", "upstream-auth", "client-auth", "cluster", "prefix-routing"];

#[derive(Default)]
struct Arguments {
    exit: bool,
    servers: bool,
    only: Vec<String>,
}

fn main() -> ExitCode {
    command_line::main(HELP, arguments(), |arguments| {
        Ok(if run(&arguments)? { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    })
}

fn arguments() -> Result<Option<Arguments>> {
    let mut arguments = Arguments::default();
    let known = examples()?;
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "-h" | "--help" => return Ok(None),
            "--exit" => arguments.exit = true,
            "--servers" => arguments.servers = true,
            flag if flag.starts_with('-') => bail!("there is no option {flag}"),
            name => {
                // The way the shell completes it.
                let name = name.trim_start_matches("examples/").trim_end_matches('/').to_string();
                if !known.contains(&name) {
                    bail!("there is no example {name}; there are {}", known.join(", "));
                }
                arguments.only.push(name);
            }
        }
    }
    Ok(Some(arguments))
}

fn run(arguments: &Arguments) -> Result<bool> {
    let interrupt = Interrupt::catch();
    let (services, servers) = subnets()?;
    let stage = Stage::on(services, servers)?;
    if arguments.servers {
        tell_servers(&stage);
        interrupt.wait();
        return Ok(true);
    }

    let mut out = Painter::new();
    let mut failed = Vec::new();
    let chosen = if arguments.only.is_empty() { examples()? } else { arguments.only.clone() };
    for name in &chosen {
        let walkthrough = Walkthrough::read(name, &stage)?;
        out.heading(&format!("{}  (examples/{name})", walkthrough.title))?;
        for manifest in &walkthrough.manifests {
            out.manifest(manifest)?;
        }
        stage.forget()?;
        if let Err(error) = walkthrough.perform(&stage, None, &mut out) {
            out.flush()?;
            eprintln!("\nerror: {error:#}");
            failed.push(name.as_str());
        }
    }
    println!();
    match failed.as_slice() {
        [] => println!("All {} examples went as their READMEs say.", chosen.len()),
        _ => println!("{} of {} examples failed: {}", failed.len(), chosen.len(), failed.join(", ")),
    }
    if !arguments.exit {
        stage.forget()?;
        let envoy = finale(&stage)?;
        tell_finale(&stage, &envoy);
        interrupt.wait();
        println!();
    }
    Ok(failed.is_empty())
}

/// The subnets that the examples name, or else others.
fn subnets() -> Result<(Subnet, Subnet)> {
    if net::redis_port()? != 6379 {
        eprintln!("Port 6379 is taken on all addresses of this machine; the demo uses {}.", net::redis_port()?);
    }
    if let (Some(services), Some(servers)) = (Subnet::try_claim(0, 0, SERVICES)?, Subnet::try_claim(0, 1, SERVERS)?) {
        return Ok((services, servers));
    }
    let (services, servers) = (Subnet::claim()?, Subnet::claim()?);
    eprintln!(
        "Something listens on addresses that the examples name (another demo?), so this one uses {}x in place of \
         127.0.0.x and {}x in place of 127.0.1.x.",
        services.prefix(),
        servers.prefix()
    );
    Ok((services, servers))
}

/// Envoy with the manifests of [`FINALE`].
fn finale(stage: &Stage) -> Result<Envoy> {
    let mut arguments = vec!["render".to_string(), "envoy".to_string()];
    for input in FINALE {
        arguments.extend(["-f".to_string(), format!("examples/{input}")]);
    }
    let output = cli::run_binary(&stage.bin().join("redis-mesh"), stage.dir(), &arguments)?.success()?;
    let envoy = Envoy::start(&output.stdout).context("starting the Envoy that stays")?;
    envoy.wait_discovered(std::time::Duration::from_secs(5))?;
    Ok(envoy)
}

fn tell_finale(stage: &Stage, envoy: &Envoy) {
    let port = match stage.services.port() {
        6379 => String::new(),
        port => format!(" -p {port}"),
    };
    let (single, cluster) = (stage.services.ip(21), stage.services.ip(22));
    println!(
        "
One Envoy stays, with prefix routing, a Redis Cluster that looks like one Redis, and passwords on either side:

  redis-cli -h {cluster}{port}      keys that begin with \"cluster\" go to the cluster, all others to the single Redis
  redis-cli -h {single}{port}      the single Redis; first: AUTH testredis123!

  servers: {}:{} (password {PASSWORD}); {}.31 to .36
  Envoy's admin page: http://{}/   its log: {}

Ctrl-C ends everything.",
        stage.servers.ip(21),
        stage.servers.port(),
        stage.servers.prefix().trim_end_matches('.'),
        envoy.admin(),
        envoy.process().log().display(),
    );
}

fn tell_servers(stage: &Stage) {
    println!(
        "
The servers of the examples are up. To type the commands of their READMEs, in other terminals:

  export PATH={}:$PATH
  cd {}

Ctrl-C ends everything.",
        stage.bin().display(),
        stage.dir().display()
    );
}

/// Ctrl-C and SIGTERM. While something is under way they end this process, and with it all
/// children; while it waits for them, they end the wait.
struct Interrupt {
    waiting: Arc<Mutex<bool>>,
    receiver: Receiver<()>,
}

impl Interrupt {
    fn catch() -> Interrupt {
        let (sender, receiver) = channel();
        let waiting = Arc::new(Mutex::new(false));
        let flag = waiting.clone();
        // SAFETY: the set is initialised by sigemptyset before it is used; blocking signals in the
        // first thread before any other exists makes all of them block these.
        let set = unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&mut set);
            libc::sigaddset(&mut set, libc::SIGINT);
            libc::sigaddset(&mut set, libc::SIGTERM);
            libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
            set
        };
        std::thread::spawn(move || {
            loop {
                let mut signal = 0;
                // SAFETY: both pointers are to living values.
                unsafe { libc::sigwait(&set, &mut signal) };
                if !*flag.lock().unwrap_or_else(PoisonError::into_inner) {
                    eprintln!();
                    std::process::exit(128 + signal);
                }
                let _ = sender.send(());
            }
        });
        Interrupt { waiting, receiver }
    }

    fn wait(&self) {
        let _ = io::stdout().flush();
        *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) = true;
        let _ = self.receiver.recv();
    }
}

/// Stdout with what is typed in bold, where it is a terminal.
struct Painter {
    color: bool,
    line: Vec<u8>,
}

impl Painter {
    fn new() -> Painter {
        let color = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Painter { color, line: Vec::new() }
    }

    fn style(&self, code: &str, text: &str) -> String {
        if self.color { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }

    fn heading(&mut self, title: &str) -> io::Result<()> {
        let line = "─".repeat(title.chars().count());
        writeln!(io::stdout(), "\n{}\n{line}", self.style("1", title))
    }

    /// The objects of a manifest; those that the example is about with their spec.
    fn manifest(&mut self, manifest: &str) -> io::Result<()> {
        for object in manifest.split("---\n") {
            let field = |name: &str| object.lines().find_map(|line| line.trim_start().strip_prefix(name)).unwrap_or("");
            let kind = field("kind: ");
            writeln!(io::stdout(), "{}", self.style("36", &format!("{kind} {}", field("name: "))))?;
            let spec = object.lines().skip_while(|line| *line != "spec:").skip(1);
            for line in spec.take_while(|_| kind.starts_with("Redis")) {
                writeln!(io::stdout(), "{}", self.style("2", line))?;
            }
        }
        writeln!(io::stdout())
    }
}

impl Write for Painter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for &byte in bytes {
            if byte != b'\n' {
                self.line.push(byte);
                continue;
            }
            let line = String::from_utf8_lossy(&self.line).into_owned();
            let typed = line.starts_with("$ ") || line.starts_with("127.") && line.contains("> ");
            let line = if typed { self.style("1", &line) } else { line };
            writeln!(io::stdout(), "{line}")?;
            self.line.clear();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stdout().flush()
    }
}
