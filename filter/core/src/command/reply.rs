//! The forms of replies in RESP3, as far as RESP2 doesn't show them.

use crate::resp::shape::Shape;

/// The shape of a command's reply, which may depend on its arguments.
#[derive(Debug)]
pub struct Reply {
    /// The shape if there is no condition, or if the condition holds.
    pub shape: Shape,
    /// The condition.
    pub when: Option<When>,
    /// The shape if the condition doesn't hold.
    pub otherwise: Shape,
}

/// A condition on a command's arguments.
#[derive(Clone, Copy, Debug)]
pub enum When {
    /// There are at least so many arguments, the name included.
    Arguments(usize),
    /// A word is among the arguments from this one on.
    Word(&'static str, usize),
    /// A word is among the arguments behind the keys, whose number is argument 1.
    WordBehindKeys(&'static str),
}

const fn always(shape: Shape) -> Reply {
    Reply { shape, when: None, otherwise: shape }
}

const fn when(when: When, shape: Shape, otherwise: Shape) -> Reply {
    Reply { shape, when: Some(when), otherwise }
}

/// Only nulls differ, at any depth.
pub(super) static PLAIN: Reply = always(Shape::Plain);
/// Only a null in place of the whole reply differs.
pub(super) static FLAT: Reply = always(Shape::Flat);
pub(super) static MAP: Reply = always(Shape::Map(&Shape::Flat));
pub(super) static SET: Reply = always(Shape::Set(&Shape::Flat));
pub(super) static DOUBLE: Reply = always(Shape::Double);
pub(super) static DOUBLES: Reply = always(Shape::Array(&Shape::Double));
pub(super) static VERBATIM: Reply = always(Shape::Verbatim);
/// ZRANGE and the like.
pub(super) static SCORED_FROM_4: Reply = when(When::Word("WITHSCORES", 4), SCORES, Shape::Flat);
/// ZUNION and the like.
pub(super) static SCORED_BEHIND_KEYS: Reply = when(When::WordBehindKeys("WITHSCORES"), SCORES, Shape::Flat);
pub(super) static RANK: Reply = always(Shape::Tuple(&[Shape::Flat, Shape::Double]));
/// ZPOPMIN: a member and its score, or pairs of them where a count is given.
pub(super) static POPPED: Reply = when(When::Arguments(3), SCORES, Shape::Tuple(&[Shape::Flat, Shape::Double]));
pub(super) static BLOCKING_POPPED: Reply = always(Shape::Tuple(&[Shape::Flat, Shape::Flat, Shape::Double]));
/// ZMPOP: the key, then an array of pairs.
pub(super) static POPPED_OF_KEYS: Reply =
    always(Shape::Tuple(&[Shape::Flat, Shape::Array(&Shape::Tuple(&[Shape::Flat, Shape::Double]))]));
pub(super) static RANDOM_FIELDS: Reply = when(When::Arguments(4), Shape::Pairs(&Shape::Flat), Shape::Flat);
pub(super) static RANDOM_MEMBERS: Reply = when(When::Arguments(4), SCORES, Shape::Flat);
pub(super) static POSITIONS: Reply = always(Shape::Array(&Shape::Array(&Shape::Double)));
/// GEOSEARCH and the like: of an item, only the coordinates are an array.
pub(super) static FOUND: Reply = always(Shape::Array(&Shape::Arrays(&Shape::Array(&Shape::Double))));
/// XREAD: streams with their entries. A deleted entry of a consumer's history has a null for its
/// fields.
pub(super) static STREAMS: Reply = always(Shape::EntryMap(&Shape::Plain));

const SCORES: Shape = Shape::Pairs(&Shape::Double);
pub(super) static MAPS: Reply = always(Shape::Array(&Shape::Map(&Shape::Plain)));
/// XINFO STREAM; groups and consumers are arrays in its FULL form and numbers otherwise.
pub(super) static STREAM_INFO: Reply = always(Shape::Fields(&[(
    "groups",
    Shape::Array(&Shape::Fields(&[("consumers", Shape::Array(&Shape::Map(&Shape::Plain)))])),
)]));
/// Slots: first, last, then nodes, each with a map of metadata.
pub(super) static CLUSTER_SLOTS: Reply = always(Shape::Array(&Shape::Arrays(&Shape::Tuple(&[
    Shape::Flat,
    Shape::Flat,
    Shape::Flat,
    Shape::Map(&Shape::Flat),
]))));
pub(super) static CLUSTER_SHARDS: Reply =
    always(Shape::Array(&Shape::Fields(&[("nodes", Shape::Array(&Shape::Map(&Shape::Flat)))])));
