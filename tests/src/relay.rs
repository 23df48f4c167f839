//! A relay between two addresses that can play a network that loses everything, or a connection
//! that breaks.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};

/// The interval at which the threads look for a change of state.
const TURN: Duration = Duration::from_millis(5);

/// A relay. Dropping it ends it.
#[derive(Debug)]
pub struct Relay {
    addr: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Whether bytes are held back, unnoticed by both sides.
    is_dark: AtomicBool,
    has_ended: AtomicBool,
    /// How many connections were accepted.
    accepted: AtomicUsize,
    /// How many of them, the first ones, pass nothing any more.
    forgotten: AtomicUsize,
    open: Mutex<Vec<TcpStream>>,
}

impl Relay {
    /// Listens at one address and opens a connection to the other for each connection that it
    /// accepts.
    pub fn start(from: SocketAddr, to: SocketAddr) -> Result<Relay> {
        let listener = TcpListener::bind(from).with_context(|| format!("can't listen at {from}"))?;
        listener.set_nonblocking(true)?;
        let (addr, shared) = (listener.local_addr()?, Arc::new(Shared::default()));
        let kept = shared.clone();
        std::thread::spawn(move || {
            while !kept.has_ended.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => kept.serve(stream, to),
                    Err(_) => std::thread::sleep(TURN),
                }
            }
        });
        Ok(Relay { addr, shared })
    }

    /// The address of the relay.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Holds back all bytes in both directions. Connections stay open, and the bytes wait.
    pub fn darken(&self) {
        self.shared.is_dark.store(true, Ordering::Relaxed);
    }

    /// Passes bytes again, first those that were held back.
    pub fn lighten(&self) {
        self.shared.is_dark.store(false, Ordering::Relaxed);
    }

    /// Loses all bytes of the connections that are open now, unnoticed by both sides, as a firewall
    /// does that has forgotten them. New connections pass theirs.
    pub fn forget(&self) {
        self.shared.forgotten.store(self.shared.accepted.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Resets all connections.
    pub fn cut(&self) {
        for stream in self.shared.open().drain(..) {
            reset(&stream);
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.has_ended.store(true, Ordering::Relaxed);
        self.cut();
    }
}

impl Shared {
    fn open(&self) -> std::sync::MutexGuard<'_, Vec<TcpStream>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(self: &Arc<Self>, near: TcpStream, to: SocketAddr) {
        // Who can't be reached is one who refuses.
        let Ok(far) = TcpStream::connect_timeout(&to, Duration::from_secs(1)) else { return reset(&near) };
        let number = self.accepted.fetch_add(1, Ordering::Relaxed);
        let pairs = [(near.try_clone(), far.try_clone()), (far.try_clone(), near.try_clone())];
        self.open().extend([near, far]);
        for pair in pairs {
            if let (Ok(from), Ok(to)) = pair {
                let shared = self.clone();
                std::thread::spawn(move || shared.carry(number, from, to));
            }
        }
    }

    fn carry(&self, number: usize, mut from: TcpStream, mut to: TcpStream) {
        let _ = (from.set_nonblocking(false), from.set_nodelay(true), to.set_nodelay(true));
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let read = from.read(&mut buffer);
            while self.is_dark.load(Ordering::Relaxed) && !self.has_ended.load(Ordering::Relaxed) {
                std::thread::sleep(TURN);
            }
            if number < self.forgotten.load(Ordering::Relaxed) {
                match read {
                    Ok(0) | Err(_) => return,
                    Ok(_) => continue,
                }
            }
            match read {
                Ok(0) => {
                    let _ = to.shutdown(Shutdown::Write);
                    return;
                }
                Ok(n) if to.write_all(&buffer[..n]).is_ok() => {}
                _ => {
                    reset(&to);
                    return;
                }
            }
        }
    }
}

/// Closes a connection so that both sides see a reset.
pub fn reset(stream: &TcpStream) {
    linger(stream);
    let _ = stream.shutdown(Shutdown::Both);
}

/// Makes the close of a connection a reset, which discards bytes that were sent and not read.
pub fn linger(stream: &TcpStream) {
    let off = libc::linger { l_onoff: 1, l_linger: 0 };
    // SAFETY: the descriptor is open, and the option's value is a `linger` of that size.
    unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const off).cast(),
            size_of::<libc::linger>() as libc::socklen_t,
        );
    }
}
