//! Ctrl-C and SIGTERM, which must not leave namespaces behind.

use std::mem::zeroed;

/// Signals that end this program in order.
const SIGNALS: [i32; 2] = [libc::SIGINT, libc::SIGTERM];

/// Holds the signals back from the calling thread and all that it starts; to be called first. They are taken by [`wait`].
pub fn hold() {
    let set = set();
    // SAFETY: the set is initialised; the old mask isn't asked for.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) };
}

/// Waits for one of the signals.
pub fn wait() -> i32 {
    let (set, mut signal) = (set(), 0);
    // SAFETY: both point to initialised values that outlive the call.
    unsafe { libc::sigwait(&set, &mut signal) };
    signal
}

fn set() -> libc::sigset_t {
    // SAFETY: sigemptyset initialises the set, zeroed memory is a valid value before.
    unsafe {
        let mut set: libc::sigset_t = zeroed();
        libc::sigemptyset(&mut set);
        for signal in SIGNALS {
            libc::sigaddset(&mut set, signal);
        }
        set
    }
}
