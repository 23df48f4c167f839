//! One meaning for each type name.

use std::collections::{BTreeMap, BTreeSet};

use syn::{Ident, Item};

use crate::Violation;
use crate::source::Crate;

/// Reports each type name that is defined in more than one file of the crates.
pub fn check<'a>(crates: impl Iterator<Item = &'a Crate>) -> Vec<Violation> {
    let mut places: BTreeMap<String, BTreeSet<(String, usize)>> = BTreeMap::new();
    for crate_ in crates {
        for module in &crate_.modules {
            for name in module.items.iter().filter_map(defined_type) {
                let place = (crate_.shown(module.file), name.span().start().line);
                places.entry(name.to_string()).or_default().insert(place);
            }
        }
    }
    let is_in_many =
        |places: &BTreeSet<(String, usize)>| places.iter().map(|(file, _)| file).collect::<BTreeSet<_>>().len() > 1;
    let many = places.into_iter().filter(|(_, places)| is_in_many(places));
    many.map(|(name, places)| {
        let places: Vec<String> = places.into_iter().map(|(file, line)| format!("{file}:{line}")).collect();
        let text = format!("{}: `{name}` is also defined at {}", places[0], places[1..].join(", "));
        Violation { rule: "type names with more than one meaning", text }
    })
    .collect()
}

/// The name of the type, trait or alias that an item defines.
fn defined_type(item: &Item) -> Option<&Ident> {
    match item {
        Item::Enum(item) => Some(&item.ident),
        Item::Struct(item) => Some(&item.ident),
        Item::Trait(item) => Some(&item.ident),
        Item::Type(item) => Some(&item.ident),
        Item::Union(item) => Some(&item.ident),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::in_memory;

    #[test]
    fn a_name_in_two_files_is_reported_once() {
        let crate_ = in_memory(&[
            ("lib.rs", "mod a;\nstruct Place;\n#[cfg(test)]\nmod tests { struct Config; }"),
            ("a.rs", "pub struct Config;\npub enum Place {}"),
        ]);
        let found: Vec<String> = check([&crate_].into_iter()).into_iter().map(|violation| violation.text).collect();
        assert_eq!(found, ["a.rs:2: `Place` is also defined at lib.rs:2"]);
    }
}
