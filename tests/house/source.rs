//! The source as a tree of modules: which files a target has, and what they define and name.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use proc_macro2::{TokenStream, TokenTree};
use quote::ToTokens;
use syn::{Attribute, Item, ItemUse, Meta, UseTree, Visibility};

/// A path of the program text, split at `::`.
pub type Segments = Vec<String>;

/// A module that has a file of its own.
#[derive(Debug)]
pub struct Module {
    /// Its path from the root of the target; empty for the root.
    pub path: Segments,
    /// Its file.
    pub file: PathBuf,
    /// What it defines: types, functions, constants, inline modules.
    pub items: Vec<String>,
    /// Names that `pub use` gives to what is defined elsewhere, and private `use` names.
    pub names: BTreeMap<String, Segments>,
    /// Paths that it names, in `use` declarations that are no re-exports and in code.
    pub paths: Vec<Segments>,
}

/// A target of cargo's: a library, a program, a test or an example.
#[derive(Debug)]
pub struct Target {
    /// Package and target.
    pub name: String,
    /// The root module is the first.
    pub modules: Vec<Module>,
    /// Macros of the target that are named by `crate::`, with their modules.
    pub macros: BTreeMap<String, Segments>,
}

/// The folder of the workspace.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Name and root file of all targets of the workspace but build scripts.
pub fn targets() -> Vec<(String, PathBuf)> {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--no-deps",
            "--offline",
            "--format-version",
            "1",
        ])
        .current_dir(root())
        .output()
        .expect("cargo metadata runs");
    assert!(output.status.success(), "cargo metadata failed");
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let mut targets = Vec::new();
    for package in packages {
        for target in package["targets"].as_array().unwrap() {
            let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
            let kind = text(&target["kind"][0]);
            let name = format!(
                "{} {kind} {}",
                text(&package["name"]),
                text(&target["name"])
            );
            targets.push((name, PathBuf::from(text(&target["src_path"]))));
        }
    }
    assert!(targets.len() > 5, "only these targets: {targets:?}");
    targets
}

/// Reads the modules of a target. What stands under `#[cfg(test)]` is left out.
pub fn read(name: String, root: &Path) -> Target {
    let mut target = Target {
        name,
        modules: Vec::new(),
        macros: BTreeMap::new(),
    };
    let folder = root.parent().unwrap().to_owned();
    read_module(&mut target, Vec::new(), root.to_owned(), &folder);
    target
}

fn read_module(target: &mut Target, path: Segments, file: PathBuf, folder: &Path) {
    let text = fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let parsed = syn::parse_file(&text).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let index = target.modules.len();
    target.modules.push(Module {
        path: path.clone(),
        file,
        items: Vec::new(),
        names: BTreeMap::new(),
        paths: Vec::new(),
    });
    let mut children = Vec::new();
    read_items(target, index, &parsed.items, 0, &mut children);
    for (name, given) in children {
        let mut child = path.clone();
        child.push(name.clone());
        let inside = folder.join(&name);
        let flat = folder.join(format!("{name}.rs"));
        let (found, inside) = match given {
            // As if that file were a mod.rs (the reference, "The path attribute").
            Some(given) => {
                let found = target.modules[index].file.parent().unwrap().join(given);
                let inside = found.parent().unwrap().to_owned();
                (found, inside)
            }
            None if flat.exists() => (flat, inside),
            None => (inside.join("mod.rs"), inside),
        };
        read_module(target, child, found, &inside);
    }
}

/// Reads items of a file; `depth` is the number of inline modules around them.
fn read_items(
    target: &mut Target,
    index: usize,
    items: &[Item],
    depth: usize,
    children: &mut Vec<(String, Option<String>)>,
) {
    for item in items {
        if is_test(item) {
            continue;
        }
        let path = target.modules[index].path.clone();
        let module = &mut target.modules[index];
        match item {
            Item::Mod(item) => match &item.content {
                None => children.push((item.ident.to_string(), path_attribute(&item.attrs))),
                Some((_, items)) => {
                    module.items.push(item.ident.to_string());
                    read_items(target, index, items, depth + 1, children);
                }
            },
            Item::Use(item) => read_use(module, item, depth),
            Item::Macro(item) => {
                if let (Some(name), true) = (&item.ident, has(&item.attrs, "macro_export")) {
                    target.macros.insert(name.to_string(), path);
                } else {
                    paths_in(item.mac.tokens.clone(), depth, &mut module.paths);
                }
            }
            item => {
                if let Some(name) = name_of(item) {
                    module.items.push(name);
                }
                paths_in(without_tests(item), depth, &mut module.paths);
            }
        }
    }
}

fn read_use(module: &mut Module, item: &ItemUse, depth: usize) {
    let reexport = !matches!(item.vis, Visibility::Inherited);
    let mut leaves = Vec::new();
    flatten(&item.tree, Vec::new(), &mut leaves);
    for (mut path, name) in leaves {
        leave_inline(&mut path, depth);
        if let Some(name) = name {
            module.names.insert(name, path.clone());
        }
        if !reexport {
            module.paths.push(path);
        }
    }
}

/// The paths of a `use` tree, each with the name that it gets; a glob gives none.
fn flatten(tree: &UseTree, mut path: Segments, leaves: &mut Vec<(Segments, Option<String>)>) {
    match tree {
        UseTree::Path(tree) => {
            path.push(tree.ident.to_string());
            flatten(&tree.tree, path, leaves);
        }
        UseTree::Name(tree) if tree.ident == "self" => {
            let name = path.last().cloned();
            leaves.push((path, name));
        }
        UseTree::Name(tree) => {
            path.push(tree.ident.to_string());
            leaves.push((path, Some(tree.ident.to_string())));
        }
        UseTree::Rename(tree) => {
            path.push(tree.ident.to_string());
            leaves.push((path, Some(tree.rename.to_string())));
        }
        UseTree::Glob(_) => leaves.push((path, None)),
        UseTree::Group(tree) => {
            for tree in &tree.items {
                flatten(tree, path.clone(), leaves);
            }
        }
    }
}

/// A path in an inline module, as it reads outside: each `super` leaves one.
fn leave_inline(path: &mut Segments, depth: usize) {
    for _ in 0..depth {
        if path.first().is_some_and(|first| first == "super") {
            path.remove(0);
        }
    }
}

/// All paths of two or more segments in these tokens, macros' arguments included.
fn paths_in(tokens: TokenStream, depth: usize, paths: &mut Vec<Segments>) {
    let mut path = Segments::new();
    let mut colons = 0;
    let mut finish = |path: &mut Segments| {
        if path.len() > 1 {
            let mut whole = path.clone();
            leave_inline(&mut whole, depth);
            paths.push(whole);
        }
        path.clear();
    };
    let mut groups = Vec::new();
    for token in tokens {
        match token {
            TokenTree::Ident(ident) => {
                if colons != 2 {
                    finish(&mut path);
                }
                path.push(ident.to_string());
                colons = 0;
            }
            TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
            token => {
                finish(&mut path);
                colons = 0;
                if let TokenTree::Group(group) = token {
                    groups.push(group.stream());
                }
            }
        }
    }
    finish(&mut path);
    for group in groups {
        paths_in(group, depth, paths);
    }
}

/// An item's tokens without attributes that hold documentation, and without test methods.
fn without_tests(item: &Item) -> TokenStream {
    let mut item = item.clone();
    if let Item::Impl(item) = &mut item {
        item.items.retain(|part| match part {
            syn::ImplItem::Fn(function) => !is_cfg_test(&function.attrs),
            syn::ImplItem::Const(constant) => !is_cfg_test(&constant.attrs),
            _ => true,
        });
    }
    item.into_token_stream()
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(i) => &i.attrs,
        Item::Enum(i) => &i.attrs,
        Item::Fn(i) => &i.attrs,
        Item::Impl(i) => &i.attrs,
        Item::Macro(i) => &i.attrs,
        Item::Mod(i) => &i.attrs,
        Item::Static(i) => &i.attrs,
        Item::Struct(i) => &i.attrs,
        Item::Trait(i) => &i.attrs,
        Item::Type(i) => &i.attrs,
        Item::Union(i) => &i.attrs,
        Item::Use(i) => &i.attrs,
        _ => &[],
    }
}

fn name_of(item: &Item) -> Option<String> {
    let name = match item {
        Item::Const(i) => &i.ident,
        Item::Enum(i) => &i.ident,
        Item::Fn(i) => &i.sig.ident,
        Item::Static(i) => &i.ident,
        Item::Struct(i) => &i.ident,
        Item::Trait(i) => &i.ident,
        Item::Type(i) => &i.ident,
        Item::Union(i) => &i.ident,
        _ => return None,
    };
    Some(name.to_string())
}

fn has(attributes: &[Attribute], name: &str) -> bool {
    attributes.iter().any(|a| a.path().is_ident(name))
}

fn is_cfg_test(attributes: &[Attribute]) -> bool {
    let is_test = |a: &Attribute| {
        let Meta::List(list) = &a.meta else {
            return false;
        };
        list.path.is_ident("cfg") && list.tokens.to_string() == "test"
    };
    attributes.iter().any(is_test)
}

/// Whether an item is compiled for tests only.
pub fn is_test(item: &Item) -> bool {
    is_cfg_test(attributes(item)) || has(attributes(item), "test")
}

fn path_attribute(attributes: &[Attribute]) -> Option<String> {
    let attribute = attributes.iter().find(|a| a.path().is_ident("path"))?;
    let Meta::NameValue(pair) = &attribute.meta else {
        return None;
    };
    match &pair.value {
        syn::Expr::Lit(syn::ExprLit {
            lit: syn::Lit::Str(text),
            ..
        }) => Some(text.value()),
        _ => None,
    }
}
