//! Commands that are passed on, or dropped, while they arrive: those with long arguments that
//! decide nothing.

use super::config::Path;
use super::env::Env;
use super::session;
use super::sink::Sink;
use crate::command::{Args, Known, Proxy};
use crate::resp::request::Parser;
use crate::wire::Limits;

/// Arguments of at least this many bytes are passed on as they arrive, where the rest of the
/// command decides nothing.
pub(super) const STREAMED: u32 = 16 * 1024;

/// The rest of a command that is passed on, or dropped, as it arrives.
#[derive(Clone, Copy, Debug)]
pub(super) struct StreamedBody {
    /// Bytes of the current argument that are still to come, without its `\r\n`.
    pub(super) bytes: u32,
    /// Bytes of the current argument's `\r\n` that are still to come.
    pub(super) terminator: u8,
    /// Number of arguments behind the current one.
    pub(super) arguments: u32,
    /// The command was answered here: the rest of it goes nowhere.
    pub(super) dropped: bool,
}

impl StreamedBody {
    /// True if all of the command has come.
    pub(super) fn is_complete(&self) -> bool {
        self.bytes == 0 && self.terminator == 0 && self.arguments == 0
    }

    /// Takes bytes that belong together from the buffer. `Ok(false)`: more bytes are needed.
    ///
    /// # Errors
    /// The bytes are no RESP. Half of the command is out already, so it can't be taken back, only
    /// cut off.
    pub(super) fn take(&mut self, sink: &mut Sink<'_>, limits: &Limits) -> Result<bool, ()> {
        let rest = sink.rest();
        let taken;
        if self.bytes > 0 {
            taken = rest.len().min(self.bytes as usize);
            self.bytes -= taken as u32;
        } else if self.terminator > 0 {
            let expected = if self.terminator == 2 { b'\r' } else { b'\n' };
            if rest.first() != Some(&expected) {
                return Err(());
            }
            taken = 1;
            self.terminator -= 1;
        } else {
            let Some((len, header)) = Parser::argument_header(rest, limits).map_err(drop)? else { return Ok(false) };
            taken = header;
            self.bytes = len;
            self.terminator = 2;
            self.arguments -= 1;
        }
        if self.dropped {
            sink.skip(taken);
        } else {
            sink.pass(taken);
        }
        Ok(true)
    }
}

/// Whether a command whose first arguments are there can be decided by them alone.
pub(super) fn decides_early(env: &Env<'_>, args: &Args<'_>) -> bool {
    let Some(Known { command, .. }) = Known::of(args) else { return false };
    if args.spans.len() < 2 || session::concerns(command) {
        return false;
    }
    match env.host.path {
        Path::Direct => !env.host.keys_decide || command.has_one_key,
        Path::Proxy => command.proxy == Proxy::Simple && command.has_one_key,
    }
}
