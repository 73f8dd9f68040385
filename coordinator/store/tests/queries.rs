//! The files in `.sqlx`, from which the macros know what each query takes and gives when there is no database, are those
//! that a database with the present migrations would make of the present queries. Compiling shows that no query lacks its
//! file; here are the other two ways in which they can differ. `tests/run.sh sqlx` writes them anew.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, reason = "a panic is the report")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr as _;

use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection, SqlSafeStr as _};

const NAME: &str = "queries_as_committed";

#[tokio::test]
async fn a_query_file_says_what_the_database_says() {
    let url = std::env::var("FARM_TEST_DATABASE_URL")
        .expect("FARM_TEST_DATABASE_URL: run this by tests/run.sh store");
    let options = PgConnectOptions::from_str(&url).unwrap();
    let mut server = PgConnection::connect_with(&options).await.unwrap();
    server.execute(AssertSqlSafe(format!("CREATE DATABASE {NAME}"))).await.unwrap();
    let mut database = PgConnection::connect_with(&options.database(NAME)).await.unwrap();
    sqlx::migrate!("./migrations").run(&mut database).await.unwrap();

    let mut wrong = Vec::new();
    for (query, (file, committed)) in committed() {
        match database.describe(AssertSqlSafe(query.clone()).into_sql_str()).await {
            Ok(described) if serde_json::to_value(&described).unwrap() == committed["describe"] => {}
            Ok(described) => {
                wrong.push(format!("{file}: now {}", serde_json::to_string(&described).unwrap()))
            }
            Err(error) => wrong.push(format!("{file}: {error}: {query}")),
        }
    }
    database.close().await.unwrap();
    server.execute(AssertSqlSafe(format!("DROP DATABASE {NAME} WITH (FORCE)"))).await.unwrap();
    assert!(wrong.is_empty(), "tests/run.sh sqlx writes these anew:\n{}", wrong.join("\n"));
}

#[test]
fn a_query_file_has_its_query() {
    let mut sources = Vec::new();
    read_below(&root().join("src"), &mut sources);
    let queries: Vec<String> = sources.iter().flat_map(|source| queries(source)).collect();
    let committed = committed();
    assert!(queries.len() >= committed.len() && committed.len() > 100, "{} in the source", queries.len());
    let unused: Vec<_> = committed
        .iter()
        .filter(|(query, _)| !queries.contains(query))
        .map(|(query, (file, _))| (file, query))
        .collect();
    assert!(
        unused.is_empty(),
        "no source has these queries any more; tests/run.sh sqlx removes them: {unused:#?}"
    );
}

#[test]
fn queries_are_found_in_a_source() {
    let source = r####"
        sqlx::query!("SELECT 1");
        let n = sqlx::query_scalar!(
            // Why.
            r#"SELECT "a" FROM b"#, n);
        sqlx::query_as!(Row, "SELECT \"x\" \
            FROM y" + " WHERE z");
    "####;
    assert_eq!(queries(source), ["SELECT 1", "SELECT \"a\" FROM b", "SELECT \"x\" FROM y WHERE z"]);
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// What is committed: the query's text to its file's name and content.
fn committed() -> BTreeMap<String, (String, serde_json::Value)> {
    let files = std::fs::read_dir(root().join(".sqlx")).unwrap().map(|entry| entry.unwrap().path());
    files
        .map(|path| {
            let file: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (file["query"].as_str().unwrap().to_owned(), (name, file))
        })
        .collect()
}

fn read_below(folder: &Path, sources: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read_below(&path, sources);
        } else {
            sources.push(std::fs::read_to_string(&path).unwrap());
        }
    }
}

/// The texts that the source gives to the macros: literals, plain or raw, and sums of them.
fn queries(source: &str) -> Vec<String> {
    let begins = ["query!(", "query_scalar!(", "query_as!("];
    let mut found = Vec::new();
    for (at, _) in source.match_indices("query") {
        let Some(begin) = begins.iter().find(|begin| source[at..].starts_with(**begin)) else { continue };
        let mut rest = &source[at + begin.len()..];
        if begin.starts_with("query_as") {
            rest = rest.split_once(',').unwrap().1;
        }
        let mut text = String::new();
        loop {
            rest = rest.trim_start();
            while rest.starts_with("//") {
                rest = rest.split_once('\n').unwrap().1.trim_start();
            }
            rest = if let Some(raw) = rest.strip_prefix("r#\"") {
                let (literal, after) = raw.split_once("\"#").unwrap();
                text.push_str(literal);
                after
            } else if let Some(plain) = rest.strip_prefix('"') {
                unescape(plain, &mut text)
            } else {
                panic!("a query that is no literal: {}", &rest[..rest.len().min(80)]);
            };
            match rest.trim_start().strip_prefix('+') {
                Some(after) => rest = after,
                None => break,
            }
        }
        found.push(text);
    }
    found
}

/// Adds a plain literal's text, and gives what follows its closing quote.
fn unescape<'a>(literal: &'a str, text: &mut String) -> &'a str {
    let mut rest = literal;
    loop {
        let special = rest.find(['"', '\\']).unwrap();
        text.push_str(&rest[..special]);
        let (mark, after) = rest[special..].split_at(1);
        if mark == "\"" {
            return after;
        }
        let escaped = after.chars().next().unwrap();
        rest = &after[escaped.len_utf8()..];
        match escaped {
            'n' => text.push('\n'),
            '\n' => rest = rest.trim_start(),
            '"' | '\\' => text.push(escaped),
            other => panic!("\\{other} in a query"),
        }
    }
}
