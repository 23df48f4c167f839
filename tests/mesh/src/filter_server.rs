//! An HTTP server from which sidecars fetch the filter.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use redis_mesh_tests::filter;
use sha2::{Digest, Sha256};

use crate::network::NODE;

/// An HTTP server in a thread, which runs until the program ends.
#[derive(Debug)]
pub struct FilterServer {
    url: String,
    sha256: String,
    served: Arc<AtomicU64>,
}

impl FilterServer {
    /// Serves the built filter on a free port of the node.
    pub fn start() -> Result<FilterServer> {
        let path = filter::build()?;
        let bytes = std::fs::read(&path).with_context(|| format!("can't read {}", path.display()))?;
        let sha256: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        let listener = TcpListener::bind((NODE, 0))?;
        let url = format!("http://{}/filter/{sha256}.wasm", listener.local_addr()?);
        let served = Arc::new(AtomicU64::new(0));
        let count = served.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // One that goes away meanwhile concerns nobody else.
                if serve(stream, &bytes).is_ok() {
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Ok(FilterServer { url, sha256, served })
    }

    /// The filter's URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The filter's SHA-256, in hexadecimal digits.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// The number of times that the filter was fetched.
    pub fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }
}

fn serve(mut stream: TcpStream, filter: &[u8]) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    for line in BufReader::new(stream.try_clone()?).lines() {
        if line?.is_empty() {
            break;
        }
    }
    let length = filter.len();
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: application/wasm\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    )?;
    stream.write_all(filter)
}
