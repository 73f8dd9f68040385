//! What a migration may do while older coordinators run, and builds with them: read off its text.
//!
//! Two kinds of things are found: what the coordinators of the schema before might not live with, and what holds a table's
//! lock for longer than a moment. Either may be meant, and then the file says so: `-- breaks: N, why` in its first lines (it
//! shuts out all below schema N, and raises `schema_compat.oldest` to N), `-- fits: why` above a statement (older ones live
//! with it), `-- locks: why` above a statement (it is short, or nobody needs the table).

use super::{MIGRATIONS, breaks};

/// Up to here migrations ran with no coordinator beside them; they are as they are.
const HISTORY: i64 = 19;

/// Tables of few rows: what locks them is over at once.
const SMALL: &[&str] = &[
    "farm_clock",
    "projects",
    "schema_compat",
    "coordinators",
    "leader",
    "engines",
    "workers",
    "worker_platforms",
    "cleanings",
];

/// One statement: the comments above it, and itself in capitals, without comments, texts and bodies of functions.
#[derive(Debug, Default)]
struct Statement {
    comments: String,
    text: String,
}

impl Statement {
    fn says(&self, mark: &str) -> bool {
        self.comments.lines().any(|line| line.strip_prefix(mark).is_some_and(|why| why.trim().len() > 3))
    }

    fn words(&self) -> Vec<&str> {
        self.text.split_whitespace().collect()
    }

    /// What follows these words, if it begins with them.
    fn after(&self, beginning: &str) -> Option<&str> {
        self.text.strip_prefix(beginning).map(str::trim_start)
    }
}

fn statements(sql: &str) -> Vec<Statement> {
    let mut found = Vec::new();
    let mut now = Statement::default();
    let mut rest = sql;
    while let Some(c) = rest.chars().next() {
        if rest.starts_with("--") {
            let line = rest.lines().next().unwrap_or_default();
            now.comments.push_str(line);
            now.comments.push('\n');
            now.text.push(' ');
            rest = &rest[line.len()..];
        } else if c == '\'' {
            // A doubled quote begins the text anew, which comes to the same.
            let end = rest[1..].find('\'').map_or(rest.len(), |at| at + 2);
            now.text.push_str("''");
            rest = &rest[end..];
        } else if rest.starts_with("$$") {
            let end = rest[2..].find("$$").map_or(rest.len(), |at| at + 4);
            now.text.push_str("''");
            rest = &rest[end..];
        } else if c == ';' {
            found.push(std::mem::take(&mut now));
            rest = &rest[1..];
        } else {
            if "(),".contains(c) {
                now.text.extend([' ', c, ' ']);
            } else {
                now.text.extend(c.to_uppercase());
            }
            rest = &rest[c.len_utf8()..];
        }
    }
    found.push(now);
    for statement in &mut found {
        statement.text = statement.words().join(" ");
    }
    found.retain(|statement| !statement.text.is_empty());
    found
}

/// What is wrong with a migration, a line each.
fn wrong(number: i64, sql: &str) -> Vec<String> {
    let statements = statements(sql);
    let created: Vec<String> = statements
        .iter()
        .filter_map(|s| s.after("CREATE TABLE IF NOT EXISTS").or_else(|| s.after("CREATE TABLE")))
        .filter_map(|rest| rest.split_whitespace().next().map(str::to_lowercase))
        .collect();
    let is_new = |table: &str| created.contains(&table.to_lowercase());
    let is_small = |table: &str| SMALL.contains(&table.to_lowercase().as_str());
    let no_transaction = sql.starts_with("-- no-transaction");
    let mut wrong = raised(number, sql, &statements);
    for statement in &statements {
        if breaks(sql).is_none() && !statement.says("-- fits:") {
            wrong.extend(unfit(statement, &is_new).into_iter().map(|what| {
                format!("{what}: older coordinators may not live with it; `-- fits: WHY` above it if they do, else \
                         `-- breaks: N, WHY` in the first line. In {:?}", statement.text)
            }));
        }
        if !statement.says("-- locks:") {
            wrong.extend(locking(statement, &|table| is_new(table) || is_small(table)).into_iter().map(|what| {
                format!("{what}: it may take long, and meanwhile nobody gets at the table; `-- locks: WHY` above it if it \
                         doesn't. In {:?}", statement.text)
            }));
        }
        if statement.text.contains(" CONCURRENTLY ") {
            let is_alone = no_transaction && statements.len() == 1;
            if !is_alone || (statement.text.contains("CREATE") && !statement.text.contains("IF NOT EXISTS")) {
                wrong.push(format!(
                    "CONCURRENTLY: alone in a file that begins with `-- no-transaction`, and with IF NOT EXISTS, so that it \
                     can be run again. In {:?}", statement.text
                ));
            }
        } else if no_transaction {
            wrong.push(format!(
                "only what is CONCURRENTLY runs without a transaction. In {:?}",
                statement.text
            ));
        }
    }
    wrong
}

/// Mark and statement agree on the oldest schema.
fn raised(number: i64, sql: &str, statements: &[Statement]) -> Vec<String> {
    let raises: Vec<&Statement> = statements
        .iter()
        .filter(|s| s.text.contains("SCHEMA_COMPAT") && !s.text.starts_with("CREATE"))
        .collect();
    let Some(oldest) = breaks(sql) else {
        return raises
            .iter()
            .map(|s| format!("it raises the oldest schema and has no `-- breaks: N`: {:?}", s.text))
            .collect();
    };
    let wanted = [
        format!("UPDATE SCHEMA_COMPAT SET OLDEST = GREATEST ( OLDEST , {oldest} )"),
        // By the migration that made the table.
        format!("INSERT INTO SCHEMA_COMPAT ( OLDEST ) VALUES ( {oldest} )"),
    ];
    let mut wrong = Vec::new();
    if !matches!(raises.as_slice(), [raise] if wanted.contains(&raise.text)) {
        wrong.push(format!(
            "`-- breaks: {oldest}` needs, once: UPDATE schema_compat SET oldest = greatest(oldest, {oldest});"
        ));
    }
    if oldest > number {
        wrong.push(format!("`-- breaks: {oldest}` in migration {number}: that would shut out its own farm"));
    }
    wrong
}

/// What the coordinators of the schema before might not live with.
fn unfit(statement: &Statement, is_new: &dyn Fn(&str) -> bool) -> Vec<&'static str> {
    let mut found = Vec::new();
    let words = statement.words();
    if words.first() == Some(&"DROP") {
        found.push("DROP");
    }
    if words.starts_with(&["CREATE", "OR", "REPLACE"]) || statement.text.starts_with("CREATE TRIGGER") {
        found.push("CREATE OR REPLACE, CREATE TRIGGER");
    }
    if statement.text.starts_with("CREATE UNIQUE INDEX") && !table_of_index(&words).is_some_and(is_new) {
        found.push("CREATE UNIQUE INDEX");
    }
    if words.first() == Some(&"ALTER")
        && !(words.get(1) == Some(&"TABLE") && table_of_alter(&words).is_some_and(is_new))
    {
        let actions = actions(&statement.text);
        for action in &actions {
            for word in [" DROP ", " RENAME ", " SET NOT NULL", " TYPE "] {
                if format!(" {action} ").contains(word) {
                    found.push(word.trim());
                }
            }
            if is_constraint(action) {
                found.push("ADD of a constraint");
            }
            if action.contains("ADD COLUMN ") && action.contains(" NOT NULL") && !action.contains(" DEFAULT ")
            {
                found.push("ADD COLUMN NOT NULL without a default");
            }
        }
    }
    found
}

/// What holds a table's lock for longer than a moment; `is_short`: not on this table.
fn locking(statement: &Statement, is_short: &dyn Fn(&str) -> bool) -> Vec<&'static str> {
    let mut found = Vec::new();
    let words = statement.words();
    let is_index =
        statement.text.starts_with("CREATE INDEX") || statement.text.starts_with("CREATE UNIQUE INDEX");
    if is_index && !words.contains(&"CONCURRENTLY") && !table_of_index(&words).is_some_and(is_short) {
        found.push("CREATE INDEX without CONCURRENTLY");
    }
    if words.starts_with(&["ALTER", "TABLE"]) && !table_of_alter(&words).is_some_and(is_short) {
        for action in actions(&statement.text) {
            if is_constraint(action) && !action.contains("NOT VALID") {
                found.push("ADD of a constraint without NOT VALID");
            }
            let default = action.split_once(" DEFAULT ").map_or("", |(_, default)| default);
            if action.contains("ADD COLUMN ") && default.split_whitespace().nth(1) == Some("(") {
                found.push("ADD COLUMN with a default that is computed for each row");
            }
            if action.contains(" TYPE ") || action.contains("SET NOT NULL") {
                found.push("TYPE, SET NOT NULL");
            }
        }
    }
    let written = statement.after("UPDATE ").or_else(|| statement.after("DELETE FROM "));
    if written.and_then(|rest| rest.split(' ').next()).is_some_and(|table| !is_short(table)) {
        found.push("UPDATE, DELETE");
    }
    found
}

fn is_constraint(action: &str) -> bool {
    let after_add = action.split_once("ADD ").map_or("", |(_, rest)| rest);
    ["CONSTRAINT", "CHECK", "UNIQUE", "PRIMARY", "FOREIGN", "EXCLUDE"]
        .iter()
        .any(|word| after_add.starts_with(word))
}

/// The actions of an ALTER, without its first words: what is between commas outside of parentheses.
fn actions(text: &str) -> Vec<&str> {
    let (mut depth, mut begin, mut found) = (0, 0, Vec::new());
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                found.push(text[begin..at].trim());
                begin = at + 1;
            }
            _ => {}
        }
    }
    found.push(text[begin..].trim());
    found
}

fn table_of_alter<'a>(words: &[&'a str]) -> Option<&'a str> {
    words.iter().skip(2).find(|word| !["IF", "EXISTS", "ONLY"].contains(word)).copied()
}

fn table_of_index<'a>(words: &[&'a str]) -> Option<&'a str> {
    let at = words.iter().position(|word| *word == "ON")?;
    words.get(at + 1).copied()
}

#[test]
fn every_migration_lets_the_coordinators_before_it_run_or_says_that_it_does_not() {
    let mut numbers: Vec<i64> = MIGRATIONS.iter().map(|m| m.version).collect();
    numbers.dedup();
    assert_eq!(numbers.len(), MIGRATIONS.iter().count(), "two migrations have one number");
    let mut found = Vec::new();
    for migration in MIGRATIONS.iter().filter(|m| m.version > HISTORY) {
        assert_eq!(migration.no_tx, migration.sql.as_str().starts_with("-- no-transaction"));
        found.extend(
            wrong(migration.version, migration.sql.as_str())
                .into_iter()
                .map(|what| format!("{:04} ({}): {what}", migration.version, migration.description)),
        );
    }
    assert!(found.is_empty(), "docs/development.md says how to write a migration\n{}", found.join("\n"));
}

#[test]
fn what_older_coordinators_may_not_live_with_and_what_locks_is_found() {
    for (sql, expected) in [
        (
            "CREATE TABLE a (x text NOT NULL, UNIQUE (x)); CREATE INDEX i ON a (x); ALTER TABLE a ADD CHECK (x <> '');",
            "",
        ),
        ("ALTER TABLE builds ADD COLUMN x text NOT NULL DEFAULT '', ADD COLUMN y text", ""),
        ("ALTER TABLE builds ADD COLUMN x text NOT NULL", "ADD COLUMN NOT NULL"),
        (
            "ALTER TABLE builds ADD COLUMN d numeric(1, 2) DEFAULT 0, ADD COLUMN x text NOT NULL",
            "ADD COLUMN NOT NULL",
        ),
        ("ALTER TABLE builds ADD COLUMN x timestamptz DEFAULT farm_now()", "computed for each row"),
        ("DROP TABLE builds", "DROP"),
        ("drop index builds_live", "DROP"),
        ("-- why\nALTER TABLE builds\n    DROP COLUMN spec", "DROP"),
        ("ALTER TABLE builds RENAME COLUMN spec TO wish", "RENAME"),
        ("ALTER TABLE builds ALTER COLUMN retry_of SET NOT NULL", "SET NOT NULL"),
        ("ALTER TABLE builds ALTER COLUMN spec TYPE text", "TYPE"),
        ("ALTER TYPE mood RENAME VALUE 'a' TO 'b'", "RENAME"),
        ("ALTER TABLE workers ADD CHECK (slots < 1000)", "ADD of a constraint"),
        ("-- fits: all are\nALTER TABLE builds ADD CHECK (created_by <> '')", "without NOT VALID"),
        ("-- fits: all are\nALTER TABLE builds ADD CHECK (created_by <> '') NOT VALID", ""),
        ("-- fits:\nDROP TABLE builds", "DROP"),
        ("CREATE OR REPLACE FUNCTION f() RETURNS text LANGUAGE sql AS $$ DROP; $$", "CREATE OR REPLACE"),
        ("CREATE INDEX i ON jobs (x)", "CREATE INDEX without CONCURRENTLY"),
        ("CREATE INDEX i ON workers (x)", ""),
        ("-- locks: a moment\nCREATE INDEX i ON jobs (x)", ""),
        ("CREATE UNIQUE INDEX i ON workers (x)", "CREATE UNIQUE INDEX"),
        ("CREATE INDEX CONCURRENTLY IF NOT EXISTS i ON jobs (x)", "no-transaction"),
        ("-- no-transaction\nCREATE INDEX CONCURRENTLY i ON jobs (x)", "IF NOT EXISTS"),
        ("-- no-transaction\nCREATE INDEX CONCURRENTLY IF NOT EXISTS i ON jobs (x);", ""),
        (
            "-- no-transaction\nCREATE INDEX CONCURRENTLY IF NOT EXISTS i ON jobs (x); SELECT 1",
            "alone in a file",
        ),
        ("-- no-transaction\nSELECT 1", "without a transaction"),
        ("UPDATE builds SET created_by = 'it''s; DROP TABLE x'", "UPDATE, DELETE"),
        ("UPDATE schema_compat SET oldest = greatest(oldest, 25)", "no `-- breaks: N`"),
        ("-- breaks: 25, why\nDROP TABLE builds", "needs, once"),
        (
            "-- breaks: 24, why\nUPDATE schema_compat SET oldest = greatest(oldest, 25); DROP TABLE builds",
            "needs, once",
        ),
        ("-- breaks: 25, why\nUPDATE schema_compat SET oldest = greatest(oldest, 25); DROP TABLE builds", ""),
        ("-- breaks: 31, why\nUPDATE schema_compat SET oldest = greatest(oldest, 31)", "its own farm"),
    ] {
        let found = wrong(30, sql);
        match expected {
            "" => assert!(found.is_empty(), "{sql}\n{found:?}"),
            expected => assert!(found.iter().any(|what| what.contains(expected)), "{sql}\n{found:?}"),
        }
    }
}
