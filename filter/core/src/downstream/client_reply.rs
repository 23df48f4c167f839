//! CLIENT REPLY (<https://redis.io/docs/latest/commands/client-reply/>).

/// Which replies a client gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReplyMode {
    /// All replies.
    #[default]
    On,
    /// None.
    Off,
    /// None for the next command, whose beginning makes this [`ReplyMode::Skipping`].
    SkipNext,
    /// None for the command under way, and all replies from the next command on.
    Skipping,
}

impl ReplyMode {
    /// True if the client gets the reply of the command under way.
    pub fn is_on(self) -> bool {
        self == ReplyMode::On
    }

    /// A command begins.
    pub fn begin(&mut self) {
        if *self == ReplyMode::SkipNext {
            *self = ReplyMode::Skipping;
        }
    }

    /// The command under way has been dealt with.
    pub fn end(&mut self) {
        if *self == ReplyMode::Skipping {
            *self = ReplyMode::On;
        }
    }

    /// The mode after `CLIENT REPLY word`; `None`: Redis answers a syntax error, and the mode
    /// stays.
    pub fn switched(self, word: &[u8]) -> Option<ReplyMode> {
        let is = |option: &[u8]| word.eq_ignore_ascii_case(option);
        match self {
            _ if is(b"on") => Some(ReplyMode::On),
            _ if is(b"off") => Some(ReplyMode::Off),
            // SKIP changes nothing where no reply is sent anyway.
            ReplyMode::Off if is(b"skip") => Some(ReplyMode::Off),
            _ if is(b"skip") => Some(ReplyMode::SkipNext),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    /// Plays commands, of which those in capitals are words of CLIENT REPLY; for each, whether its
    /// reply reaches the client.
    fn replies(commands: &str) -> String {
        let mut mode = ReplyMode::On;
        let played = commands.split(' ').map(|command| {
            mode.begin();
            if command != "get" {
                mode = mode.switched(command.as_bytes()).unwrap_or(mode);
            }
            let shown = if mode.is_on() { '+' } else { '-' };
            mode.end();
            shown
        });
        played.collect()
    }

    #[test]
    fn modes() {
        assert_eq!(replies("get OFF get get ON get"), "+---++");
        assert_eq!(replies("SKIP get get"), "--+");
        assert_eq!(replies("SKIP SKIP get get"), "---+");
        assert_eq!(replies("OFF SKIP get get"), "----");
        assert_eq!(replies("SKIP x get"), "--+");
        assert_eq!(replies("x get"), "++");
    }
}
