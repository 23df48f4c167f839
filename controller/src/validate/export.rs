//! `exportTo`: the namespaces that an object is for.

use crate::crd::export::MESSAGE;
use crate::diagnostic::{Code, FieldReporter};
use crate::exports::Exports;

use super::host;

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
        field.report(Code::InvalidNamespace, MESSAGE, "remove `*`, or the others");
    }
    Exports::of(known, namespace)
}

/// True for the name of a namespace, which is a label of DNS in lower case.
fn is_namespace(word: &str) -> bool {
    host::is_label(word) && !word.bytes().any(|byte| byte == b'_' || byte.is_ascii_uppercase())
}
