//! The places of values in a YAML document.
//!
//! Only documents with mistakes are read for places, after the fact, so that reading thousands of
//! routes costs nothing more.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Location, Spanned};

use crate::diagnostic::SourceSpan;

/// A document as a tree of places.
pub struct SpanTree {
    root: Spanned<SpanNode>,
    /// The number of lines before the text that was parsed.
    offset: usize,
}

/// A value, reduced to what lies below it.
enum SpanNode {
    Scalar,
    Sequence(Vec<Spanned<SpanNode>>),
    Mapping(Vec<(String, Spanned<SpanNode>)>),
}

impl SpanTree {
    /// Parses a document before which the file has `offset` lines; none if it isn't YAML.
    pub fn parse(text: &str, offset: usize, options: serde_saphyr::Options) -> Option<SpanTree> {
        let root = serde_saphyr::from_str_with_options::<Spanned<SpanNode>>(text, options).ok()?;
        Some(SpanTree { root, offset })
    }

    /// The place of the value at a path such as `spec.redis[0].route.host`; where it doesn't
    /// exist, of the nearest value around it.
    pub fn find(&self, path: &str) -> Option<SourceSpan> {
        let mut found = &self.root;
        for step in steps(path) {
            let below = match &found.value {
                SpanNode::Mapping(fields) => fields.iter().find(|(name, _)| *name == step).map(|(_, value)| value),
                SpanNode::Sequence(items) => step.parse::<usize>().ok().and_then(|index| items.get(index)),
                SpanNode::Scalar => None,
            };
            match below {
                Some(below) => found = below,
                None => break,
            }
        }
        self.span(&found.referenced)
    }

    fn span(&self, location: &Location) -> Option<SourceSpan> {
        let number = |number: u64| usize::try_from(number).ok();
        let (line, column) = (number(location.line())?, number(location.column())?);
        let length = usize::try_from(location.span().len()).unwrap_or_default();
        (line > 0).then(|| SourceSpan { line: line + self.offset, column, length })
    }
}

/// The steps of a path. What stands in brackets is one step, dots included.
fn steps(path: &str) -> Vec<String> {
    let mut steps = vec![String::new()];
    let mut is_in_brackets = false;
    for character in path.chars() {
        match (character, is_in_brackets) {
            ('[', false) | ('.', false) => {
                is_in_brackets = character == '[';
                steps.push(String::new());
            }
            (']', true) => is_in_brackets = false,
            (other, _) => {
                if let Some(step) = steps.last_mut() {
                    step.push(other);
                }
            }
        }
    }
    steps.retain(|step| !step.is_empty());
    steps
}

impl<'de> Deserialize<'de> for SpanNode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<SpanNode, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = SpanNode;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<SpanNode, E> {
        Ok(SpanNode::Scalar)
    }

    fn visit_i64<E>(self, _: i64) -> Result<SpanNode, E> {
        Ok(SpanNode::Scalar)
    }

    fn visit_i128<E>(self, _: i128) -> Result<SpanNode, E> {
        Ok(SpanNode::Scalar)
    }

    fn visit_u64<E>(self, _: u64) -> Result<SpanNode, E> {
        Ok(SpanNode::Scalar)
    }

    fn visit_u128<E>(self, _: u128) -> Result<SpanNode, E> {
        Ok(SpanNode::Scalar)
    }

    fn visit_f64<E>(self, _: f64) -> Result<SpanNode, E> {
        Ok(SpanNode::Scalar)
    }

    fn visit_str<E>(self, _: &str) -> Result<SpanNode, E> {
        Ok(SpanNode::Scalar)
    }

    fn visit_bytes<E>(self, _: &[u8]) -> Result<SpanNode, E> {
        Ok(SpanNode::Scalar)
    }

    fn visit_unit<E>(self) -> Result<SpanNode, E> {
        Ok(SpanNode::Scalar)
    }

    fn visit_none<E>(self) -> Result<SpanNode, E> {
        Ok(SpanNode::Scalar)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<SpanNode, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<SpanNode, A::Error> {
        let mut found = Vec::new();
        while let Some(item) = items.next_element()? {
            found.push(item);
        }
        Ok(SpanNode::Sequence(found))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<SpanNode, A::Error> {
        let mut found = Vec::new();
        while let Some(field) = fields.next_entry()? {
            found.push(field);
        }
        Ok(SpanNode::Mapping(found))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_places() {
        let text = "metadata:\n  annotations: {redis-mesh.io/data-path: direct}\nspec:\n  host: [a, \"b\"]\n  redis:\n  - route:\n      host: c\n";
        let tree = SpanTree::parse(text, 10, serde_saphyr::Options::default()).unwrap();
        for (path, line, column) in [
            ("", 11, 1),
            ("metadata.annotations[redis-mesh.io/data-path]", 12, 42),
            ("spec.host[1]", 14, 13),
            ("spec.redis[0].route.host", 17, 13),
            // The mapping around a field that is missing.
            ("spec.redis[0].route.port", 17, 7),
            ("spec.redis[3].route", 16, 5),
        ] {
            let span = tree.find(path).unwrap();
            assert_eq!((span.line, span.column), (line, column), "{path}");
        }
        assert!(SpanTree::parse("a: [", 0, serde_saphyr::Options::default()).is_none());
    }
}
