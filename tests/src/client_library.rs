//! Real client libraries in other languages, fetched once, and the scripts of `tests/clients` that
//! use them.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::process::Process;
use crate::{cache, wheel, workspace};

/// The time that a script may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A script or program of `tests/clients` with the interpreter and the packages that it needs.
#[derive(Clone, Debug)]
pub struct Library {
    program: PathBuf,
    args: Vec<PathBuf>,
    environment: Vec<(&'static str, PathBuf)>,
}

impl Library {
    /// A Python script with the packages of `tests/clients/python/requirements.txt`.
    pub fn python(script: &str) -> Result<Library> {
        let packages =
            cache::made_of(&clients().join("python"), "python-clients", &["requirements.txt"], |from, to| {
                workspace::progress("getting the Redis clients for Python (PyPI: redis, celery, rq, dramatiq, huey)");
                let mut pip = Command::new("python3");
                pip.args(["-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--no-deps", "--quiet"]);
                pip.arg("--target").arg(to).arg("-r").arg(from.join("requirements.txt"));
                finished(pip, "pip, which fetches the Redis clients for Python")
            })?;
        Ok(Library {
            program: "python3".into(),
            args: vec![clients().join("python").join(script)],
            environment: vec![("PYTHONPATH", packages), ("PYTHONDONTWRITEBYTECODE", "1".into())],
        })
    }

    /// pytest with the test suite of redis-py itself, of the version in
    /// `tests/clients/python/requirements.txt`, and where it lies.
    pub fn redis_py_suite() -> Result<(Library, PathBuf)> {
        let made = cache::made_of(
            &clients().join("python"),
            "redis-py-suite",
            &["requirements.txt", "suite/requirements.txt"],
            |from, to| {
                workspace::progress("getting redis-py's own test suite (PyPI: redis, pytest)");
                let wanted = std::fs::read_to_string(from.join("requirements.txt"))?;
                let redis = wanted.lines().find(|line| line.starts_with("redis==")).context("no redis among them")?;
                let pip = |words: &[&str]| {
                    let mut pip = Command::new("python3");
                    pip.args([
                        "-m",
                        "pip",
                        words[0],
                        "--disable-pip-version-check",
                        "--no-input",
                        "--no-deps",
                        "--quiet",
                    ]);
                    pip.args(&words[1..]);
                    pip
                };
                let mut install = pip(&["install", "--target"]);
                install.arg(to.join("packages")).arg("-r").arg(from.join("suite/requirements.txt"));
                finished(install, "pip, which fetches pytest")?;
                // A wheel has no tests.
                let mut download = pip(&["download", "--no-binary", "redis", redis, "--dest"]);
                download.arg(to);
                finished(download, "pip, which fetches redis-py's sources")?;
                let mut tar = Command::new("tar");
                tar.arg("-xzf").arg(to.join(format!("{}.tar.gz", redis.replace("==", "-")))).arg("-C").arg(to);
                finished(tar, "tar")?;
                Ok(std::fs::rename(to.join(redis.replace("==", "-")), to.join("redis-py"))?)
            },
        )?;
        let path = [made.join("redis-py"), made.join("packages"), clients().join("python/suite")];
        let path = std::env::join_paths(path)?.into();
        let environment = vec![("PYTHONPATH", path), ("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1".into())];
        let args = vec!["-m".into(), "pytest".into()];
        Ok((Library { program: "python3".into(), args, environment }, made.join("redis-py")))
    }

    /// Adds a variable to the environment.
    pub fn with(mut self, name: &'static str, value: impl Into<PathBuf>) -> Library {
        self.environment.push((name, value.into()));
        self
    }

    /// A script for Node.js with the packages of `tests/clients/javascript/package-lock.json`.
    pub fn javascript(script: &str) -> Result<Library> {
        let packages =
            cache::made_of(&clients().join("javascript"), "node-clients", &["package-lock.json"], |from, to| {
                workspace::progress("getting the Redis clients for Node.js (npm: redis, ioredis, bullmq)");
                std::fs::create_dir_all(to)?;
                for file in ["package.json", "package-lock.json"] {
                    std::fs::copy(from.join(file), to.join(file))?;
                }
                let mut npm = Command::new("npm");
                // Not `ci`: what is optional is native code for machines of other kinds, which not
                // every registry has.
                npm.args(["install", "--no-save", "--omit=optional", "--ignore-scripts"]).current_dir(to);
                npm.args(["--no-audit", "--no-fund", "--loglevel=error"]);
                npm.arg("--cache").arg(cache::dir()?.join("npm"));
                finished(npm, "npm, which fetches the Redis clients for Node.js")
            })?;
        Ok(Library {
            program: "node".into(),
            args: vec![clients().join("javascript").join(script)],
            environment: vec![("NODE_PATH", packages.join("node_modules"))],
        })
    }

    /// A Go program of `tests/clients/go`, by its directory there. `None` if this machine has no
    /// Go.
    pub fn go(program: &str) -> Result<Option<Library>> {
        let Some(go) = wheel::on_path("go") else { return Ok(None) };
        let files = ["go.sum", &format!("{program}/main.go")];
        let made = cache::made_of(&clients().join("go"), &format!("go-{program}"), &files, |from, to| {
            workspace::progress(&format!("building a program in Go: {program}"));
            std::fs::create_dir_all(to)?;
            let mut build = Command::new(&go);
            build
                .args(["build", "-modcacherw", "-o"])
                .arg(to.join(program))
                .arg(format!("./{program}"))
                .current_dir(from);
            build.envs(cache::go_environment()?);
            finished(build, "go")
        })?;
        Ok(Some(Library { program: made.join(program), args: Vec::new(), environment: Vec::new() }))
    }

    /// A Java program of one file with the libraries of `tests/clients/java/jars.txt` and, if that
    /// exists, of the list that is named after the program. `None` if this machine has no JDK.
    pub fn java(file: &str) -> Result<Option<Library>> {
        let (Some(java), Some(javac)) = (wheel::on_path("java"), wheel::on_path("javac")) else { return Ok(None) };
        let own = file.replace(".java", ".jars.txt");
        let lists: Vec<&str> =
            ["jars.txt", &own].into_iter().filter(|list| clients().join("java").join(list).exists()).collect();
        let files = [lists.as_slice(), &[file]].concat();
        let made = cache::made_of(&clients().join("java"), "java-clients", &files, |from, to| {
            workspace::progress("getting Redis clients for Java (Maven Central: lettuce, jedis, redisson)");
            std::fs::create_dir_all(to.join("jars"))?;
            for list in &lists {
                let mut get = Command::new("python3");
                get.arg(from.join("jars.py")).arg(from.join(list)).arg(to.join("jars"));
                finished(get, "python3, which fetches Redis clients for Java")?;
            }
            let mut compile = Command::new(&javac);
            compile.arg("-cp").arg(to.join("jars/*")).arg("-d").arg(to.join("classes")).arg(from.join(file));
            finished(compile, "javac")
        })?;
        let path = std::env::join_paths([made.join("jars/*"), made.join("classes")])?.into();
        let args = vec!["-XX:TieredStopAtLevel=1".into(), "-cp".into(), path, file.trim_end_matches(".java").into()];
        Ok(Some(Library { program: java, args, environment: Vec::new() }))
    }

    /// A Ruby script with the libraries of Debian's package `ruby-sidekiq`. `None` if this machine
    /// doesn't have them.
    pub fn ruby(script: &str) -> Result<Option<Library>> {
        let Some(ruby) = wheel::on_path("ruby") else { return Ok(None) };
        let mut needs = Command::new(&ruby);
        needs.args(["-e", "require 'sidekiq'"]);
        if finished(needs, "ruby").is_err() {
            return Ok(None);
        }
        let args = vec![clients().join("ruby").join(script)];
        Ok(Some(Library { program: ruby, args, environment: Vec::new() }))
    }

    /// Runs the program and returns its output. Fails with the output if the exit status isn't 0.
    pub fn run<S: AsRef<OsStr>>(&self, args: &[S]) -> Result<String> {
        let (ended, text) = self.run_for(args, PATIENCE)?;
        if !ended.success() {
            bail!("{}: {ended}\n{text}", self.program.display());
        }
        Ok(text)
    }

    /// Starts the program, which runs until the process is dropped.
    pub fn start<S: AsRef<OsStr>>(&self, args: &[S]) -> Result<Process> {
        let mut command = Command::new(&self.program);
        command.args(&self.args).args(args).envs(self.environment.iter().map(|(name, value)| (name, value)));
        let log = workspace::scratch("client")?.join("output");
        Process::start(&self.program.display().to_string(), command, &log)
    }

    /// Runs the program for at most this time and returns its exit status and its output.
    pub fn run_for<S: AsRef<OsStr>>(&self, args: &[S], patience: Duration) -> Result<(ExitStatus, String)> {
        let mut process = self.start(args)?;
        let end = Instant::now() + patience;
        loop {
            match process.exited() {
                Some(status) => return Ok((status, process.log_text())),
                None if Instant::now() > end => {
                    bail!("{} isn't done after {patience:?}\n{}", process.name(), process.log_text())
                }
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }
}

/// The directory of the scripts.
fn clients() -> PathBuf {
    workspace::root().join("tests/clients")
}

fn finished(mut command: Command, what: &str) -> Result<()> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("can't start {what}"))?;
    if !output.status.success() {
        bail!("{what} failed: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr).trim_end());
    }
    Ok(())
}
