//! Who may import whom. The folder tree says it in words; this says it to a change that forgets.
#![allow(clippy::unwrap_used, reason = "a panic is the report")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::read_to_string;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Each package and the farm packages that it may depend on, dev-dependencies left out.
const ALLOWED: &[(&str, &[&str])] = &[
    ("farm-types", &[]),
    ("farm-dockerfile", &["farm-types"]),
    // Bytes only: what ssh keys and agents say.
    ("farm-ssh", &[]),
    ("farm-rules", &["farm-types"]),
    ("farm-proto", &["farm-types"]),
    // What commands and workers share of reading and bringing sources.
    ("farm-source", &["farm-types", "farm-dockerfile", "farm-client", "farm-proto"]),
    // Knows no service, so it compiles beside the generated code.
    ("farm-client", &[]),
    ("farm-core", &["farm-types"]),
    // What forges send, verified and read.
    ("farm-hooks", &["farm-types", "farm-rules"]),
    // A macro, of no crate of ours.
    ("farm-calls", &[]),
    ("farm-store", &["farm-types", "farm-core"]),
    (
        "farm-coordinator",
        &[
            "farm-types",
            "farm-dockerfile",
            "farm-client",
            "farm-proto",
            "farm-rules",
            "farm-calls",
            "farm-core",
            "farm-hooks",
            "farm-store",
        ],
    ),
    (
        "farm-worker",
        &["farm-types", "farm-dockerfile", "farm-client", "farm-proto", "farm-source", "farm-ssh"],
    ),
    // Starts processes and knows only their flags.
    ("farm-local", &["farm-types"]),
    (
        "farm",
        &[
            "farm-types",
            "farm-dockerfile",
            "farm-client",
            "farm-proto",
            "farm-source",
            "farm-rules",
            "farm-ssh",
            "farm-local",
        ],
    ),
    // Its driver compares with what farm reads, its load generator speaks the protocol; the tests themselves see all.
    ("farm-tests", &["farm-dockerfile", "farm-proto", "farm-types"]),
];

/// Packages from outside that one package only may use, since their types stay there.
const ONE_USER: &[(&str, &str)] = &[
    ("sqlx", "farm-store"),
    ("reqwest", "farm-coordinator"),
    ("object_store", "farm-coordinator"),
    ("bollard-buildkit-proto", "farm-worker"),
];

/// What must not come near the pure packages.
const IMPURE: &[&str] = &["tokio", "tonic", "sqlx", "futures", "reqwest"];

fn metadata() -> serde_json::Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn packages() -> BTreeMap<String, BTreeSet<String>> {
    let metadata = metadata();
    let name = |value: &serde_json::Value| value["name"].as_str().unwrap().to_owned();
    let packages = metadata["packages"].as_array().unwrap();
    packages
        .iter()
        .map(|package| {
            let dependencies = package["dependencies"].as_array().unwrap().iter();
            let normal = dependencies.filter(|dependency| dependency["kind"].as_str() != Some("dev"));
            (name(package), normal.map(name).collect())
        })
        .collect()
}

#[test]
fn every_package_imports_only_what_lies_below_it() {
    let packages = packages();
    let known: BTreeSet<&str> = ALLOWED.iter().map(|(name, _)| *name).collect();
    let there: BTreeSet<&str> = packages.keys().map(String::as_str).collect();
    assert_eq!(there, known, "a new package needs its place in ALLOWED");
    for (name, allowed) in ALLOWED {
        let own = packages[*name].iter().filter(|dependency| there.contains(dependency.as_str()));
        for dependency in own {
            assert!(allowed.contains(&dependency.as_str()), "{name} must not import {dependency}");
        }
    }
}

#[test]
fn foreign_types_stay_in_the_package_that_owns_the_job() {
    for (name, dependencies) in packages() {
        for (foreign, owner) in ONE_USER {
            let uses = dependencies.contains(*foreign);
            // The harness asks databases for what no part of farm tells.
            let is_harness = name == "farm-tests" && *foreign == "sqlx";
            assert!(
                !uses || name == *owner || is_harness,
                "{foreign} is for {owner} only, but {name} uses it"
            );
        }
    }
}

#[test]
fn what_decides_does_nothing() {
    let packages = packages();
    for pure in ["farm-types", "farm-dockerfile", "farm-core", "farm-ssh", "farm-rules", "farm-hooks"] {
        for impure in IMPURE {
            assert!(!packages[pure].contains(*impure), "{pure} must not import {impure}");
        }
    }
}

#[test]
fn the_two_edges_never_import_each_other_and_the_clients_types_stay_in_their_folders() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let grep = |pattern: &str, folder: &str| {
        let output = Command::new("grep").args(["-rlE", pattern, folder]).current_dir(root).output().unwrap();
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let outside = |files: Vec<String>, home: &str| -> Vec<String> {
        files.into_iter().filter(|file| !file.starts_with(home)).collect()
    };
    // Whoever else sent requests would send them anywhere.
    let requests = outside(grep("reqwest", "coordinator/src"), "coordinator/src/outbound/");
    let requests = outside(requests, "coordinator/src/registry/");
    assert!(requests.is_empty(), "the HTTP client's types are used in {requests:?}");
    let buildkit = outside(grep("bollard_buildkit_proto", "worker/src"), "worker/src/buildkit/");
    assert!(buildkit.is_empty(), "BuildKit's types are used in {buildkit:?}");
    // Whoever else had connections would wait without a limit, or give one back with a transaction that is open.
    let connections = "PgPool|PoolConnection|PgTransaction|sqlx::Transaction|PgListener|\\.begin_with\\(";
    let pools = outside(grep(connections, "coordinator/store/src"), "coordinator/store/src/pool.rs");
    assert!(pools.is_empty(), "sqlx's own connections are used in {pools:?}");
    let schedules = grep("farm_core::work|reconcile::", "coordinator/src/grpc");
    assert!(schedules.is_empty(), "a handler must not schedule: {schedules:?}");
}

#[test]
fn no_files_of_a_package_import_each_other_in_a_circle() {
    let metadata = metadata();
    let packages = metadata["packages"].as_array().unwrap();
    let targets = packages.iter().flat_map(|package| package["targets"].as_array().unwrap());
    let libraries = targets.filter(|target| target["kind"][0] == "lib" || target["kind"][0] == "proc-macro");
    let paths: Vec<&str> = libraries.map(|target| target["src_path"].as_str().unwrap()).collect();
    assert!(paths.len() >= ALLOWED.len(), "{paths:?}");
    for path in paths {
        let circle = Source::of(Path::new(path)).circle();
        assert_eq!(circle, None, "{path}: what two files need belongs into the lower one");
    }
}

#[test]
fn a_circle_is_found_through_what_a_folder_hands_on_and_not_in_tests_or_texts() {
    let b = "pub struct Other;\npub struct B(crate::a::A);\n";
    let circle = |a: &str| {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("room")).unwrap();
        for (name, text) in [
            ("lib.rs", "mod a;\nmod room;\npub struct Shared;\n"),
            ("a.rs", a),
            (
                "room/mod.rs",
                "mod b;\npub mod c;\npub use b::{B, Other as Renamed};\npub mod inner { pub use super::B; }\n",
            ),
            ("room/b.rs", b),
            ("room/c.rs", "pub struct C(super::Renamed);\n"),
        ] {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        Source::of(&folder.path().join("lib.rs")).circle()
    };
    let found = Some("a -> room::b -> a".to_owned());
    assert_eq!(circle("use crate::room::B;\npub struct A;\n"), found);
    assert_eq!(circle("use crate::{Shared, room::{self, Renamed}};\npub struct A;\n"), found);
    assert_eq!(circle("use super::room as place;\npub struct A;\nfn f(_: place::B) {}\n"), found);
    assert_eq!(circle("pub struct A;\nfn f<'a>(_: &'a crate::room::B, _: char = '\"') {}\n"), found);
    assert_eq!(
        circle("pub struct A;\n// use crate::room::B;\nconst TEXT: &str = \"crate::room::B\";\n"),
        None
    );
    assert_eq!(circle("#[cfg(test)]\nmod tests {\n    use crate::room::B;\n}\npub struct A;\n"), None);
    assert_eq!(circle("use crate::Shared;\npub struct A;\n"), None);
    let through_c = Some("a -> room::c -> room::b -> a".to_owned());
    assert_eq!(circle("use crate::room::c::C;\npub struct A;\n"), through_c);
}

/// A module's place: the names that lead to it from the package's root.
type Module = Vec<String>;

/// What the modules of a package name, tests left out. Read by words, so what a macro makes of them stays unseen.
#[derive(Default)]
struct Source {
    /// Each module with the one whose file it is in.
    modules: BTreeMap<Module, Module>,
    /// The paths that a module names.
    paths: Vec<(Module, Vec<String>)>,
    /// What a `use` makes known in a module under a name.
    known: BTreeMap<(Module, String), Vec<String>>,
}

impl Source {
    fn of(lib: &Path) -> Self {
        let mut source = Self::default();
        source.read(&[], &[], &words(&read_to_string(lib).unwrap()), lib.parent().unwrap());
        source
    }

    /// Notes what these words of a module name, and reads the modules that they declare.
    fn read(&mut self, module: &[String], owner: &[String], mut words: &[String], folder: &Path) {
        self.modules.insert(module.to_vec(), owner.to_vec());
        loop {
            let next: Vec<&str> = words.iter().take(5).map(String::as_str).collect();
            let taken = match next.as_slice() {
                [] => return,
                ["#", "[", "cfg", "(", "test"] => item(words),
                ["mod", name, ";", ..] => {
                    let (child, below) = ([module, &[(*name).to_owned()]].concat(), folder.join(name));
                    let flat = below.with_extension("rs");
                    let file: PathBuf = if flat.exists() { flat } else { below.join("mod.rs") };
                    self.read(&child, &child, &self::words(&read_to_string(&file).unwrap()), &below);
                    3
                }
                ["mod", name, "{", ..] => {
                    let child = [module, &[(*name).to_owned()]].concat();
                    self.read(&child, owner, &words[3..item(words)], &folder.join(name));
                    item(words)
                }
                // What a type captures.
                ["use", "<", ..] => 1,
                ["use", ..] => {
                    let end = item(words);
                    for (path, name) in imports(&[], &words[1..end - 1]) {
                        self.known.insert((module.to_vec(), name), path.clone());
                        self.paths.push((module.to_vec(), path));
                    }
                    end
                }
                [_, "::", ..] => {
                    let names = 1 + words[1..].chunks(2).take_while(|pair| pair[0] == "::").count();
                    let path = words.iter().step_by(2).take(names).cloned().collect();
                    self.paths.push((module.to_vec(), path));
                    2 * names - 1
                }
                _ => 1,
            };
            words = words.get(taken..).unwrap_or_default();
        }
    }

    /// The module in which lies what a path names, if it is one of this package.
    fn resolve(&self, module: &[String], path: &[String], depth: usize) -> Option<Module> {
        let mut at = module.to_vec();
        let mut rest = path;
        match path.first()?.as_str() {
            "crate" => (at, rest) = (Module::new(), &path[1..]),
            "self" => rest = &path[1..],
            "super" => {}
            name => {
                let is_child = self.modules.contains_key(&[module, &[name.to_owned()]].concat());
                let is_known = self.known.contains_key(&(at.clone(), name.to_owned()));
                // Else it is another package's. A name may be known as itself, as that of a macro is.
                if !is_child && !is_known || depth > 8 {
                    return None;
                }
            }
        }
        while let Some((name, behind)) = rest.split_first() {
            let child = [&at[..], std::slice::from_ref(name)].concat();
            if name == "super" {
                at.pop();
            } else if self.modules.contains_key(&child) {
                at = child;
            } else if let Some(known) = self.known.get(&(at.clone(), name.clone())) {
                return self.resolve(&at, &[known, behind].concat(), depth + 1).or(Some(at));
            } else {
                break;
            }
            rest = behind;
        }
        Some(at)
    }

    /// A circle of files that import each other, if there is one. A file and those in its folder may know each other.
    fn circle(&self) -> Option<String> {
        let mut imports: BTreeMap<&Module, BTreeSet<&Module>> = BTreeMap::new();
        for (module, path) in &self.paths {
            let Some(target) = self.resolve(module, path, 0) else { continue };
            let (from, to) = (&self.modules[module], &self.modules[&target]);
            if !from.starts_with(to) && !to.starts_with(from) {
                imports.entry(from).or_default().insert(to);
            }
        }
        // Files that import nothing are in no circle. Without them others import nothing, and so on.
        let mut count = usize::MAX;
        while imports.len() < count {
            count = imports.len();
            let left: BTreeSet<&Module> = imports.keys().copied().collect();
            imports.values_mut().for_each(|targets| targets.retain(|target| left.contains(target)));
            imports.retain(|_, targets| !targets.is_empty());
        }
        // Each of the rest leads on, so the way comes back to where it was.
        let mut way = vec![*imports.keys().next()?];
        loop {
            let next = *imports[way.last()?].first()?;
            let before = way.iter().position(|file| *file == next);
            way.push(next);
            if let Some(start) = before {
                return Some(
                    way[start..].iter().map(|file| file.join("::")).collect::<Vec<_>>().join(" -> "),
                );
            }
        }
    }
}

/// Names and signs of a source text, without comments and texts.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let is_name = |c: char| c.is_alphanumeric() || c == '_';
        let behind =
            |from: usize, end: &str| rest[from..].find(end).map_or(rest.len(), |at| from + at + end.len());
        let raw = rest.strip_prefix('b').unwrap_or(rest).strip_prefix('r');
        let raw = raw.map(|raw| (raw.trim_start_matches('#'), raw));
        let taken = if rest.starts_with("//") {
            behind(2, "\n")
        } else if rest.starts_with("/*") {
            behind(2, "*/")
        } else if let Some((inner, raw)) = raw.filter(|(inner, _)| inner.starts_with('"')) {
            behind(rest.len() - inner.len() + 1, &format!("\"{}", "#".repeat(raw.len() - inner.len())))
        } else if first == '"' {
            let mut escaped = false;
            let end = rest[1..].find(|c| {
                let ends = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                ends
            });
            end.map_or(rest.len(), |end| end + 2)
        } else if first == '\'' {
            // A character, or a lifetime.
            let mut inner = rest[1..].chars();
            match (inner.next(), inner.next()) {
                (Some('\\'), _) => behind(3, "'"),
                (Some(c), Some('\'')) => c.len_utf8() + 2,
                _ => 1,
            }
        } else if is_name(first) {
            let end = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
            words.push(rest[..end].to_owned());
            end
        } else if rest.starts_with("::") {
            words.push("::".to_owned());
            2
        } else {
            if !first.is_whitespace() {
                words.push(first.to_string());
            }
            first.len_utf8()
        };
        rest = &rest[taken..];
    }
    words
}

/// Where the item that begins here ends: behind its block, or its semicolon. Attributes in front belong to it.
fn item(words: &[String]) -> usize {
    let is_use = words[0] == "use";
    let mut depth = 0_usize;
    let end = words.iter().position(|word| {
        match word.as_str() {
            "{" | "(" | "[" => depth += 1,
            "}" | ")" | "]" => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth == 0 && (word == ";" || word == "}" && !is_use)
    });
    end.map_or(words.len(), |end| end + 1)
}

/// The paths of a `use`, each with the name under which it is known then.
fn imports(prefix: &[String], words: &[String]) -> Vec<(Vec<String>, String)> {
    let mut found = Vec::new();
    let mut depth = 0_usize;
    let parts = words.split(|word| {
        match word.as_str() {
            "{" => depth += 1,
            "}" => depth -= 1,
            _ => {}
        }
        depth == 0 && word == ","
    });
    for part in parts {
        let is_name = |word: &&String| !matches!(word.as_str(), "::" | "{" | "as");
        let until = part.iter().position(|word| word == "{" || word == "as").unwrap_or(part.len());
        let mut path = [prefix, &part[..until].iter().filter(is_name).cloned().collect::<Vec<_>>()].concat();
        if part.get(until).is_some_and(|word| word == "{") {
            found.extend(imports(&path, &part[until + 1..part.len() - 1]));
        } else if let Some(last) = part.last() {
            if path.len() > 1 && path.last().is_some_and(|name| name == "self") {
                path.pop();
            }
            let name = if last == "self" { path[path.len() - 1].clone() } else { last.clone() };
            found.push((path, name));
        }
    }
    found
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = folder.read_dir().unwrap().map(|entry| entry.unwrap().path());
    let found = entries.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] });
    found.filter(|path| path.extension().is_some_and(|extension| extension == "rs")).collect()
}

/// A file of tests that no `mod` names is compiled by nobody, and says so to nobody.
/// The libraries of programs, and what programs of tests take from them.
const LIBRARIES: &[(&str, &[&str])] =
    &[("../coordinator", &[]), ("../worker", &["src/aftermath.rs"]), ("../cli", &[])];

/// The compiler takes the body of each `pub async fn` into every program of its crate, that of the unit tests among them, whether
/// anything there calls it or not; and with it all that it calls.
#[test]
fn what_a_program_awaits_is_compiled_into_its_unit_tests_only_where_they_use_it() {
    for (library, but) in LIBRARIES {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(library);
        for file in sources(&root.join("src")) {
            let name = file.strip_prefix(&root).unwrap().to_str().unwrap();
            let text = read_to_string(&file).unwrap();
            let public = text.lines().find(|line| line.starts_with("pub async fn"));
            let is_well = public.is_none() || but.contains(&name);
            assert!(is_well, "{library}/{name}: {}: write pub(crate)", public.unwrap_or_default());
        }
    }
}

#[test]
fn every_file_of_tests_is_part_of_its_program() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let (mut seen, mut left_out) = (0, Vec::new());
    for folder in tests.read_dir().unwrap().map(|entry| entry.unwrap().path()) {
        let Ok(main) = read_to_string(folder.join("main.rs")) else { continue };
        for file in folder.read_dir().unwrap().map(|entry| entry.unwrap().path()) {
            let name = file.file_stem().unwrap().to_str().unwrap().to_owned();
            if name == "main" || file.extension().is_none_or(|extension| extension != "rs") {
                continue;
            }
            seen += 1;
            if !main.lines().any(|line| line.trim_start_matches("pub ") == format!("mod {name};")) {
                left_out.push(file);
            }
        }
    }
    assert!(seen > 100 && left_out.is_empty(), "{seen} files, of which no main.rs names {left_out:?}");
}
