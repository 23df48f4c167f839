//! The core's transcripts through the wasm filter in a real Envoy. The test plays the side behind
//! the filter, word for word, in place of Redis and redis_proxy.

#[path = "../../filter/core/tests/support/transcript.rs"]
mod transcript;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use redis_mesh_core::resp::request::{Parser, Progress};
use redis_mesh_core::wire::Limits;
use redis_mesh_tests::listener::{Config, tcp_proxy, wasm_text};
use redis_mesh_tests::net::free_port;
use transcript::{Nonces, Step, Transcript, encode};

const PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn transcripts_through_envoy() -> Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../filter/core/tests/transcripts");
    let mut files: Vec<_> = std::fs::read_dir(&folder)?.map(|e| Ok(e?.path())).collect::<Result<_>>()?;
    files.sort();
    let mut config = Config::new();
    let mut runs = Vec::new();
    for file in &files {
        let name = file.file_stem().context("a name")?.to_string_lossy().into_owned();
        let transcript = Transcript::parse(&std::fs::read_to_string(file)?);
        if transcript.only_core {
            continue;
        }
        let behind = TcpListener::bind("127.0.0.1:0")?;
        let addr = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        let of_istio = |host: &String| host.split_once(':').map(|(host, port)| format!("outbound|{port}|v1|{host}"));
        let cluster = transcript.refused.as_ref().and_then(of_istio).unwrap_or_else(|| name.clone());
        config = config.cluster(&cluster, &[behind.local_addr()?]).listener(
            &name,
            addr,
            vec![wasm_text(&name, &transcript.document(&name))?, tcp_proxy(&cluster)],
        );
        runs.push((name, transcript, behind, addr));
    }
    ensure!(runs.len() >= 15, "only {} transcripts", runs.len());
    let envoy = config.start()?;
    for (name, transcript, behind, addr) in &runs {
        if transcript.host.contains("upstreamLogin") && !transcript.host.contains("loginFor") {
            ask_about_login(*addr, behind).with_context(|| format!("{name}: the first connection"))?;
        }
        // Whole, and in small pieces with time to arrive one by one.
        for piece in [usize::MAX, 7] {
            Run::new(*addr, behind, piece).and_then(|mut run| run.all(&transcript.steps)).with_context(|| {
                format!("{name} in pieces of {piece}\n{}", envoy.log().lines().rev().take(5).collect::<String>())
            })?;
        }
    }
    Ok(())
}

/// The first connection of a worker asks what the login may do, and no other one does.
fn ask_about_login(addr: SocketAddr, behind: &TcpListener) -> Result<()> {
    let mut run = Run::new(addr, behind, usize::MAX)?;
    send(&mut run.client, b"PING\r\n", usize::MAX)?;
    let mut asked = Vec::new();
    while !asked.windows(9).any(|words| words == b"REPLICAOF") {
        let mut piece = [0; 4096];
        let n = run.behind.read(&mut piece)?;
        ensure!(n > 0, "closed after {}", asked.escape_ascii());
        asked.extend_from_slice(&piece[..n]);
    }
    Ok(())
}

struct Run {
    client: TcpStream,
    behind: TcpStream,
    piece: usize,
    came: Vec<u8>,
    nonces: Nonces,
}

impl Run {
    fn new(addr: SocketAddr, behind: &TcpListener, piece: usize) -> Result<Run> {
        let client = TcpStream::connect(addr)?;
        let (behind, _) = behind.accept()?;
        for stream in [&client, &behind] {
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_nodelay(true)?;
        }
        Ok(Run { client, behind, piece, came: Vec::new(), nonces: Nonces::default() })
    }

    fn all(&mut self, steps: &[Step]) -> Result<()> {
        for (number, step) in steps.iter().enumerate() {
            self.step(step).with_context(|| format!("step {}: {step:?}", number + 1))?;
        }
        Ok(())
    }

    fn step(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::ClientSends(bytes) => send(&mut self.client, bytes, self.piece),
            Step::NextAnswers(bytes) => send(&mut self.behind, &self.nonces.fill(bytes), self.piece),
            Step::NextGets(words) => self.next_gets(words),
            Step::ClientGets(bytes) => self.client_gets(bytes),
            Step::Wait(ms) => {
                // The delay that the filter was told.
                std::thread::sleep(Duration::from_millis(*ms));
                Ok(())
            }
            Step::Closed => {
                let mut rest = Vec::new();
                self.client.read_to_end(&mut rest).context("not closed")?;
                ensure!(rest.is_empty(), "{} before the end", rest.escape_ascii());
                Ok(())
            }
        }
    }

    fn next_gets(&mut self, words: &[Vec<u8>]) -> Result<()> {
        let (length, got) = loop {
            let mut parser = Parser::default();
            match parser.parse(&self.came, &Limits::default()) {
                Ok(Progress::Complete(n)) => {
                    break (n, parser.args().iter().map(|s| s.of(&self.came).to_vec()).collect::<Vec<_>>());
                }
                Ok(_) => {}
                Err(e) => bail!("{e}: {}", self.came.escape_ascii()),
            }
            let mut piece = [0; 4096];
            let n = self.behind.read(&mut piece).with_context(|| format!("only {}", self.came.escape_ascii()))?;
            ensure!(n > 0, "closed after {}", self.came.escape_ascii());
            self.came.extend_from_slice(&piece[..n]);
        };
        self.came.drain(..length);
        let got: Vec<Vec<u8>> = got.into_iter().map(|word| self.nonces.name(word)).collect();
        ensure!(got == words, "got {}", encode(&got).escape_ascii());
        Ok(())
    }

    fn client_gets(&mut self, bytes: &[u8]) -> Result<()> {
        let mut rest = bytes;
        while let Some(at) = rest.windows(4).position(|w| w == b"<id>") {
            self.exactly(&rest[..at])?;
            rest = &rest[at + 4..];
            // The digits of a number, and the byte behind it.
            let mut byte = [b'0'];
            while byte[0].is_ascii_digit() {
                self.client.read_exact(&mut byte)?;
            }
            ensure!(rest.first() == Some(&byte[0]), "{} behind a number", byte.escape_ascii());
            rest = &rest[1..];
        }
        self.exactly(rest)
    }

    fn exactly(&mut self, bytes: &[u8]) -> Result<()> {
        let mut got = Vec::new();
        while got.len() < bytes.len() {
            let mut piece = vec![0; bytes.len() - got.len()];
            let n = self.client.read(&mut piece).with_context(|| format!("only {}", got.escape_ascii()))?;
            ensure!(n > 0, "closed after {}", got.escape_ascii());
            got.extend_from_slice(&piece[..n]);
        }
        ensure!(got == bytes, "got {}", got.escape_ascii());
        Ok(())
    }
}

fn send(stream: &mut TcpStream, bytes: &[u8], piece: usize) -> Result<()> {
    for piece in bytes.chunks(piece) {
        stream.write_all(piece)?;
        if piece.len() < bytes.len() {
            std::thread::yield_now();
        }
    }
    Ok(())
}
