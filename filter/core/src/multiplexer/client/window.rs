//! How many commands of one client may be under way.

/// The largest number.
const MAX_COMMANDS: usize = 1024;
/// Bytes of replies that the commands under way may make.
const MAX_REPLY_BYTES: usize = 1024 * 1024;
/// The number at which a client begins.
const INITIAL_COMMANDS: usize = 16;

/// A window that opens with each reply, but to no more than what makes a megabyte of replies of
/// the size that the client gets. What is under way can't be stopped when the client doesn't read.
#[derive(Debug)]
pub struct Window {
    open: usize,
    /// As far as it may ever open, with replies of that size.
    limit: usize,
    /// The size of replies, as a moving average.
    reply_size: usize,
    /// Bytes of the reply that is coming.
    coming: usize,
}

impl Default for Window {
    fn default() -> Window {
        Window { open: INITIAL_COMMANDS, limit: MAX_COMMANDS, reply_size: 0, coming: 0 }
    }
}

impl Window {
    /// True if another command may be sent while this number is under way.
    #[inline]
    pub fn has_room(&self, under_way: usize) -> bool {
        under_way < self.open
    }

    /// Bytes of replies that this number of commands will make, as far as can be told.
    pub fn expected(&self, under_way: usize) -> usize {
        under_way.saturating_mul(self.reply_size.max(self.coming))
    }

    /// Bytes of a reply have come, perhaps its last ones.
    #[inline]
    pub fn count(&mut self, bytes: usize, is_complete: bool) {
        self.coming += bytes;
        if is_complete {
            let size = std::mem::take(&mut self.coming);
            if size != self.reply_size {
                self.reply_size = (7 * self.reply_size + size).div_ceil(8);
                self.limit = (MAX_REPLY_BYTES / self.reply_size.max(1)).clamp(1, MAX_COMMANDS);
            }
            self.open = (self.open + 1).min(self.limit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn it_opens_with_small_replies_and_closes_with_large_ones() {
        let mut window = Window::default();
        assert!(window.has_room(INITIAL_COMMANDS - 1) && !window.has_room(INITIAL_COMMANDS));
        (0..2 * MAX_COMMANDS).for_each(|_| window.count(5, true));
        assert!(window.has_room(MAX_COMMANDS - 1) && !window.has_room(MAX_COMMANDS));
        for _ in 0..100 {
            window.count(MAX_REPLY_BYTES, false);
            window.count(MAX_REPLY_BYTES, true);
        }
        assert!(window.has_room(0) && !window.has_room(1));
    }
}
