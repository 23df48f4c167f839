//! The RESP3 shape of the reply to a request.

use super::key_spec::Arguments;
use super::reply::When;
use super::row::Command;
use crate::resp::shape::Shape;

impl Command {
    /// Returns the shape of the reply to this request. Most shapes depend on no argument, since
    /// the RESP2 reply itself shows what options change: a bulk string in a reply to ZADD can only
    /// be the score that INCR asks for.
    pub fn reply_shape<A: Arguments + ?Sized>(&self, arguments: &A) -> Shape {
        let holds = match self.reply.when {
            None => true,
            Some(When::Arguments(least)) => arguments.count() >= least,
            Some(When::Word(word, from)) => has_word(arguments, word, from),
            Some(When::WordBehindKeys(word)) => {
                let keys = self.keys(arguments).map_or(0, |keys| keys.len());
                has_word(arguments, word, keys.saturating_add(2))
            }
        };
        if holds { self.reply.shape } else { self.reply.otherwise }
    }
}

fn has_word<A: Arguments + ?Sized>(arguments: &A, word: &str, from: usize) -> bool {
    (from..arguments.count())
        .any(|index| arguments.argument(index).is_some_and(|argument| argument.eq_ignore_ascii_case(word.as_bytes())))
}
