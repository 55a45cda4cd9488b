//! No file imports itself by way of others, and no folder does (CONTRIBUTING.md, "Layers").
//!
//! An edge leads from a file to each file that its `use` declarations and paths name, outside of
//! tests. A `mod` line and a re-export are no edges; a child that uses what its parent's file
//! defines is one. A name that a file re-exports counts as that file's, and as the one's that
//! defines it.

use std::collections::{BTreeMap, BTreeSet};

use crate::source::{self, Module, Segments, Target};

/// Edges by index of the module, each with a path that makes it.
type Graph<N> = BTreeMap<N, BTreeMap<N, String>>;

#[test]
fn no_file_and_no_folder_is_in_a_circle() {
    let mut circles = Vec::new();
    for (name, root) in source::targets() {
        let target = source::read(name, &root);
        let files = edges(&target);
        let name_of = |index: &usize| file(&target.modules[*index]);
        circles.extend(
            self::circles(&files)
                .iter()
                .map(|c| text(&target, c, name_of)),
        );
        let mut graphs = folders(&target, &files);
        graphs.push(own_folders(&target, &files));
        for graph in graphs {
            circles.extend(
                self::circles(&graph)
                    .iter()
                    .map(|c| text(&target, c, String::clone)),
            );
        }
    }
    assert!(
        circles.is_empty(),
        "circles of imports:\n{}",
        circles.join("\n")
    );
}

fn file(module: &Module) -> String {
    let path = module
        .file
        .strip_prefix(source::root())
        .unwrap_or(&module.file);
    path.display().to_string()
}

fn text<N>(target: &Target, circle: &[(N, String)], name: impl Fn(&N) -> String) -> String {
    let steps = circle
        .iter()
        .map(|(node, by)| format!("  {} uses {by}", name(node)));
    format!("{}:\n{}", target.name, steps.collect::<Vec<_>>().join("\n"))
}

/// The edges between the files of a target.
fn edges(target: &Target) -> Graph<usize> {
    let mut graph = Graph::new();
    for (from, module) in target.modules.iter().enumerate() {
        let to: &mut BTreeMap<usize, String> = graph.entry(from).or_default();
        for path in &module.paths {
            for index in resolve(target, module, path) {
                if index != from {
                    to.entry(index).or_insert_with(|| path.join("::"));
                }
            }
        }
    }
    graph
}

/// The files that a path leads to, those that only re-export included.
fn resolve(target: &Target, module: &Module, path: &[String]) -> BTreeSet<usize> {
    let mut files = BTreeSet::new();
    let mut seen = BTreeSet::new();
    let mut todo = vec![(module, path.to_vec(), true)];
    while let Some((module, path, inside)) = todo.pop() {
        if !seen.insert((module.path.clone(), path.clone())) {
            continue;
        }
        let Some(path) = absolute(target, module, &path, inside) else {
            continue;
        };
        let find = |path: &[String]| target.modules.iter().position(|m| m.path == path);
        let known = (0..=path.len()).rev().find(|n| find(&path[..*n]).is_some());
        let depth = known.unwrap_or(0);
        let index = find(&path[..depth]).unwrap_or(0);
        let rest = &path[depth..];
        let Some(name) = rest.first() else {
            files.insert(index);
            continue;
        };
        if let Some(macros) = target.macros.get(name).filter(|_| depth == 0) {
            files.extend(find(macros));
            continue;
        }
        files.insert(index);
        if let Some(to) = target.modules[index].names.get(name) {
            let whole = to.iter().chain(&rest[1..]).cloned().collect();
            todo.push((&target.modules[index], whole, false));
        }
    }
    files
}

/// A path from the root of the target; `None` for one that leads out of it.
fn absolute(target: &Target, module: &Module, path: &[String], inside: bool) -> Option<Segments> {
    let mut here = module.path.clone();
    let mut rest = path;
    match path.first().map(String::as_str)? {
        "crate" => {
            here.clear();
            rest = &path[1..];
        }
        "self" => rest = &path[1..],
        "super" => {
            while rest.first().is_some_and(|s| s == "super") {
                here.pop()?;
                rest = &rest[1..];
            }
        }
        first => {
            let mut child = here.clone();
            child.push(first.to_owned());
            if !target.modules.iter().any(|m| m.path == child) {
                // A name in scope: its own path is an edge already, and leads further here.
                let name = module.names.get(first).filter(|_| inside)?;
                let whole: Segments = name.iter().chain(&path[1..]).cloned().collect();
                if whole.first().is_some_and(|f| f == first) {
                    return None;
                }
                return absolute(target, module, &whole, false);
            }
        }
    }
    here.extend(rest.iter().cloned());
    Some(here)
}

/// The folders' own graph: a folder is its parent's file and the files in it, without the folders
/// in it. A file in the root of the crate that has no folder stands for itself.
fn own_folders(target: &Target, files: &Graph<usize>) -> Graph<String> {
    let has_children = |path: &[String]| {
        let below = |m: &Module| m.path.len() == path.len() + 1 && m.path.starts_with(path);
        target.modules.iter().any(below)
    };
    let folder = |index: &usize| {
        let path = &target.modules[*index].path;
        let parent = path.len().saturating_sub(1);
        let whole = parent == 0 || has_children(path);
        path[..if whole { path.len() } else { parent }].join("::")
    };
    let mut graph = Graph::new();
    for (from, edges) in files {
        for (to, by) in edges {
            let (a, b) = (folder(from), folder(to));
            if a != b {
                let by = format!("{by} ({})", file(&target.modules[*from]));
                graph.entry(a).or_insert_with(BTreeMap::new).insert(b, by);
            }
        }
    }
    graph
}

/// The graphs of folders: for each module the one of its children, each with all below it.
fn folders(target: &Target, files: &Graph<usize>) -> Vec<Graph<String>> {
    let parents: BTreeSet<Segments> = target
        .modules
        .iter()
        .filter_map(|m| m.path.split_last().map(|(_, parent)| parent.to_vec()))
        .collect();
    let child = |parent: &Segments, index: &usize| {
        let path = &target.modules[*index].path;
        (path.len() > parent.len() && path.starts_with(parent))
            .then(|| path[..=parent.len()].join("::"))
    };
    let graph = |parent: &Segments| {
        let mut graph = Graph::new();
        for (from, edges) in files {
            for (to, by) in edges {
                if let (Some(a), Some(b)) = (child(parent, from), child(parent, to))
                    && a != b
                {
                    let by = format!("{by} ({})", file(&target.modules[*from]));
                    graph.entry(a).or_insert_with(BTreeMap::new).insert(b, by);
                }
            }
        }
        graph
    };
    parents.iter().map(graph).collect()
}

/// Circles of a graph: for each node the shortest through it, each node with the path that leads to
/// the next. The same circle comes once.
fn circles<N: Ord + Clone>(graph: &Graph<N>) -> Vec<Vec<(N, String)>> {
    let mut found: BTreeMap<BTreeSet<N>, Vec<(N, String)>> = BTreeMap::new();
    for circle in graph.keys().filter_map(|node| circle_through(graph, node)) {
        let nodes = circle.iter().map(|(node, _)| node.clone()).collect();
        found.entry(nodes).or_insert(circle);
    }
    found.into_values().collect()
}

fn circle_through<N: Ord + Clone>(graph: &Graph<N>, start: &N) -> Option<Vec<(N, String)>> {
    let mut from: BTreeMap<&N, (&N, &String)> = BTreeMap::new();
    let mut todo = std::collections::VecDeque::from([start]);
    while let Some(node) = todo.pop_front() {
        for (next, by) in graph.get(node).into_iter().flatten() {
            if next == start {
                let mut circle = vec![(node.clone(), by.clone())];
                let mut at = node;
                while at != start {
                    let (before, by) = from[at];
                    circle.push((before.clone(), by.clone()));
                    at = before;
                }
                circle.reverse();
                return Some(circle);
            }
            if !from.contains_key(next) {
                from.insert(next, (node, by));
                todo.push_back(next);
            }
        }
    }
    None
}
