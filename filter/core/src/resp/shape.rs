//! The structure that a reply has in RESP3 and RESP2 doesn't show.

/// The RESP3 form of a RESP2 reply.
///
/// Errors, integers and simple strings are the same in both and pass under every shape, and a null
/// is a null. Where a reply has another structure than its shape says (an odd number of elements
/// under a map, a bulk string under a set), it passes as [`Shape::Plain`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shape {
    /// Arrays and bulk strings stay what they are; a null may be anywhere.
    Plain,
    /// As [`Shape::Plain`], without nulls within arrays, so that only the head of the reply is
    /// looked at.
    Flat,
    /// A bulk string becomes a double.
    Double,
    /// A bulk string becomes a verbatim text.
    Verbatim,
    /// Every element of an array has this shape.
    Array(&'static Shape),
    /// The elements of an array that are arrays have this shape; the others are plain.
    Arrays(&'static Shape),
    /// Each element of an array has its own shape; elements beyond the list are plain.
    Tuple(&'static [Shape]),
    /// An array becomes a set of elements of this shape.
    Set(&'static Shape),
    /// An array of alternating keys and values becomes a map; the values have this shape.
    Map(&'static Shape),
    /// As [`Shape::Map`], where the values of these keys have their own shapes and the others are
    /// plain.
    Fields(&'static [(&'static str, Shape)]),
    /// An array of pairs, each an array of key and value, becomes a map; the values have this
    /// shape.
    EntryMap(&'static Shape),
    /// An array of alternating first and second halves becomes an array of arrays of two; the
    /// second has this shape.
    Pairs(&'static Shape),
}
