//! Which statement writes a state on what: read off the sources, since the compiler doesn't look into SQL.

use std::collections::BTreeSet;
use std::path::Path;

/// What is written under the execution's lock.
const OF_EXECUTIONS: &[&str] = &["executions", "jobs", "attempts"];
/// What is written under one of the proofs. Builds and publications leave their execution's hands when it is built; it takes them
/// back to remove them.
const OF_ANY: &[&str] = &["builds", "publications", "destinations", "tags"];

/// The types, and what makes a value of them.
const PROOFS: &[(&str, &[&str])] = &[
    ("LeaderTx", &["begin_leading("]),
    ("LockedExecution", &["lock_execution(", "lock_leased(", "LockedExecution::newborn("]),
    ("LockedPublication", &["lock_publication(", "lock_publication_of("]),
];

#[test]
fn a_state_is_written_on_the_proof_that_it_may_be() {
    let mut sources = Vec::new();
    read_below(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut sources);
    let mut written = BTreeSet::new();
    let mut wrong = Vec::new();
    for (name, source) in &sources {
        for write in writes(source) {
            written.insert(write.table);
            wrong.extend(write.trouble().map(|trouble| format!("{name}, {trouble}")));
        }
    }
    let tables: BTreeSet<&str> = OF_EXECUTIONS.iter().chain(OF_ANY).copied().collect();
    assert_eq!(written, tables, "a table of which no write is found isn't looked at any more");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_write_without_its_proof_is_found() {
    let found = |signature: &str, bound: &str, sql: &str, on: &str| {
        // In two pieces, or whoever looks for queries in the sources would take it for one.
        let query = "query!";
        let source = format!(
            "async fn f({signature}) -> Result<()> {{\n    {bound}\n    // \"Why.\"\n    sqlx::{query}(\"{sql}\", 1)\n        \
             .execute({on})\n        .await?;\n}}\n"
        );
        writes(&source).iter().filter_map(Write::trouble).collect::<Vec<_>>()
    };
    let job = "UPDATE jobs j SET waiting = '', state = $1 WHERE id = $2";
    let taken = "let mut e = tx.lock_execution(a, b).await?;";
    let none: Vec<String> = Vec::new();
    assert_eq!(found("e: &mut LockedExecution<'_>", "", job, "&mut **e"), none);
    assert_eq!(found("tx: &mut Tx", taken, job, "&mut *e"), none);
    assert_eq!(
        found("tx: &mut Tx", "let (mut e, job) = lock_leased(tx, lease).await?;", job, "&mut *e"),
        none
    );
    assert_eq!(found("tx: &mut LeaderTx", "", "UPDATE builds SET state = $1", "&mut **tx"), none);
    assert_eq!(
        found(
            "",
            "if let Some(mut p) = tx.lock_publication_of(a, b).await? {",
            "INSERT INTO tags",
            "&mut *p"
        ),
        none
    );

    let on_tx = "f writes jobs on `tx`, which is no LockedExecution";
    assert_eq!(found("tx: &mut Tx", "", job, "&mut **tx"), [on_tx]);
    assert_eq!(found("tx: &mut Tx", taken, job, "&mut **tx"), [on_tx]);
    assert_eq!(found("tx: &mut LeaderTx", "", job, "&mut **tx"), [on_tx]);
    assert_eq!(found("", "", job, "&self.pool"), ["f writes jobs on `self`, which is no LockedExecution"]);
    let build = ["f writes builds on `tx`, which is no LeaderTx, LockedExecution, LockedPublication"];
    for sql in [
        "INSERT INTO builds (id)",
        "DELETE FROM builds",
        "WITH a AS (UPDATE builds b SET (x), state = 'a' FROM c)",
    ] {
        assert_eq!(found("tx: &mut Session", "", sql, "&mut *tx"), build, "{sql}");
    }
    for sql in [
        "UPDATE jobs SET waiting = '' WHERE state = 'ready'",
        "SELECT state FROM jobs FOR UPDATE",
        "DELETE FROM job_dependencies",
    ] {
        assert_eq!(found("tx: &mut Tx", "", sql, "&mut **tx"), none, "{sql}");
    }
}

/// A statement that writes a state, or a row that has one.
struct Write {
    function: String,
    table: &'static str,
    /// The variable that it runs on.
    on: String,
    /// The types of proofs that the variable is of, by what the function says.
    proofs: Vec<&'static str>,
}

impl Write {
    fn trouble(&self) -> Option<String> {
        let may = |proof: &&str| *proof == "LockedExecution" || OF_ANY.contains(&self.table);
        if self.proofs.iter().any(may) {
            return None;
        }
        let fitting: Vec<&str> = PROOFS.iter().map(|(proof, _)| *proof).filter(may).collect();
        let Self { function, table, on, .. } = self;
        Some(format!("{function} writes {table} on `{on}`, which is no {}", fitting.join(", ")))
    }
}

/// The writes in a source as rustfmt leaves it.
fn writes(source: &str) -> Vec<Write> {
    let mut found = Vec::new();
    for function in functions(source) {
        let (_, named) = function.split_once("fn ").unwrap();
        let name = named.split(|c: char| !is_name(c)).next().unwrap();
        for (at, begin) in function.match_indices("sqlx::query") {
            let statement = &function[at + begin.len()..];
            let (before, literal) = statement.split_once('"').unwrap_or((statement, ""));
            assert!(
                !before.contains(';'),
                "{name}: a query's SQL stands in its call, where this rule can read it"
            );
            let (sql, rest) = literal.split_once('"').unwrap();
            let run = [".execute(", ".fetch_"].iter().filter_map(|call| rest.find(call)).min().unwrap();
            let (_, on) = rest[run..].split_once('(').unwrap();
            let on = on.trim_start_matches("&mut ").trim_start_matches(['&', '*']);
            let on = on.split(|c: char| !is_name(c)).next().unwrap();
            let proofs: Vec<_> =
                PROOFS.iter().filter(|(proof, makers)| is_proof(&function, on, proof, makers)).collect();
            found.extend(written(sql).into_iter().map(|table| Write {
                function: name.to_owned(),
                table,
                on: on.to_owned(),
                proofs: proofs.iter().map(|(proof, _)| *proof).collect(),
            }));
        }
    }
    found
}

/// Whether a function takes the variable as a proof, or binds it to what makes one.
fn is_proof(function: &str, variable: &str, proof: &str, makers: &[&str]) -> bool {
    let binds = |statement: &str| {
        let Some((pattern, value)) = statement.split_once(" = ") else { return false };
        let is_bound =
            pattern.contains("let ") && pattern.split(|c: char| !is_name(c)).any(|word| word == variable);
        is_bound && makers.iter().any(|maker| value.contains(maker))
    };
    let taken = format!("{variable}: &mut {proof}");
    let is_taken = function.match_indices(&taken).any(|(at, taken)| {
        !function[..at].ends_with(is_name) && !function[at + taken.len()..].starts_with(is_name)
    });
    is_taken || function.split([';', '{', '}']).any(binds)
}

/// The tables, of those that are looked at, of which a statement writes the state or a row.
fn written(sql: &str) -> Vec<&'static str> {
    let spaced: String =
        sql.chars().flat_map(|c| if "(),=".contains(c) { vec![' ', c, ' '] } else { vec![c] }).collect();
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let table = |word: &&str| OF_EXECUTIONS.iter().chain(OF_ANY).find(|table| *table == word).copied();
    let mut found = Vec::new();
    for at in 0..words.len() {
        found.extend(match &words[at..] {
            ["INSERT", "INTO", name, ..] | ["DELETE", "FROM", name, ..] => table(name),
            ["UPDATE", name, rest @ ..] => table(name).filter(|_| sets_state(rest)),
            _ => None,
        });
    }
    found
}

/// Whether `state` is among what follows SET, up to the clause that ends it.
fn sets_state(words: &[&str]) -> bool {
    let mut depth = 0_i32;
    let mut clause = words.iter().skip_while(|word| **word != "SET").skip(1).take_while(|word| {
        depth += i32::from(**word == "(") - i32::from(**word == ")");
        depth >= 0 && !(depth == 0 && ["FROM", "WHERE", "RETURNING"].contains(*word))
    });
    let assignments: Vec<&str> = clause.by_ref().copied().collect();
    assignments.windows(2).any(|pair| pair == ["state", "="])
}

/// The functions of a source, comments left out: each from its signature to the brace under it.
fn functions(source: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut end: Option<String> = None;
    for line in source.lines().filter(|line| !line.trim_start().starts_with("//")) {
        let indent = &line[..line.len() - line.trim_start().len()];
        let signature = line.trim_start().trim_start_matches("pub(crate) ").trim_start_matches("pub ");
        let begins = ["fn ", "async fn ", "const fn "].iter().any(|begin| signature.starts_with(begin));
        if end.is_none() && begins {
            found.push(String::new());
            end = Some(format!("{indent}}}"));
        }
        if let (Some(last), Some(function)) = (&end, found.last_mut()) {
            function.push_str(line);
            function.push('\n');
            if line == last {
                end = None;
            }
        }
    }
    found
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// All sources but tests, each with its name.
fn read_below(folder: &Path, sources: &mut Vec<(String, String)>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read_below(&path, sources);
        } else if !path.ends_with("proof/rules.rs") && !path.ends_with("schema/tests.rs") {
            sources.push((path.display().to_string(), std::fs::read_to_string(&path).unwrap()));
        }
    }
}
