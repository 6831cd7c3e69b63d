//! Which files of a crate import from which, and whether they do so in a circle.
//!
//! A module and what lies inside it are one thing seen from outside, so circles are looked for among the modules that lie
//! side by side. Tests are left out. What a module exports again counts as imported from where it is.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// A module by the names of those that it lies in and its own; the crate's root has none.
type Module = Vec<String>;

/// A crate's modules, each with the paths that its code names.
pub(crate) struct Crate {
    paths: BTreeMap<Module, Vec<Import>>,
}

/// A path in a file's code, from the crate's root.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Import {
    path: Module,
    /// The name that a `use` gives it in its module.
    name: Option<String>,
}

impl Crate {
    /// Reads the files that a root file declares.
    pub(crate) fn read(root: &Path, files: &[std::path::PathBuf]) -> Self {
        let folder = root.parent().expect("a file has a folder");
        let of = |file: &Path| -> Module {
            if file == root {
                return Module::new();
            }
            let relative = file.strip_prefix(folder).unwrap_or(file).with_extension("");
            let names = relative
                .iter()
                .map(|name| name.to_string_lossy().into_owned());
            names.collect()
        };
        let codes = files.iter().map(|file| (of(file), code(file)));
        let codes: BTreeMap<_, _> = codes.filter(|(module, _)| !is_test(module)).collect();
        Self::of_code(&codes)
    }

    fn of_code(codes: &BTreeMap<Module, String>) -> Self {
        let imports = |(module, code): (&Module, &String)| {
            let paths = paths(code).into_iter();
            let absolute = paths.filter_map(|(path, name)| {
                let path = absolute(module, &path, |child| codes.contains_key(child))?;
                Some(Import { path, name })
            });
            (module.clone(), absolute.collect())
        };
        Self {
            paths: codes.iter().map(imports).collect(),
        }
    }

    /// Circles among modules that lie side by side: each an import that is part of one, as text.
    pub(crate) fn circles(&self) -> Vec<String> {
        let mut edges: BTreeMap<(Module, Module), (Module, Module)> = BTreeMap::new();
        for (from, imports) in &self.paths {
            for import in imports {
                let to = self.home(&import.path, &mut BTreeSet::new());
                let shared = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
                if shared < from.len() && shared < to.len() {
                    let sides = (from[..=shared].to_vec(), to[..=shared].to_vec());
                    edges.entry(sides).or_insert((from.clone(), to));
                }
            }
        }
        let leads_back = |from: &Module, to: &Module| {
            let mut reached = BTreeSet::from([to]);
            let mut open = vec![to];
            while let Some(module) = open.pop() {
                let next = edges.keys().filter(|(a, _)| a == module).map(|(_, b)| b);
                open.extend(next.filter(|module| reached.insert(module)));
            }
            reached.contains(from)
        };
        let circular = edges.iter().filter(|((a, b), _)| leads_back(a, b));
        circular
            .map(|(_, (from, to))| format!("{} -> {}", from.join("::"), to.join("::")))
            .collect()
    }

    /// The module that a path leads to, through what others export again.
    fn home(&self, path: &[String], seen: &mut BTreeSet<Module>) -> Module {
        let length = (0..=path.len()).rev();
        let mut known = length.filter(|&length| self.paths.contains_key(&path[..length]));
        let length = known.next().unwrap_or(0);
        let (module, rest) = path.split_at(length);
        let exported = self.paths.get(module).into_iter().flatten();
        let mut exported = exported.filter(|import| import.name.as_ref() == rest.first());
        match exported.next() {
            Some(import) if !rest.is_empty() && seen.insert(path.to_vec()) => {
                self.home(&[&import.path, &rest[1..]].concat(), seen)
            }
            _ => module.to_vec(),
        }
    }
}

fn is_test(module: &Module) -> bool {
    module.iter().any(|name| name == "tests")
}

/// A file's code before its inline test module, without comments.
fn code(file: &Path) -> String {
    let text = fs::read_to_string(file).expect("a file of the tree can be read");
    let lines = text.lines().take_while(|line| *line != "#[cfg(test)]");
    lines
        .map(|line| line.split("//").next().unwrap_or_default())
        .flat_map(|line| [line, "\n"])
        .collect()
}

/// The paths that code names in `use` items, with the names that these give, and elsewhere from `crate` or `super` on.
fn paths(code: &str) -> Vec<(Module, Option<String>)> {
    let mut found = Vec::new();
    let mut rest = String::new();
    for item in code.split_inclusive(';') {
        match item.rsplit_once("use ") {
            Some((before, tree)) if before.is_empty() || before.ends_with(['\n', ' ', '\t']) => {
                rest.push_str(before);
                leaves(&[], tree.trim_end_matches(';'), &mut found);
            }
            _ => rest.push_str(item),
        }
    }
    let is_part =
        |character: char| character.is_alphanumeric() || character == '_' || character == ':';
    let words = rest.split(|character| !is_part(character));
    let words = words.filter(|word| word.starts_with("crate::") || word.starts_with("super::"));
    found.extend(words.map(|word| (names(word), None)));
    found
}

fn names(path: &str) -> Module {
    let names = path
        .split("::")
        .map(str::trim)
        .filter(|name| !name.is_empty());
    names.map(str::to_owned).collect()
}

/// The leaves of a `use` tree: `a::{b, c::d as e}` has `a::b` and `a::c::d`, which is called `e`.
fn leaves(before: &[String], tree: &str, found: &mut Vec<(Module, Option<String>)>) {
    let whole = |path: &str| [before, &names(path)].concat();
    if let Some((path, inner)) = tree.trim().split_once('{') {
        let inner = inner.trim_end().strip_suffix('}').unwrap_or(inner);
        for part in parts(inner) {
            leaves(&whole(path), part, found);
        }
        return;
    }
    let (path, alias) = tree.split_once(" as ").unwrap_or((tree, ""));
    let mut path = whole(path);
    if path
        .last()
        .is_some_and(|name| name == "self" || name == "*")
    {
        path.pop();
    }
    let alias = Some(alias.trim().to_owned()).filter(|alias| !alias.is_empty());
    let name = alias.or_else(|| path.last().cloned());
    if !path.is_empty() {
        found.push((path, name));
    }
}

/// Divides at the commas that are in no braces.
fn parts(inner: &str) -> Vec<&str> {
    let mut depth = 0;
    let divided = inner.split(|character| {
        depth += i32::from(character == '{') - i32::from(character == '}');
        character == ',' && depth == 0
    });
    divided.filter(|part| !part.trim().is_empty()).collect()
}

/// A path from the crate's root, if it stays in the crate.
fn absolute(module: &Module, path: &[String], exists: impl Fn(&Module) -> bool) -> Option<Module> {
    let up = path.iter().take_while(|name| *name == "super").count();
    match path.first()?.as_str() {
        "crate" => Some(path[1..].to_vec()),
        "self" => Some([module, &path[1..]].concat()),
        "super" => Some([&module[..module.len().checked_sub(up)?], &path[up..]].concat()),
        first => {
            let child = [module.as_slice(), &[first.to_owned()]].concat();
            exists(&child).then(|| [module, path].concat())
        }
    }
}

#[test]
fn a_circle_is_found_through_what_is_exported_again() {
    let circles = |files: &[(&str, &str)]| {
        let codes = files
            .iter()
            .map(|(module, code)| (names(module), (*code).to_owned()));
        Crate::of_code(&codes.collect()).circles()
    };
    let root = ("", "mod a;\nmod b;\npub use b::{B, inner::{C as D}};\n");
    let inner = ("b::inner", "pub struct C;\n");
    let straight = [root, ("a", "use crate::D;\n"), ("b", "mod inner;\n"), inner];
    assert_eq!(circles(&straight), [""; 0]);
    let circle = ("b", "mod inner;\nfn f() { crate::a::g() }\n");
    let circular = [
        root,
        ("a", "use crate::{\n    D,\n    x::Y,\n};\n"),
        circle,
        inner,
    ];
    assert_eq!(circles(&circular), ["a -> b::inner", "b -> a"]);
    let parent = ("b", "mod inner;\nuse inner::C;\n");
    let child = ("b::inner", "use super::f;\npub struct C;\n");
    assert_eq!(circles(&[root, ("a", ""), parent, child]), [""; 0]);
}
