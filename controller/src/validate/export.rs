//! `exportTo`: the namespaces that an object is for.

use crate::diagnostic::{Code, FieldReporter};
use crate::exports::Exports;

/// Reads `exportTo`.
pub fn read(words: &[String], namespace: &str, field: &mut FieldReporter<'_>) -> Exports {
    let mut known: Vec<&str> = Vec::new();
    for (index, word) in words.iter().enumerate() {
        let mut field = field.at(format_args!("[{index}]"));
        if !matches!(word.as_str(), "*" | ".") && !is_namespace(word) {
            let message = format!("`{word}` is not the name of a namespace");
            field.report(
                Code::InvalidNamespace,
                message,
                "write a namespace, or `.` for this one, or `*` alone for all",
            );
            continue;
        }
        if known.contains(&word.as_str()) {
            field.report(Code::DuplicateNamespace, format!("names `{word}` twice"), "remove one");
        }
        known.push(word);
    }
    if known.len() > 1 && known.contains(&"*") {
        let (message, remedy) = ("`*` means all namespaces, so no other one can be given", "remove `*`, or the others");
        field.report(Code::InvalidNamespace, message, remedy);
    }
    Exports::of(known, namespace)
}

/// True for the name of a namespace, which is a label of DNS.
fn is_namespace(word: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&word.len()) && word.bytes().all(is_inner) && !word.starts_with('-') && !word.ends_with('-')
}
