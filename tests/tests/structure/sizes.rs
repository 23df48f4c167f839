//! How large files, functions and types may get.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{Attribute, Block, FnArg, Item, Signature, Type};
use walkdir::{DirEntry, WalkDir};

use crate::Violation;
use crate::source::{Crate, Target, is_test};

const MAX_FILE_LINES: usize = 500;
const MAX_FUNCTION_LINES: usize = 60;
const MAX_PARAMETERS: usize = 5;
const MAX_METHODS: usize = 25;
const MAX_FIELDS: usize = 12;

/// Directories with sources of ours.
const SOURCES: [&str; 3] = ["controller", "filter", "tests"];

/// Files that may be longer, each with the reason.
const LONG_FILES: [(&str, &str); 1] = [("filter/core/src/command/table.rs", "generated from what servers report")];

/// What a type derives that mirrors a document or a command line: its fields are as many as the
/// user may set.
const MIRRORS: [&str; 7] = ["Args", "CustomResource", "Deserialize", "JsonSchema", "Parser", "Serialize", "Subcommand"];

/// Reports files that are too long.
pub fn files(root: &Path) -> Vec<Violation> {
    let is_ours = |entry: &DirEntry| {
        let name = entry.file_name().to_string_lossy();
        !(entry.file_type().is_dir() && (name == "target" || name == "node_modules" || name.starts_with('.')))
    };
    let entries = SOURCES.iter().flat_map(|source| WalkDir::new(root.join(source)).into_iter().filter_entry(is_ours));
    let mut paths: Vec<PathBuf> = entries.filter_map(Result::ok).map(DirEntry::into_path).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "rs"));
    paths.sort();
    let mut violations = Vec::new();
    for path in paths {
        let shown = path.strip_prefix(root).unwrap_or(&path).display().to_string();
        let lines = std::fs::read_to_string(&path).unwrap_or_default().lines().count();
        if lines > MAX_FILE_LINES && !LONG_FILES.iter().any(|(file, _)| *file == shown) {
            let text = format!("{shown}:1: {lines} lines");
            violations.push(Violation { rule: "files of more than 500 lines", text });
        }
    }
    violations
}

/// Reports functions that are too long or take too much, unless an attribute gives a reason:
/// `#[allow(clippy::too_many_lines, reason = "…")]`, `#[allow(clippy::too_many_arguments, reason =
/// "…")]`.
pub fn functions(crate_: &Crate) -> Vec<Violation> {
    let mut visitor = Functions { file: String::new(), long: Vec::new(), wide: Vec::new(), is_dictated: false };
    for module in &crate_.modules {
        visitor.file = crate_.shown(module.file);
        for item in &module.items {
            visitor.visit_item(item);
        }
    }
    let mut violations = visitor.long;
    violations.extend(visitor.wide);
    violations
}

struct Functions {
    file: String,
    long: Vec<Violation>,
    wide: Vec<Violation>,
    /// Within the implementation of a trait, which dictates the parameters.
    is_dictated: bool,
}

impl Functions {
    fn check(&mut self, attributes: &[Attribute], signature: &Signature, block: &Block) {
        let (first, last) = (signature.span().start().line, block.brace_token.span.close().end().line);
        let place = format!("{}:{first}: `{}`", self.file, signature.ident);
        let lines = last - first + 1;
        if lines > MAX_FUNCTION_LINES && !has_reason(attributes, "too_many_lines") {
            let text = format!("{place} has {lines} lines");
            self.long.push(Violation { rule: "functions of more than 60 lines without a reason", text });
        }
        let parameters = signature.inputs.iter().filter(|input| matches!(input, FnArg::Typed(_))).count();
        let is_dictated = self.is_dictated || signature.abi.is_some();
        if parameters > MAX_PARAMETERS && !is_dictated && !has_reason(attributes, "too_many_arguments") {
            let text = format!("{place} has {parameters} parameters");
            self.wide.push(Violation { rule: "functions of more than five parameters without a reason", text });
        }
    }
}

impl<'ast> Visit<'ast> for Functions {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        if !is_test(&item.attrs) {
            self.check(&item.attrs, &item.sig, &item.block);
            visit::visit_item_fn(self, item);
        }
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        self.is_dictated = item.trait_.is_some();
        visit::visit_item_impl(self, item);
        self.is_dictated = false;
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        if !is_test(&item.attrs) {
            self.check(&item.attrs, &item.sig, &item.block);
            visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if let Some(block) = &item.default {
            self.check(&item.attrs, &item.sig, block);
        }
        visit::visit_trait_item_fn(self, item);
    }
}

/// Whether an attribute allows or expects one of Clippy's lints and says why.
fn has_reason(attributes: &[Attribute], lint: &str) -> bool {
    attributes.iter().any(|attribute| {
        let (mut named, mut reasoned) = (false, false);
        let is_level = attribute.path().is_ident("allow") || attribute.path().is_ident("expect");
        let read = is_level.then(|| {
            attribute.parse_nested_meta(|meta| {
                named |= meta.path.segments.last().is_some_and(|segment| segment.ident == lint);
                if meta.path.is_ident("reason") {
                    let text: syn::LitStr = meta.value()?.parse()?;
                    reasoned = !text.value().trim().is_empty();
                }
                Ok(())
            })
        });
        read.is_some_and(|read| read.is_ok()) && named && reasoned
    })
}

/// Reports types with too many methods or fields.
pub fn types(crate_: &Crate) -> Vec<Violation> {
    let mut violations = methods(crate_);
    for module in &crate_.modules {
        for item in &module.items {
            let Item::Struct(item) = item else { continue };
            let fields = item.fields.iter().count();
            if fields > MAX_FIELDS && !derived(&item.attrs).iter().any(|name| MIRRORS.contains(&name.as_str())) {
                let (file, line) = (crate_.shown(module.file), item.ident.span().start().line);
                let text = format!("{file}:{line}: `{}` has {fields} fields", item.ident);
                violations.push(Violation { rule: "types of more than 12 fields", text });
            }
        }
    }
    violations
}

/// The methods of a type are counted over all its inherent `impl` blocks in the crate.
fn methods(crate_: &Crate) -> Vec<Violation> {
    let mut counts: BTreeMap<(usize, String), (usize, Vec<String>)> = BTreeMap::new();
    for (index, module) in crate_.modules.iter().enumerate() {
        for item in &module.items {
            let Item::Impl(item) = item else { continue };
            let Type::Path(path) = &*item.self_ty else { continue };
            if item.trait_.is_some() {
                continue;
            }
            let names: Vec<String> = path.path.segments.iter().map(|segment| segment.ident.to_string()).collect();
            let is_file = |target: &Target| matches!(target, Target::File(_));
            let file = match crate_.resolve(index, &names).into_iter().find(is_file) {
                Some(Target::File(file)) => file,
                _ => module.file,
            };
            let (count, places) = counts.entry((file, names.last().cloned().unwrap_or_default())).or_default();
            let is_method =
                |item: &&syn::ImplItem| matches!(item, syn::ImplItem::Fn(method) if !is_test(&method.attrs));
            *count += item.items.iter().filter(is_method).count();
            places.push(format!("{}:{}", crate_.shown(module.file), item.impl_token.span.start().line));
        }
    }
    let too_many = counts.into_iter().filter(|(_, (count, _))| *count > MAX_METHODS);
    too_many
        .map(|((file, name), (count, places))| {
            let text = format!("{}: `{name}` has {count} methods ({})", crate_.shown(file), places.join(", "));
            Violation { rule: "types of more than 25 methods", text }
        })
        .collect()
}

/// The names of the traits that a type derives.
fn derived(attributes: &[Attribute]) -> Vec<String> {
    let mut names = Vec::new();
    for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("derive")) {
        let _ = attribute.parse_nested_meta(|meta| {
            names.extend(meta.path.segments.last().map(|segment| segment.ident.to_string()));
            Ok(())
        });
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::in_memory;

    fn texts(violations: Vec<Violation>) -> Vec<String> {
        violations.into_iter().map(|violation| violation.text).collect()
    }

    #[test]
    fn a_function_may_take_much_or_be_long_for_a_reason() {
        let parameters = "(_: u8, _: u8, _: u8, _: u8, _: u8, _: u8)";
        let long = "\n".repeat(60);
        let source = format!(
            "fn wide{parameters} {{}}\n\
             fn long() {{{long}}}\n\
             #[allow(clippy::too_many_arguments)]\nfn unreasoned{parameters} {{}}\n\
             #[allow(clippy::too_many_arguments, clippy::too_many_lines, reason = \"a table\")]\n\
             fn reasoned{parameters} {{{long}}}\n\
             struct A;\nimpl A {{ fn narrow(&self, _: u8, _: u8, _: u8, _: u8, _: u8) {{}} }}\n\
             extern \"C\" fn dictated{parameters} {{}}\n"
        );
        let found = texts(functions(&in_memory(&[("lib.rs", &source)])));
        let expected = [
            "lib.rs:2: `long` has 61 lines",
            "lib.rs:1: `wide` has 6 parameters",
            "lib.rs:64: `unreasoned` has 6 parameters",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn methods_are_counted_over_all_files() {
        let methods = |from: usize| (from..from + 13).map(|i| format!("fn m{i}() {{}}\n")).collect::<String>();
        let child = format!("impl super::A {{\n{}}}", methods(13));
        let root = format!("mod child;\nstruct A;\nimpl A {{\n{}}}", methods(0));
        let found = texts(types(&in_memory(&[("lib.rs", &root), ("child.rs", &child)])));
        assert_eq!(found, ["lib.rs: `A` has 26 methods (lib.rs:3, child.rs:1)"]);
    }

    #[test]
    fn what_mirrors_a_document_may_have_any_number_of_fields() {
        let fields = (0..13).map(|i| format!("f{i}: u8, ")).collect::<String>();
        let source = format!("struct A {{ {fields} }}\n#[derive(Debug, serde::Deserialize)]\nstruct B {{ {fields} }}");
        let found = texts(types(&in_memory(&[("lib.rs", &source)])));
        assert_eq!(found, ["lib.rs:1: `A` has 13 fields"]);
    }
}
