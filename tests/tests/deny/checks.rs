//! Each rule of `deny.toml` as a function that says what breaks it: the thing, the value, the cure.

use std::collections::{BTreeMap, BTreeSet};

use semver::VersionReq;
use spdx::{Expression, Licensee, ParseMode};

use crate::rules::Rules;
use crate::tree::{Package, Tree};

pub fn check(rules: &Rules, tree: &Tree) -> Vec<String> {
    let checks = [licences, bans, duplicates, wildcards, sources];
    checks.iter().flat_map(|check| check(rules, tree)).collect()
}

/// Each crate's expression is satisfied by what is allowed, and each allowance is needed by some crate.
fn licences(rules: &Rules, tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    let mut needed = BTreeSet::new();
    let (mut excepted, mut clarified) = (BTreeSet::new(), BTreeSet::new());
    for package in &tree.packages {
        let expression = match expression(rules, package, &mut clarified) {
            Ok(expression) => expression,
            Err(what) => {
                found.push(what);
                continue;
            }
        };
        let allowed: Vec<&Licensee> = rules.licenses.allow.iter().collect();
        if satisfies(&expression, &allowed) {
            // A licence is needed if this crate would not pass without it.
            for place in 0..allowed.len() {
                let mut others = allowed.clone();
                others.remove(place);
                if !satisfies(&expression, &others) {
                    needed.insert(place);
                }
            }
            continue;
        }
        let exceptions = rules.licenses.exceptions.iter().enumerate();
        let mut mine =
            exceptions.filter(|(_, exception)| exception.which.is(&package.name, &package.version));
        let passes = mine.any(|(place, exception)| {
            excepted.insert(place);
            let with: Vec<&Licensee> = allowed.iter().copied().chain(&exception.allow).collect();
            satisfies(&expression, &with)
        });
        if !passes {
            found.push(format!(
                "{package}: its licence, `{expression}`, is not allowed: do without it (`cargo tree -i {}@{}` says who brings \
                 it), or allow the licence in deny.toml, licenses.allow, with the crate's name",
                package.name, package.version
            ));
        }
    }
    for (place, licence) in rules.licenses.allow.iter().enumerate() {
        if !needed.contains(&place) {
            found.push(format!("deny.toml, licenses.allow: no crate needs `{licence}` any more: remove it"));
        }
    }
    for (place, exception) in rules.licenses.exceptions.iter().enumerate() {
        if !excepted.contains(&place) {
            found.push(left_over("licenses.exceptions", &exception.which));
        }
    }
    for (place, clarification) in rules.licenses.clarify.iter().enumerate() {
        if !clarified.contains(&place) {
            found.push(left_over("licenses.clarify", &clarification.which));
        }
    }
    found
}

fn expression(
    rules: &Rules,
    package: &Package,
    clarified: &mut BTreeSet<usize>,
) -> Result<Expression, String> {
    let clarify = &rules.licenses.clarify;
    if let Some(place) = clarify.iter().position(|one| one.which.is(&package.name, &package.version)) {
        clarified.insert(place);
        return Ok(clarify[place].expression.clone());
    }
    let cure = "read its licence, and say it in deny.toml, licenses.clarify, or do without the crate";
    let Some(text) = &package.license else { return Err(format!("{package} names no licence: {cure}")) };
    // Older crates put a slash for OR.
    Expression::parse_mode(text, ParseMode::LAX).map_err(|error| {
        format!("{package}: its licence, `{text}`, can't be read ({}): {cure}", error.reason)
    })
}

fn satisfies(expression: &Expression, allowed: &[&Licensee]) -> bool {
    expression.evaluate(|wanted| allowed.iter().any(|licence| licence.satisfies(wanted)))
}

fn left_over(key: &str, which: &impl std::fmt::Display) -> String {
    format!("deny.toml, {key}: the entry for {which} is not needed any more: remove it")
}

fn bans(rules: &Rules, tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for package in &tree.packages {
        let deny = rules.bans.deny.iter().filter(|deny| deny.which.is(&package.name, &package.version));
        found.extend(deny.map(|deny| {
            format!(
                "{package} must not come in ({}): `cargo tree -i {}@{}` says who brings it",
                deny.reason, package.name, package.version
            )
        }));
    }
    found
}

/// Of each crate one version, but for those that are skipped.
fn duplicates(rules: &Rules, tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    let mut versions: BTreeMap<&str, Vec<&Package>> = BTreeMap::new();
    for package in &tree.packages {
        versions.entry(&package.name).or_default().push(package);
    }
    versions.retain(|_, packages| packages.len() > 1);
    let mut skipped = BTreeSet::new();
    for (name, packages) in versions {
        let skip = |package: &&&Package| {
            let place = rules.bans.skip.iter().position(|skip| skip.which.is(name, &package.version));
            place.is_some_and(|place| {
                skipped.insert(place);
                true
            })
        };
        let (_, mut left): (Vec<&Package>, Vec<&Package>) = packages.iter().partition(skip);
        if left.len() > 1 {
            left.sort_by(|a, b| a.version.cmp(&b.version));
            let list: Vec<String> = left.iter().map(|package| package.version.to_string()).collect();
            found.push(format!(
                "{name} comes in {} times: {}; let one go (`cargo tree -i {name}@{}` says who brings it), or give the reason in \
                 deny.toml, bans.skip",
                list.len(),
                list.join(", "),
                list[0]
            ));
        }
    }
    for (place, skip) in rules.bans.skip.iter().enumerate() {
        if !skipped.contains(&place) {
            found.push(left_over("bans.skip", &skip.which));
        }
    }
    found
}

fn wildcards(_: &Rules, tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for package in &tree.packages {
        let any = package.dependencies.iter().filter(|dependency| dependency.req == VersionReq::STAR);
        for dependency in any.filter(|dependency| dependency.path.is_none()) {
            found.push(format!("{package} takes any version of {} (`*`): say which", dependency.name));
        }
    }
    found
}

/// What isn't here comes from the registry that is cargo's own: no dependency names another one. So all have one source.
fn sources(_: &Rules, tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    let is_registry = |source: &&String| source.starts_with("registry+");
    let own = tree.packages.iter().filter_map(|package| package.source.as_ref()).find(is_registry);
    for package in &tree.packages {
        match &package.source {
            None if !package.is_member => found.push(format!("{package} lies outside of the workspace")),
            Some(source) if Some(source) != own => {
                found.push(format!("{package} comes from {source}: only cargo's own registry is allowed"));
            }
            _ => {}
        }
        for dependency in &package.dependencies {
            if let Some(registry) = &dependency.registry {
                found.push(format!(
                    "{package} wants {} from {registry}: only cargo's own registry is allowed",
                    dependency.name
                ));
            }
        }
    }
    found
}
