//! Ctrl-C and SIGTERM, which must not leave namespaces behind.

use std::mem::zeroed;
use std::time::Duration;

/// The signals that end this program with a clean-up.
const SIGNALS: [i32; 2] = [libc::SIGINT, libc::SIGTERM];

/// Blocks the signals in the calling thread and in all threads that it starts; call this first.
/// [`within`] and [`end_after`] take them.
pub fn hold() {
    let set = set();
    // SAFETY: the set is initialised; the old mask isn't asked for.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) };
}

/// Waits for one of the signals for at most this time. Returns whether one has arrived.
pub fn within(patience: Duration) -> bool {
    let set = set();
    let time = libc::timespec { tv_sec: patience.as_secs() as libc::time_t, tv_nsec: patience.subsec_nanos().into() };
    // SAFETY: set and time are initialised and outlive the call; the signal's description isn't
    // asked for.
    unsafe { libc::sigtimedwait(&set, std::ptr::null_mut(), &time) > 0 }
}

/// Runs a task and ends the program when one of the signals arrives, because the program's values
/// aren't dropped then.
pub fn end_after(task: fn()) {
    std::thread::spawn(move || {
        while !within(Duration::from_secs(3600)) {}
        task();
        std::process::exit(130)
    });
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
