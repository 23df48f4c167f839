//! A connection of the load generator. It compares what it reads, byte by byte, with the expected
//! replies.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use redis_mesh_tests::client::Client;

use crate::workload::Workload;

/// A connection that checks its replies.
#[derive(Debug)]
pub struct Socket {
    stream: TcpStream,
    /// The number of bytes of the current reply that have arrived.
    partial: usize,
}

impl Socket {
    /// Connects. With `resp3` it sends HELLO 3.
    pub fn connect(addr: SocketAddr, resp3: bool) -> Result<Socket> {
        let mut client = Client::connect(addr)?;
        if resp3 {
            client.ok(&["HELLO", "3"])?;
        }
        client.ok(&["PING"])?;
        let stream = client.stream().try_clone()?;
        stream.set_nonblocking(true)?;
        Ok(Socket { stream, partial: 0 })
    }

    /// The file descriptor, for poll.
    pub fn descriptor(&self) -> RawFd {
        self.stream.as_raw_fd()
    }

    /// Writes as much as the socket accepts and returns the number of bytes.
    pub fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        let mut written = 0;
        while written < bytes.len() {
            match self.stream.write(&bytes[written..]) {
                Ok(n) => written += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error).context("can't send"),
            }
        }
        Ok(written)
    }

    /// Reads the available bytes and returns the number of replies that are now complete.
    pub fn receive(&mut self, workload: &Workload, chunk: &mut [u8]) -> Result<usize> {
        let n = match self.stream.read(chunk) {
            Ok(0) => bail!("the connection was closed"),
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
            Err(error) => return Err(error).context("can't receive"),
        };
        let expected = workload.expected(self.partial, n);
        if chunk[..n] != *expected {
            let at = chunk.iter().zip(expected).position(|(found, expected)| found != expected).unwrap_or(0);
            let around = at.saturating_sub(40)..(at + 100).min(n);
            bail!(
                "a wrong reply: '{}' instead of '{}'",
                chunk[around.clone()].escape_ascii(),
                expected[around].escape_ascii()
            );
        }
        let answered = (self.partial + n) / workload.reply_len();
        self.partial = (self.partial + n) % workload.reply_len();
        Ok(answered)
    }
}

/// Waits for an event on one of these descriptors for at most this time. Returns whether there was
/// one.
pub fn wait(polls: &mut [libc::pollfd], patience: Duration) -> Result<bool> {
    let timeout = libc::timespec {
        tv_sec: patience.as_secs() as libc::time_t,
        tv_nsec: libc::c_long::from(patience.subsec_nanos()),
    };
    // SAFETY: the pointers and the length are those of values that live through the call.
    let n = unsafe { libc::ppoll(polls.as_mut_ptr(), polls.len() as libc::nfds_t, &timeout, std::ptr::null()) };
    if n < 0 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error).context("poll");
        }
        polls.iter_mut().for_each(|poll| poll.revents = 0);
    }
    Ok(n > 0)
}
