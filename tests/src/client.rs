//! A blocking Redis client that shares no code with the filter.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::reply::Reply;

/// A connection to Redis.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    reader: BufReader<TcpStream>,
}

/// The default time that a client waits for a reply.
pub const PATIENCE: Duration = Duration::from_secs(10);

impl Client {
    /// Connects. Each read waits up to [`PATIENCE`].
    pub fn connect(addr: SocketAddr) -> Result<Client> {
        Client::over(TcpStream::connect_timeout(&addr, PATIENCE).with_context(|| format!("can't connect to {addr}"))?)
    }

    /// Takes a connection that was made elsewhere, such as in another network namespace.
    pub fn over(stream: TcpStream) -> Result<Client> {
        stream.set_nodelay(true)?;
        let client = Client { reader: BufReader::with_capacity(64 * 1024, stream.try_clone()?), stream };
        client.set_patience(PATIENCE)?;
        Ok(client)
    }

    /// Connects and authenticates with a password.
    pub fn connect_with(addr: SocketAddr, password: &str) -> Result<Client> {
        let mut client = Client::connect(addr)?;
        client.ok(&["AUTH", password])?;
        Ok(client)
    }

    /// Sets the time that reads and writes may take.
    pub fn set_patience(&self, patience: Duration) -> Result<()> {
        self.stream.set_read_timeout(Some(patience))?;
        self.stream.set_write_timeout(Some(patience))?;
        Ok(())
    }

    /// The underlying socket.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// The address of this end, as `CLIENT LIST` shows it where no proxy is between.
    pub fn local_addr(&self) -> Result<SocketAddr> {
        Ok(self.stream.local_addr()?)
    }

    /// Sends one command and reads one reply.
    pub fn cmd<S: AsRef<[u8]>>(&mut self, args: &[S]) -> Result<Reply> {
        self.send(args)?;
        let name = args.first().map(|name| name.as_ref().escape_ascii().to_string()).unwrap_or_default();
        self.read().with_context(|| format!("waiting for the reply to {name}"))
    }

    /// Sends one command and reads its reply. An error reply is an error.
    pub fn ok<S: AsRef<[u8]>>(&mut self, args: &[S]) -> Result<Reply> {
        let reply = self.cmd(args)?;
        if reply.is_error() {
            let line = args.iter().map(|arg| arg.as_ref().escape_ascii().to_string()).collect::<Vec<_>>().join(" ");
            bail!("{line}: {}", reply.text());
        }
        Ok(reply)
    }

    /// Sends one command, written as a line of redis-cli, and reads its reply.
    pub fn line(&mut self, line: &str) -> Result<Reply> {
        self.cmd(&crate::line::words(line)?)
    }

    /// Sends all commands in one write, then reads as many replies.
    pub fn pipeline<S: AsRef<[u8]>>(&mut self, commands: &[Vec<S>]) -> Result<Vec<Reply>> {
        let bytes: Vec<u8> = commands.iter().flat_map(|command| encode(command)).collect();
        self.write(&bytes)?;
        (0..commands.len()).map(|i| self.read().with_context(|| format!("waiting for reply {i}"))).collect()
    }

    /// Sends one command without waiting.
    pub fn send<S: AsRef<[u8]>>(&mut self, args: &[S]) -> Result<()> {
        self.write(&encode(args))
    }

    /// Sends bytes as they are.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).context("can't send")
    }

    /// Reads one reply.
    pub fn read(&mut self) -> Result<Reply> {
        Reply::read(&mut self.reader).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => anyhow::anyhow!("no reply in time"),
            _ => error.into(),
        })
    }

    /// Reads one reply, or returns `None` if none begins within this time.
    pub fn read_within(&mut self, patience: Duration) -> Result<Option<Reply>> {
        if self.reader.buffer().is_empty() {
            let before = self.stream.read_timeout()?;
            self.stream.set_read_timeout(Some(patience))?;
            let filled = self.reader.fill_buf().map(<[u8]>::len);
            self.stream.set_read_timeout(before)?;
            match filled {
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    return Ok(None);
                }
                Err(error) => return Err(error.into()),
                Ok(_) => {}
            }
        }
        self.read().map(Some)
    }

    /// Reads exactly `n` bytes.
    pub fn read_bytes(&mut self, n: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; n];
        self.reader.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// Reads until the other side closes or falls silent for this long.
    pub fn read_until_silent(&mut self, patience: Duration) -> Result<Vec<u8>> {
        let before = self.stream.read_timeout()?;
        self.stream.set_read_timeout(Some(patience))?;
        let mut bytes = Vec::new();
        let mut chunk = [0; 16 * 1024];
        while let Ok(n @ 1..) = self.reader.read(&mut chunk) {
            bytes.extend_from_slice(&chunk[..n]);
        }
        self.stream.set_read_timeout(before)?;
        Ok(bytes)
    }

    /// Whether the other side closes the connection within this time without sending anything
    /// more.
    pub fn is_closed_within(&mut self, patience: Duration) -> bool {
        let _ = self.stream.set_read_timeout(Some(patience));
        match self.reader.fill_buf() {
            Ok(bytes) => bytes.is_empty(),
            Err(error) => !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut),
        }
    }

    /// Half-closes the connection: nothing more is sent, but replies are still read.
    pub fn finish(&self) -> Result<()> {
        Ok(self.stream.shutdown(Shutdown::Write)?)
    }
}

/// A command in RESP.
pub fn encode<S: AsRef<[u8]>>(args: &[S]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", args.len()).into_bytes();
    for arg in args {
        let arg = arg.as_ref();
        out.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        out.extend_from_slice(arg);
        out.extend_from_slice(b"\r\n");
    }
    out
}

/// Returns the value of a field in a reply of the form of `INFO` or `CLUSTER INFO`.
pub fn info_field<'a>(text: &'a str, field: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':').map(str::trim_end))
}
