//! Sets of named bits.

/// A set of named bits. The order of the names is the order in which servers print them.
macro_rules! bits {
    ($(#[$doc:meta])* $set:ident($repr:ty) { $($(#[$bit_doc:meta])* $bit:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Default)]
        pub struct $set(pub(crate) $repr);

        impl $set {
            bits!(@consts $set $repr; 0; $($(#[$bit_doc])* $bit = $text,)*);

            /// The names of the bits, lowest bit first.
            pub const NAMES: &'static [&'static str] = &[$($text),*];

            /// Whether every bit of `other` is set in `self`.
            pub const fn contains(self, other: Self) -> bool {
                self.0 & other.0 == other.0
            }

            /// Whether `self` and `other` have a bit in common.
            pub const fn intersects(self, other: Self) -> bool {
                self.0 & other.0 != 0
            }

            /// The names of the bits that are set, lowest bit first.
            pub fn names(self) -> impl Iterator<Item = &'static str> {
                Self::NAMES.iter().enumerate().filter(move |(bit, _)| self.0 >> bit & 1 == 1).map(|(_, name)| *name)
            }
        }

        impl std::fmt::Debug for $set {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_set().entries(self.names()).finish()
            }
        }
    };
    (@consts $set:ident $repr:ty; $at:expr; $(#[$doc:meta])* $bit:ident = $text:literal, $($rest:tt)*) => {
        $(#[$doc])*
        #[doc = concat!("`", $text, "`")]
        pub const $bit: $set = $set(1 << ($at));
        bits!(@consts $set $repr; $at + 1; $($rest)*);
    };
    (@consts $set:ident $repr:ty; $at:expr;) => {};
}
pub(super) use bits;
