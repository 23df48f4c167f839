//! What the login of a host may do, as far as Redis was asked.

use crate::request::privileges::{self, CommandNames, PRIVILEGED};

/// What the login of a host may do. Redis is asked over the connection of one client, in the same
/// piece as the login, and not again for others: a server that closes the connection at commands that it
/// doesn't know closes only that one.
#[derive(Debug, Default)]
pub struct LoginReview {
    /// Identifies the login about which Redis was asked last; 0: none.
    asked: u64,
    /// What was answered since it was taken last: a bit for each of the privileged commands.
    answer: Option<u8>,
    is_answered: bool,
}

impl LoginReview {
    /// Returns true if Redis is to be asked about this login, which counts as done from then on.
    pub fn begin(&mut self, identity: u64) -> bool {
        if self.asked == identity {
            return false;
        }
        (self.asked, self.is_answered) = (identity, false);
        true
    }

    /// Redis has answered about this login.
    pub(super) fn answered(&mut self, identity: u64, allowed: u8) {
        if self.asked == identity {
            (self.answer, self.is_answered) = (Some(allowed), true);
        }
    }

    /// What a login may do, if something new is known.
    pub fn take(&mut self) -> Option<CommandNames> {
        let allowed = self.answer.take()?;
        Some((0..PRIVILEGED.len()).filter(|index| allowed & 1 << index != 0).filter_map(privileges::name).collect())
    }

    /// Some time has passed since an answer: the next connection asks again.
    pub fn expire(&mut self) {
        if self.is_answered {
            self.asked = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn redis_is_asked_once_for_each_login() {
        let mut review = LoginReview::default();
        assert!(review.begin(7) && !review.begin(7));
        // No answer has come: whoever asks may be the reason.
        review.expire();
        assert!(!review.begin(7));
        review.answered(7, 0b101);
        assert_eq!(review.take(), Some(vec!["CONFIG", "REPLICAOF"]));
        assert_eq!(review.take(), None);
        review.expire();
        assert!(review.begin(7) && review.begin(8));
        // What another login may do.
        review.answered(7, 0b111);
        assert_eq!(review.take(), None);
        review.answered(8, 0);
        assert_eq!(review.take(), Some(vec![]));
    }
}
