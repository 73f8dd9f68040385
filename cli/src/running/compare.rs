//! The runs of an image's variants side by side, and what is different between them.

use farm_types::Platform;
use serde::Serialize;
use unicode_width::UnicodeWidthStr as _;

use super::Ended;
use crate::output::text::{fit, harmless};

/// The narrowest column in which output can be read.
const NARROWEST: usize = 24;
/// Between two columns; the second sign says that the lines are not the same.
const SAME: &str = "   ";
const DIFFERENT: &str = " | ";

/// How one variant ran.
#[derive(Debug)]
pub struct Ran {
    /// Its platform.
    pub platform: Platform,
    /// The build that ran it; empty when none was begun.
    pub build: String,
    /// `native on w1`; empty when it didn't come to that.
    pub on: String,
    /// The lines that it wrote, made harmless.
    pub lines: Vec<String>,
    /// How it ended.
    pub ended: Ended,
}

impl Ran {
    fn end(&self) -> String {
        match &self.ended {
            Ended::Exited(code) => format!("exit code {code}"),
            Ended::Failed(why) => format!("not run: {why}"),
            Ended::Cancelled => "cancelled".to_owned(),
            Ended::TimedOut => "took too long".to_owned(),
        }
    }

    /// Whether it ended as a program ends that is content.
    pub fn is_good(&self) -> bool {
        self.ended == Ended::Exited(0)
    }
}

/// Columns of output, one per variant, under their platforms, in at most `width` characters; where that is too narrow,
/// one below the other.
pub fn side_by_side(runs: &[Ran], width: usize) -> Vec<String> {
    let gaps = SAME.len() * runs.len().saturating_sub(1);
    let column = width.saturating_sub(gaps) / runs.len().max(1);
    if runs.len() > 1 && column >= NARROWEST { in_columns(runs, column) } else { in_blocks(runs) }
}

fn in_blocks(runs: &[Ran]) -> Vec<String> {
    let mut out = Vec::new();
    for run in runs {
        out.push(format!("{}  {}  {}", run.platform, run.on, harmless(&run.end())));
        out.extend(run.lines.iter().map(|line| format!("  {line}")));
    }
    out
}

fn in_columns(runs: &[Ran], widest: usize) -> Vec<String> {
    let width = |run: &Ran| {
        let head = [run.platform.to_string(), run.on.clone(), run.end()];
        let longest = head.iter().chain(&run.lines).map(|line| line.width()).max().unwrap_or(0);
        longest.clamp(NARROWEST.min(widest), widest)
    };
    let widths: Vec<usize> = runs.iter().map(width).collect();
    let row = |cells: Vec<&str>, gap: &str| {
        let mut line = String::new();
        for (i, (cell, &width)) in cells.iter().zip(&widths).enumerate() {
            if i > 0 {
                line.push_str(gap);
            }
            let cell = fit(cell, width);
            line.push_str(&cell);
            line.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.width())));
        }
        line.truncate(line.trim_end().len());
        line
    };
    let platforms: Vec<String> = runs.iter().map(|run| run.platform.to_string()).collect();
    let mut out = vec![row(platforms.iter().map(String::as_str).collect(), SAME)];
    out.push(row(runs.iter().map(|run| run.on.as_str()).collect(), SAME));
    for i in 0..runs.iter().map(|run| run.lines.len()).max().unwrap_or(0) {
        let cells: Vec<&str> =
            runs.iter().map(|run| run.lines.get(i).map(String::as_str).unwrap_or_default()).collect();
        let gap = if cells.iter().all(|cell| *cell == cells[0]) { SAME } else { DIFFERENT };
        out.push(row(cells, gap));
    }
    let ends: Vec<String> = runs.iter().map(|run| harmless(&run.end())).collect();
    out.push(row(ends.iter().map(String::as_str).collect(), SAME));
    out
}

/// What came of it, the important line last.
pub fn verdict(image: &str, runs: &[Ran]) -> Vec<String> {
    let mut out = Vec::new();
    for run in runs.iter().filter(|run| !run.is_good() && !run.build.is_empty()) {
        out.push(format!("{} {}   farm logs {}", run.platform, harmless(&run.end()), run.build));
    }
    let bad: Vec<String> =
        runs.iter().filter(|run| !run.is_good()).map(|run| run.platform.to_string()).collect();
    let differ = runs.iter().any(|run| run.ended != runs[0].ended);
    let same_output = runs.iter().all(|run| run.lines == runs[0].lines);
    let output = if same_output { "the same output" } else { "different output (|)" };
    let image = harmless(image);
    let none = bad.len() == runs.len();
    out.push(match (bad.len(), differ && !none) {
        (0, _) if runs.len() == 1 => format!("{image}: its only platform ended with exit code 0"),
        (0, _) if runs.len() == 2 => format!("{image}: both platforms ended with exit code 0, {output}"),
        (0, _) => format!("{image}: all {} platforms ended with exit code 0, {output}", runs.len()),
        (_, true) => format!("{image}: {} not as the others", bad.join(", ")),
        (_, false) => format!("{image}: no platform ended with exit code 0"),
    });
    out
}

/// The JSON of `farm test --json`.
#[derive(Debug, Serialize)]
pub struct TestJson<'a> {
    /// What was asked for, with what was left out filled in.
    image: &'a str,
    /// Every platform ended with exit code 0.
    passed: bool,
    platforms: Vec<RanJson<'a>>,
}

#[derive(Debug, Serialize)]
struct RanJson<'a> {
    platform: String,
    /// The build that ran it; null when none was begun.
    build: Option<&'a str>,
    /// null when the program didn't end by itself.
    exit_code: Option<i32>,
    /// exited, failed, cancelled or timed_out.
    ended: &'static str,
    /// Why the farm couldn't run it; else null.
    problem: Option<&'a str>,
    /// Standard output and standard error, in the order in which they came.
    lines: &'a [String],
}

impl<'a> TestJson<'a> {
    /// The JSON of these runs.
    pub fn new(image: &'a str, runs: &'a [Ran]) -> Self {
        let one = |run: &'a Ran| RanJson {
            platform: run.platform.to_string(),
            build: Some(run.build.as_str()).filter(|build| !build.is_empty()),
            exit_code: if let Ended::Exited(code) = run.ended { Some(code) } else { None },
            ended: match &run.ended {
                Ended::Exited(_) => "exited",
                Ended::Failed(_) => "failed",
                Ended::Cancelled => "cancelled",
                Ended::TimedOut => "timed_out",
            },
            problem: if let Ended::Failed(why) = &run.ended { Some(why) } else { None },
            lines: &run.lines,
        };
        Self { image, passed: runs.iter().all(Ran::is_good), platforms: runs.iter().map(one).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ran(platform: &str, lines: &[&str], ended: Ended) -> Ran {
        Ran {
            platform: platform.parse().unwrap(),
            build: "7f3k2m".into(),
            on: "native on w1".into(),
            lines: lines.iter().map(|&line| line.to_owned()).collect(),
            ended,
        }
    }

    #[test]
    fn what_differs_is_marked() {
        let runs = [
            ran("linux/amd64", &["Python 3.11", "x86_64"], Ended::Exited(0)),
            ran("linux/arm64", &["Python 3.11", "aarch64", "more"], Ended::Exited(0)),
        ];
        assert_eq!(
            side_by_side(&runs, 80),
            [
                "linux/amd64                linux/arm64",
                "native on w1               native on w1",
                "Python 3.11                Python 3.11",
                "x86_64                   | aarch64",
                "                         | more",
                "exit code 0                exit code 0",
            ]
        );
        assert_eq!(
            verdict("app", &runs),
            ["app: both platforms ended with exit code 0, different output (|)"]
        );
    }

    #[test]
    fn where_columns_have_no_room_one_stands_below_the_other() {
        let runs = [
            ran("linux/amd64", &["a"], Ended::Exited(0)),
            ran("linux/arm64", &[], Ended::Failed("no worker".into())),
        ];
        let lines = side_by_side(&runs, 40);
        assert_eq!(lines[0], "linux/amd64  native on w1  exit code 0");
        assert_eq!(lines[2], "linux/arm64  native on w1  not run: no worker");
        assert_eq!(
            verdict("app", &runs),
            ["linux/arm64 not run: no worker   farm logs 7f3k2m", "app: linux/arm64 not as the others"]
        );
    }

    #[test]
    fn long_lines_are_cut_at_the_column() {
        let long = "x".repeat(100);
        let runs =
            [ran("linux/amd64", &[&long], Ended::Exited(1)), ran("linux/arm64", &[&long], Ended::Exited(1))];
        let lines = side_by_side(&runs, 83);
        assert!(
            lines.iter().all(|line| line.chars().count() <= 83) && lines[2].contains("x…   x"),
            "{lines:?}"
        );
        assert!(verdict("app", &runs).last().unwrap().contains("no platform"));
    }
}
