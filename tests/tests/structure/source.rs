//! A crate's sources as a tree of modules, without what is compiled for tests only, and paths
//! resolved in it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use redis_mesh_tests::workspace;
use syn::{Attribute, Item, UseTree, Visibility};

/// The longest chain of re-exports that is followed.
const MAX_HOPS: usize = 6;

/// A crate, parsed.
pub struct Crate {
    /// A short name for reports.
    pub name: String,
    /// The module files, below the root of the checkout.
    pub files: Vec<PathBuf>,
    /// The modules; the crate's root comes first.
    pub modules: Vec<Module>,
}

/// A module: a file, or a `mod name { … }` in one.
pub struct Module {
    /// The index of its file in [`Crate::files`].
    pub file: usize,
    /// Its items, those of tests aside.
    pub items: Vec<Item>,
    parent: Option<usize>,
    /// What a name stands for in this module; more than one thing if a name is both a type and a
    /// function.
    names: HashMap<String, Vec<Name>>,
    globs: Vec<Vec<String>>,
}

/// What a name stands for.
enum Name {
    /// A child module.
    Module(usize),
    /// An item that is defined here.
    Item,
    /// What a `use` item brings.
    Import(Vec<String>),
}

/// What a path leads to.
#[derive(Clone, Copy, PartialEq)]
pub enum Target {
    /// An item that is defined in a file.
    File(usize),
    /// A module itself.
    Module(usize),
}

/// One import of a `use` item.
pub struct Import {
    /// The path, without a final `self` or `*`.
    pub path: Vec<String>,
    /// The name that it has here; `None` for `*`.
    pub name: Option<String>,
    /// The line of its last part.
    pub line: usize,
}

/// Reads a file of the checkout.
pub fn on_disk(path: &Path) -> Option<String> {
    std::fs::read_to_string(workspace::root().join(path)).ok()
}

/// Parses the crate whose root is the file `root`. `read` returns a file's text, or `None` if
/// there is no such file.
pub fn load(name: &str, root: &str, read: &dyn Fn(&Path) -> Option<String>) -> Crate {
    let mut crate_ = Crate { name: name.to_owned(), files: Vec::new(), modules: Vec::new() };
    let root = Path::new(root);
    let text = read(root).unwrap_or_else(|| panic!("no file {}", root.display()));
    crate_.add_file(root, root.parent().unwrap_or(Path::new("")), &text, None, read);
    crate_
}

/// Parses a crate that is given as `(file, text)`; its root is `lib.rs`.
pub fn in_memory(files: &[(&str, &str)]) -> Crate {
    let read = |path: &Path| {
        let found = files.iter().find(|(name, _)| Path::new(name) == path);
        found.map(|(_, text)| (*text).to_owned())
    };
    load("it", "lib.rs", &read)
}

/// Whether an item is compiled for tests only.
pub fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("test")
            || attribute.path().is_ident("cfg")
                && attribute.parse_args::<syn::Path>().is_ok_and(|arg| arg.is_ident("test"))
    })
}

/// The attributes of an item.
pub fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::ExternCrate(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::ForeignMod(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Union(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

/// The name that an item defines, other than by importing it.
fn defined(item: &Item) -> Option<String> {
    let ident = match item {
        Item::Const(item) => &item.ident,
        Item::Enum(item) => &item.ident,
        Item::Fn(item) => &item.sig.ident,
        Item::Macro(item) => item.ident.as_ref()?,
        Item::Static(item) => &item.ident,
        Item::Struct(item) => &item.ident,
        Item::Trait(item) => &item.ident,
        Item::Type(item) => &item.ident,
        Item::Union(item) => &item.ident,
        _ => return None,
    };
    Some(ident.to_string())
}

/// The imports of a `use` tree, one by one.
pub fn imports(tree: &UseTree) -> Vec<Import> {
    fn walk(tree: &UseTree, prefix: &[String], all: &mut Vec<Import>) {
        let with = |name: String| prefix.iter().cloned().chain([name]).collect::<Vec<_>>();
        match tree {
            UseTree::Path(path) => walk(&path.tree, &with(path.ident.to_string()), all),
            UseTree::Group(group) => group.items.iter().for_each(|item| walk(item, prefix, all)),
            UseTree::Glob(glob) => {
                all.push(Import { path: prefix.to_vec(), name: None, line: glob.star_token.span.start().line });
            }
            UseTree::Name(name) => {
                let path = if name.ident == "self" { prefix.to_vec() } else { with(name.ident.to_string()) };
                all.push(Import { name: path.last().cloned(), path, line: name.ident.span().start().line });
            }
            UseTree::Rename(rename) => {
                let path = if rename.ident == "self" { prefix.to_vec() } else { with(rename.ident.to_string()) };
                let line = rename.ident.span().start().line;
                all.push(Import { path, name: Some(rename.rename.to_string()), line });
            }
        }
    }
    let mut all = Vec::new();
    walk(tree, &[], &mut all);
    all
}

/// Whether a `use` item makes names visible outside its module.
pub fn is_reexport(visibility: &Visibility) -> bool {
    !matches!(visibility, Visibility::Inherited)
}

impl Crate {
    /// The path of a file as reports show it.
    pub fn shown(&self, file: usize) -> String {
        self.files[file].display().to_string()
    }

    /// Adds a module file; the files of its child modules are in `children`.
    fn add_file(
        &mut self,
        path: &Path,
        children: &Path,
        text: &str,
        parent: Option<usize>,
        read: &dyn Fn(&Path) -> Option<String>,
    ) -> usize {
        let parsed = syn::parse_file(text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        self.files.push(path.to_owned());
        self.add_module(self.files.len() - 1, children, parsed.items, parent, read)
    }

    fn add_module(
        &mut self,
        file: usize,
        children: &Path,
        items: Vec<Item>,
        parent: Option<usize>,
        read: &dyn Fn(&Path) -> Option<String>,
    ) -> usize {
        let index = self.modules.len();
        self.modules.push(Module { file, items: Vec::new(), parent, names: HashMap::new(), globs: Vec::new() });
        let mut kept = Vec::new();
        for item in items {
            if is_test(attributes(&item)) {
                continue;
            }
            if let Item::Mod(module) = item {
                let name = module.ident.to_string();
                let below = children.join(&name);
                let child = match module.content {
                    Some((_, items)) => self.add_module(file, &below, items, Some(index), read),
                    None => {
                        let candidates = [below.with_extension("rs"), below.join("mod.rs")];
                        let (path, text) = candidates
                            .iter()
                            .find_map(|path| Some((path, read(path)?)))
                            .unwrap_or_else(|| panic!("no file for module {name} of {}", self.shown(file)));
                        self.add_file(path, &below, &text, Some(index), read)
                    }
                };
                self.modules[index].names.entry(name).or_default().push(Name::Module(child));
            } else {
                kept.push(item);
            }
        }
        let module = &mut self.modules[index];
        for item in &kept {
            module.declare(item);
        }
        module.items = kept;
        index
    }

    /// What a path means that is written in a module; nothing if it leads out of the crate.
    pub fn resolve(&self, module: usize, path: &[String]) -> Vec<Target> {
        self.follow(module, path, 0)
    }

    fn follow(&self, module: usize, path: &[String], hops: usize) -> Vec<Target> {
        let Some((first, mut rest)) = path.split_first() else { return Vec::new() };
        let mut targets = match first.as_str() {
            "crate" => vec![Target::Module(0)],
            "self" => vec![Target::Module(module)],
            "super" => {
                let mut at = self.modules[module].parent.unwrap_or(0);
                while let Some((_, others)) = rest.split_first().filter(|(next, _)| *next == "super") {
                    at = self.modules[at].parent.unwrap_or(0);
                    rest = others;
                }
                vec![Target::Module(at)]
            }
            name => self.lookup(module, name, hops),
        };
        for name in rest {
            let mut next = Vec::new();
            for target in targets {
                match target {
                    // An associated item or a variant of what the file defines.
                    Target::File(_) => next.push(target),
                    Target::Module(module) => {
                        let found = self.lookup(module, name, hops);
                        // What isn't found has been made by a macro.
                        let made = Target::File(self.modules[module].file);
                        next.extend(if found.is_empty() { vec![made] } else { found });
                    }
                }
            }
            targets = next;
        }
        targets.dedup();
        targets
    }

    fn lookup(&self, module: usize, name: &str, hops: usize) -> Vec<Target> {
        if hops > MAX_HOPS {
            return Vec::new();
        }
        let here = &self.modules[module];
        if let Some(names) = here.names.get(name) {
            return names
                .iter()
                .flat_map(|name| match name {
                    Name::Module(child) => vec![Target::Module(*child)],
                    Name::Item => vec![Target::File(here.file)],
                    Name::Import(path) => self.follow(module, path, hops + 1),
                })
                .collect();
        }
        let globs = here.globs.iter().flat_map(|path| self.follow(module, path, hops + 1));
        globs
            .flat_map(|target| match target {
                Target::Module(other) if other != module => self.lookup(other, name, hops + 1),
                _ => Vec::new(),
            })
            .collect()
    }
}

impl Module {
    fn declare(&mut self, item: &Item) {
        if let Some(name) = defined(item) {
            self.names.entry(name).or_default().push(Name::Item);
        }
        // Names that functions import for themselves are taken for the module's.
        let mut uses = crate::imports::Uses::default();
        syn::visit::visit_item(&mut uses, item);
        for import in uses.imports {
            match import.name {
                Some(name) => self.names.entry(name).or_default().push(Name::Import(import.path)),
                None => self.globs.push(import.path),
            }
        }
    }
}
