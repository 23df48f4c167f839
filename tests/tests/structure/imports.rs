//! Which file needs which other: by `use` items, and by paths that are written where they are
//! used.

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Attribute, ItemUse, Path, Visibility};

use crate::source::{Crate, Import, Target, imports, is_reexport, is_test};

/// One file's need of another.
pub struct Edge {
    /// The file that needs.
    pub from: usize,
    /// The file that is needed.
    pub to: usize,
    /// The line in `from`.
    pub line: usize,
    /// The path as it is written there.
    pub path: String,
}

/// All imports of an item, those inside functions included.
#[derive(Default)]
pub struct Uses {
    /// The imports, in the order of the source.
    pub imports: Vec<Import>,
}

impl<'ast> Visit<'ast> for Uses {
    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        if item.leading_colon.is_none() && !is_test(&item.attrs) {
            self.imports.extend(imports(&item.tree));
        }
    }
}

/// The edges between a crate's files, by names; calls of methods that another file defines for the
/// same type don't count. A module's declaration isn't an edge, nor is a re-export: what
/// is imported through it counts as imported from where it is defined. The import of a module
/// itself counts where something of it is named.
pub fn edges(crate_: &Crate) -> Vec<Edge> {
    let mut edges = Vec::new();
    for (index, module) in crate_.modules.iter().enumerate() {
        let mut visitor = Paths { crate_, module: index, edges: Vec::new() };
        for item in &module.items {
            visitor.visit_item(item);
        }
        edges.append(&mut visitor.edges);
    }
    edges
}

struct Paths<'a> {
    crate_: &'a Crate,
    module: usize,
    edges: Vec<Edge>,
}

impl Paths<'_> {
    fn add(&mut self, path: &[String], line: usize) {
        let from = self.crate_.modules[self.module].file;
        for target in self.crate_.resolve(self.module, path) {
            if let Target::File(to) = target
                && to != from
            {
                self.edges.push(Edge { from, to, line, path: path.join("::") });
            }
        }
    }
}

impl<'ast> Visit<'ast> for Paths<'_> {
    fn visit_attribute(&mut self, _: &'ast Attribute) {}

    fn visit_visibility(&mut self, _: &'ast Visibility) {}

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        if item.leading_colon.is_some() || is_reexport(&item.vis) || is_test(&item.attrs) {
            return;
        }
        for import in imports(&item.tree) {
            self.add(&import.path, import.line);
            if import.name.is_none() {
                // Everything of a module: what the module's file defines.
                let file = |target| match target {
                    Target::Module(module) => Some(self.crate_.modules[module].file),
                    Target::File(_) => None,
                };
                let from = self.crate_.modules[self.module].file;
                let targets = self.crate_.resolve(self.module, &import.path);
                for to in targets.into_iter().filter_map(file).filter(|to| *to != from) {
                    self.edges.push(Edge { from, to, line: import.line, path: import.path.join("::") + "::*" });
                }
            }
        }
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        if !is_test(&item.attrs) {
            visit::visit_item_fn(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        if !is_test(&item.attrs) {
            visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_path(&mut self, path: &'ast Path) {
        if path.leading_colon.is_none()
            && let Some(first) = path.segments.first()
        {
            let names: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
            self.add(&names, first.ident.span().start().line);
        }
        visit::visit_path(self, path);
    }

    fn visit_token_stream(&mut self, tokens: &'ast TokenStream) {
        scan(tokens.clone(), &mut |path, line| self.add(path, line));
    }
}

/// Finds paths of two and more parts among the tokens of a macro's call.
fn scan(tokens: TokenStream, found: &mut dyn FnMut(&[String], usize)) {
    let mut path: Vec<String> = Vec::new();
    let mut line = 0;
    let mut colons = 0;
    for token in tokens {
        match token {
            TokenTree::Ident(ident) if !path.is_empty() && colons == 2 => path.push(ident.to_string()),
            TokenTree::Punct(punct) if punct.as_char() == ':' => {
                colons += 1;
                continue;
            }
            other => {
                if path.len() > 1 {
                    found(&path, line);
                }
                path.clear();
                match other {
                    TokenTree::Ident(ident) => {
                        line = ident.span().start().line;
                        path.push(ident.to_string());
                    }
                    TokenTree::Group(group) => scan(group.stream(), found),
                    TokenTree::Punct(_) | TokenTree::Literal(_) => {}
                }
            }
        }
        colons = 0;
    }
    if path.len() > 1 {
        found(&path, line);
    }
}
