//! The README of an example as a test: its commands are run and their output is compared with what
//! it shows.
//!
//! The notation is described in `examples/README.md`.

use std::ffi::OsStr;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::client::Client;
use crate::envoy::{Envoy, Options};
use crate::reply::Reply;
use crate::stage::Stage;
use crate::{cli, line, workspace};

/// The parsed README of an example.
#[derive(Debug)]
pub struct Walkthrough {
    /// The example's folder, such as `prefix-routing`.
    pub name: String,
    /// The heading of the README.
    pub title: String,
    /// The `yaml` blocks of the README.
    pub manifests: Vec<String>,
    blocks: Vec<Block>,
}

#[derive(Debug)]
struct Block {
    mode: Mode,
    steps: Vec<Step>,
}

/// The kind of a block: the word behind `console`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Exact,
    Random,
    Eventually,
}

#[derive(Debug)]
struct Step {
    /// The line number in the README.
    number: usize,
    /// The line, including the prompt.
    shown: String,
    input: Input,
    answer: Vec<String>,
}

#[derive(Debug)]
enum Input {
    Shell(String),
    Redis(String),
}

impl Walkthrough {
    /// Reads the README of an example, with the addresses of a stage.
    pub fn read(name: &str, stage: &Stage) -> Result<Walkthrough> {
        let path = workspace::root().join("examples").join(name).join("README.md");
        let text = std::fs::read_to_string(&path).with_context(|| format!("can't read {}", path.display()))?;
        Walkthrough::parse(name, &stage.text(&text))
    }

    fn parse(name: &str, text: &str) -> Result<Walkthrough> {
        let mut walkthrough =
            Walkthrough { name: name.to_string(), title: String::new(), manifests: Vec::new(), blocks: Vec::new() };
        let mut lines = text.lines().enumerate();
        while let Some((_, line)) = lines.next() {
            if let Some(title) = line.strip_prefix("# ") {
                walkthrough.title = title.to_string();
            }
            let Some(info) = line.strip_prefix("```") else { continue };
            let body: Vec<(usize, &str)> = lines.by_ref().take_while(|(_, line)| *line != "```").collect();
            let mode = match info {
                "yaml" => {
                    walkthrough.manifests.push(body.iter().map(|(_, line)| format!("{line}\n")).collect());
                    continue;
                }
                "console" => Mode::Exact,
                "console random" => Mode::Random,
                "console eventually" => Mode::Eventually,
                other if other.starts_with("console") => bail!("examples/{name}/README.md: unknown block {other:?}"),
                _ => continue,
            };
            let steps = steps(&body).with_context(|| format!("examples/{name}/README.md"))?;
            walkthrough.blocks.push(Block { mode, steps });
        }
        Ok(walkthrough)
    }

    /// Fails if a `yaml` block isn't the content of one of the example's files.
    pub fn check_manifests(&self, stage: &Stage) -> Result<()> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(stage.dir().join("examples").join(&self.name))?.flatten() {
            if entry.path().extension().is_some_and(|extension| extension == "yaml") {
                files.push(std::fs::read_to_string(entry.path())?);
            }
        }
        for manifest in &self.manifests {
            if !files.contains(manifest) {
                bail!("examples/{}/README.md shows a manifest that is none of the files:\n{manifest}", self.name);
            }
        }
        Ok(())
    }

    /// Runs all commands and writes them and their output to `out`. If there is a module, it is
    /// passed to every `redis-mesh render envoy`. Returns the Envoy that was started last, still
    /// running.
    pub fn perform(&self, stage: &Stage, module: Option<&Path>, transcript: &mut dyn Write) -> Result<Option<Envoy>> {
        let mut terminal = Terminal { stage, module, envoy: None, session: None };
        for block in &self.blocks {
            for step in &block.steps {
                terminal
                    .step(block, step, transcript)
                    .with_context(|| format!("examples/{}/README.md:{}: {}", self.name, step.number, step.shown))?;
            }
        }
        Ok(terminal.envoy)
    }
}

fn steps(body: &[(usize, &str)]) -> Result<Vec<Step>> {
    let mut steps: Vec<Step> = Vec::new();
    for &(index, shown) in body {
        let input = match (shown.strip_prefix("$ "), prompt(shown)) {
            (Some(command), _) => Input::Shell(command.to_string()),
            (None, Some(command)) => Input::Redis(command.to_string()),
            (None, None) => {
                let step = steps.last_mut().with_context(|| format!("line {}: an answer to nothing", index + 1))?;
                step.answer.push(shown.to_string());
                continue;
            }
        };
        steps.push(Step { number: index + 1, shown: shown.to_string(), input, answer: Vec::new() });
    }
    Ok(steps)
}

/// Returns the text behind the prompt `host:port> ` or `host:port(TX)> `.
fn prompt(line: &str) -> Option<&str> {
    let (prompt, command) = line.split_once("> ")?;
    let (host, port) = prompt.trim_end_matches("(TX)").rsplit_once(':')?;
    let is_prompt = !host.contains(char::is_whitespace) && !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    is_prompt.then_some(command)
}

struct Terminal<'a> {
    stage: &'a Stage,
    module: Option<&'a Path>,
    envoy: Option<Envoy>,
    session: Option<Client>,
}

impl Terminal<'_> {
    fn step(&mut self, block: &Block, step: &Step, transcript: &mut dyn Write) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(5);
        let mut left = 200;
        loop {
            if block.mode != Mode::Eventually {
                writeln!(transcript, "{}", step.shown)?;
            }
            let answer = match &step.input {
                Input::Shell(command) => self.shell(command, step)?,
                Input::Redis(command) => self.redis(command)?,
            };
            let right = matches(&step.answer, &answer);
            let again = match block.mode {
                Mode::Exact => false,
                Mode::Eventually => !right && Instant::now() < end,
                Mode::Random => {
                    left -= 1;
                    !right
                        && left > 0
                        && block.steps.iter().any(|other| other.shown == step.shown && matches(&other.answer, &answer))
                }
            };
            if block.mode == Mode::Eventually && !again {
                writeln!(transcript, "{}", step.shown)?;
            }
            if block.mode != Mode::Eventually || !again {
                answer.iter().try_for_each(|line| writeln!(transcript, "{line}"))?;
            }
            transcript.flush()?;
            if !again {
                if !right {
                    bail!("answered\n{}\ninstead of\n{}", indented(&answer), indented(&step.answer));
                }
                return Ok(());
            }
            if block.mode == Mode::Eventually {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }

    fn redis(&mut self, command: &str) -> Result<Vec<String>> {
        let client = self.session.as_mut().context("there is no redis-cli session")?;
        let words = line::words(command)?;
        let start = Instant::now();
        let reply = client.cmd(&words)?;
        let took = start.elapsed();
        let mut answer = lines(&shown(&words, &reply));
        if took >= Duration::from_millis(500) {
            answer.push(format!("({:.2}s)", took.as_secs_f64()));
        }
        Ok(answer)
    }

    fn shell(&mut self, command: &str, step: &Step) -> Result<Vec<String>> {
        let (command, filters) = match command.split_once(" | ") {
            Some((command, filters)) => (command, Some(filters)),
            None => (command, None),
        };
        let mut words: Vec<String> =
            line::words(command)?.iter().map(|word| String::from_utf8_lossy(word).into_owned()).collect();
        let file = match words.iter().position(|word| word == ">") {
            Some(at) => words.split_off(at).pop(),
            None => None,
        };
        let (program, args) = words.split_first().context("an empty command")?;
        let output = match program.as_str() {
            "redis-mesh" => self.redis_mesh(args, step)?,
            "redis-cli" => self.redis_cli(args, filters.is_some())?,
            "envoy" => self.start_envoy(args)?,
            _ => bail!("the runner has no command {program}"),
        };
        match (file, filters) {
            (Some(file), _) => {
                std::fs::write(self.stage.dir().join(file), output)?;
                Ok(Vec::new())
            }
            (None, Some(filters)) => Ok(lines(&pipe(&output, filters)?)),
            (None, None) => Ok(lines(&output)),
        }
    }

    /// What it writes on stdout, or what it complains of where the README shows a failure.
    fn redis_mesh(&self, args: &[String], step: &Step) -> Result<String> {
        let mut args: Vec<&OsStr> = args.iter().map(OsStr::new).collect();
        if let Some(module) = self.module.filter(|_| args.starts_with(&["render", "envoy"].map(OsStr::new))) {
            args.extend([OsStr::new("--module"), module.as_os_str()]);
        }
        let output = cli::run_binary(&self.stage.bin().join("redis-mesh"), self.stage.dir(), &args)?;
        if output.status != 0 && !step.answer.is_empty() {
            return Ok(output.stderr);
        }
        Ok(output.success()?.stdout)
    }

    fn start_envoy(&mut self, args: &[String]) -> Result<String> {
        let [flag, file, rest @ ..] = args else { bail!("envoy needs -c FILE") };
        if flag != "-c" {
            bail!("envoy needs -c FILE");
        }
        self.session = None;
        self.envoy = None;
        let options = Options { args: rest.to_vec(), ..Options::default() };
        let dir = workspace::scratch("envoy")?;
        let config = dir.join("envoy.yaml");
        std::fs::copy(self.stage.dir().join(file), &config).with_context(|| format!("no file {file}"))?;
        let envoy = Envoy::start_file(&config, &dir, &options)?;
        // A person takes longer to type the next command than Envoy to find the nodes of a Redis
        // Cluster.
        envoy.wait_discovered(Duration::from_secs(5))?;
        self.envoy = Some(envoy);
        Ok(String::new())
    }

    fn redis_cli(&mut self, args: &[String], piped: bool) -> Result<String> {
        let (mut host, mut port) = ("127.0.0.1".to_string(), self.stage.services.port());
        let (mut password, mut repeat, mut resp3, mut raw) = (None, 1, false, piped);
        let mut args = args.iter();
        let mut command: Vec<&String> = Vec::new();
        while let Some(arg) = args.next() {
            let mut value = || args.next().with_context(|| format!("redis-cli {arg} needs a value"));
            match arg.as_str() {
                "-h" => host = value()?.clone(),
                "-p" => port = value()?.parse()?,
                "-a" => password = Some(value()?.clone()),
                "-r" => repeat = value()?.parse()?,
                "-3" => resp3 = true,
                "--raw" => raw = true,
                "--no-raw" => raw = false,
                flag if flag.starts_with('-') => bail!("the runner's redis-cli has no {flag}"),
                _ => command = std::iter::once(arg).chain(args.by_ref()).collect(),
            }
        }
        let mut client = Client::connect(std::net::SocketAddr::new(host.parse()?, port))?;
        if resp3 {
            client.ok(&["HELLO", "3"])?;
        }
        if let Some(password) = password {
            client.ok(&["AUTH", &password])?;
        }
        if command.is_empty() {
            self.session = Some(client);
            return Ok(String::new());
        }
        let mut output = String::new();
        for _ in 0..repeat {
            let reply = client.cmd(&command)?;
            output += &if raw { reply.raw() } else { shown(&command, &reply) };
            output.push('\n');
        }
        Ok(output)
    }
}

/// Formats a reply as redis-cli does on a terminal. The replies of some commands are texts, shown
/// unquoted.
fn shown<S: AsRef<[u8]>>(command: &[S], reply: &Reply) -> String {
    let is = |i: usize, word: &str| command.get(i).is_some_and(|w| w.as_ref().eq_ignore_ascii_case(word.as_bytes()));
    let for_people = is(0, "info")
        || is(0, "lolwut")
        || is(0, "cluster") && (is(1, "nodes") || is(1, "info"))
        || is(0, "client") && (is(1, "list") || is(1, "info"));
    if for_people && !reply.is_error() { reply.text() } else { reply.tty() }
}

fn pipe(text: &str, filters: &str) -> Result<String> {
    let mut command = Command::new("sh");
    command.args(["-c", filters]).env("LC_ALL", "C").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().context("can't start sh")?;
    let mut stdin = child.stdin.take().context("no stdin")?;
    let text = text.as_bytes().to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&text));
    let output = child.wait_with_output()?;
    let _ = writer.join();
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn lines(text: &str) -> Vec<String> {
    text.trim_end_matches(['\n', '\r']).lines().map(str::to_string).collect()
}

fn indented(lines: &[String]) -> String {
    if lines.is_empty() {
        return "    (nothing)".to_string();
    }
    lines.iter().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
}

/// Whether the output is the one in the README. A line that is only `…` stands for any number of
/// lines.
fn matches(shown: &[String], actual: &[String]) -> bool {
    match (shown.split_first(), actual.split_first()) {
        (None, None) => true,
        // A note of redis-cli on a slow answer that isn't shown: the machine was busy.
        (None, Some((note, []))) => seconds(note).is_some_and(|seconds| seconds < 1.0),
        (None, Some(_)) => false,
        (Some((first, rest)), _) if first == "…" => (0..=actual.len()).any(|n| matches(rest, &actual[n..])),
        (Some(_), None) => false,
        (Some((first, rest)), Some((line, more))) => matches_line(first, line) && matches(rest, more),
    }
}

fn matches_line(shown: &str, actual: &str) -> bool {
    if let (Some(shown), Some(actual)) = (seconds(shown), seconds(actual)) {
        return actual > shown - 0.05 && actual < shown + 1.0;
    }
    if shown.contains('~') {
        let (shown, actual): (Vec<&str>, Vec<&str>) =
            (shown.split_whitespace().collect(), actual.split_whitespace().collect());
        return shown.len() == actual.len() && shown.iter().zip(&actual).all(|(s, a)| s == a || is_about(s, a));
    }
    if shown.contains('…') {
        let mut parts = shown.trim_end().split('…');
        let first = parts.next().unwrap_or_default();
        let last = parts.next_back().unwrap_or_default();
        let Some(mut rest) = actual.trim_end().strip_prefix(first) else { return false };
        for part in parts {
            let Some(at) = rest.find(part) else { return false };
            rest = &rest[at + part.len()..];
        }
        return rest.ends_with(last);
    }
    shown.trim_end() == actual.trim_end()
}

/// Whether a number matches an approximate one: `~500` matches 450.
fn is_about(shown: &str, actual: &str) -> bool {
    let about = shown.strip_prefix('~').and_then(|number| number.parse::<f64>().ok());
    let number = actual.parse::<f64>().ok();
    about.zip(number).is_some_and(|(about, number)| (number - about).abs() < about / 5.0)
}

/// Whether a word is a duration such as `(1.00s)`.
fn seconds(line: &str) -> Option<f64> {
    line.trim().strip_prefix('(')?.strip_suffix("s)")?.parse().ok()
}

/// Returns the names of all examples in the order of the table in `examples/README.md`.
pub fn examples() -> Result<Vec<String>> {
    let path = workspace::root().join("examples/README.md");
    let text = std::fs::read_to_string(&path).with_context(|| format!("can't read {}", path.display()))?;
    let listed: Vec<String> =
        text.lines().filter_map(|line| Some(line.strip_prefix("| [")?.split_once(']')?.0.to_string())).collect();
    let mut folders: Vec<String> = std::fs::read_dir(path.parent().unwrap_or(Path::new(".")))?
        .flatten()
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    folders.sort();
    let mut sorted = listed.clone();
    sorted.sort();
    if folders != sorted {
        bail!("examples/README.md lists {sorted:?}, but there are {folders:?}");
    }
    Ok(listed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(shown: &str, actual: &str, expected: bool) {
        let split = |text: &str| text.lines().map(str::to_string).collect::<Vec<_>>();
        assert_eq!(matches(&split(shown), &split(actual)), expected);
    }

    #[test]
    fn answers_are_compared_to_the_letter_but_for_the_notation() {
        check("OK", "OK", true);
        check("OK", "OK\nOK", false);
        check("", "", true);
        check("1) 1\n   2) x", "1) 1\n2) x", false);
        check("   ~500 \"a\"", "    480 \"a\"", true);
        check("   ~500 \"a\"", "    380 \"a\"", false);
        check("   ~500 \"a\"", "    500 \"b\"", false);
        check("x\n(1.00s)", "x\n(1.20s)", true);
        check("x\n(1.00s)", "x", false);
        check("x", "x\n(0.61s)", true);
        check("x", "x\n(1.00s)", false);
        check("a=1,…", "a=1,b=2", true);
        check("a=1,…", "a=2,b=2", false);
        check("…b…d", "abcd", true);
        check("…b…d", "abce", false);
        check("…\nx\n…", "1\n2\nx\n3", true);
        check("…", "", true);
    }

    #[test]
    fn a_readme_is_read() {
        let text = "# T\n\n```yaml\na: 1\n```\n```console random\n$ redis-cli -h 127.0.0.1\n127.0.0.1:6379> get a\n\"a\"\n```\n";
        let walkthrough = Walkthrough::parse("x", text).unwrap();
        assert_eq!((walkthrough.title.as_str(), walkthrough.manifests[0].as_str()), ("T", "a: 1\n"));
        let block = &walkthrough.blocks[0];
        assert_eq!((block.mode, block.steps.len(), block.steps[1].number), (Mode::Random, 2, 8));
        assert_eq!(block.steps[1].answer, ["\"a\""]);
        assert_eq!(prompt("127.0.0.1:6379(TX)> get a"), Some("get a"));
        assert_eq!(prompt("a quoted -> arrow"), None);
    }
}
