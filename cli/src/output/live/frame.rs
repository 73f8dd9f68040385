//! The live view as lines: what fits into a terminal of this size.
//!
//! Every function here is pure. Lines never are wider than the terminal, and there are never more than it is high.

use unicode_width::UnicodeWidthStr as _;

use super::view::{Row, Run, State, View};
use crate::output::text::{bytes, fit, span, waiting};

/// The bar's width, characters.
const BAR: usize = 14;
/// A column for the step that runs is worth it from this width on.
const STEP: usize = 12;
/// Lines of output below a row.
const TAIL: usize = 3;

/// A terminal's size in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Columns.
    pub width: usize,
    /// Lines.
    pub height: usize,
}

/// What a line says, for its colour; never the only sign of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// In the terminal's own colour.
    Plain,
    /// Something went well.
    Good,
    /// Something went wrong.
    Bad,
    /// Less important than the rest.
    Dim,
    /// The user is asked something.
    Question,
}

/// A line, without its line break.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub tone: Tone,
    pub text: String,
}

/// The whole of it, at `now_ms` on this machine's clock.
pub fn frame(view: &View, size: Size, now_ms: i64) -> Vec<Line> {
    // The last column stays free: many terminals wrap when it is written.
    let width = size.width.saturating_sub(1).max(1);
    let height = size.height.saturating_sub(1).max(1);
    let mut ending = Vec::new();
    if let Some(text) = &view.preparing {
        ending.push(line(Tone::Plain, &format!("  {text}"), width));
    }
    if let Some(tags) = &view.publishing {
        ending.push(line(Tone::Plain, &format!("  publishing {tags}"), width));
    }
    if let Some(why) = &view.away {
        let text = format!("  the farm doesn't answer ({why}); the build goes on, trying again");
        ending.push(line(Tone::Bad, &text, width));
    }
    if let Some(question) = &view.question {
        ending.push(line(Tone::Question, &format!("  {question}"), width));
    }
    let room = height.saturating_sub(ending.len()).max(1);
    let mut lines = rows(view, width, room, now_ms);
    lines.extend(ending);
    lines.truncate(height);
    lines
}

fn rows(view: &View, width: usize, room: usize, now_ms: i64) -> Vec<Line> {
    let columns = Columns::new(&view.rows, width, now_ms);
    if view.rows.len() > room {
        // Those that still have to do first.
        let mut order: Vec<&Row> = view.rows.iter().collect();
        order.sort_by_key(|row| !matches!(row.state, State::Running | State::Waiting { .. }));
        let shown = room.saturating_sub(1);
        let mut lines: Vec<Line> = order[..shown].iter().map(|row| columns.line(row, now_ms)).collect();
        lines.push(line(Tone::Dim, &format!("  and {} more platforms", order.len() - shown), width));
        return lines;
    }
    let mut spare = room - view.rows.len();
    // Why something is as it is comes before what it writes.
    let reasons: Vec<Option<Line>> = view
        .rows
        .iter()
        .map(|row| {
            let reason = columns.reason(row).filter(|_| spare > 0)?;
            spare -= 1;
            Some(reason)
        })
        .collect();
    let busy = view.rows.iter().filter(|row| row.state == State::Running).count();
    let each = spare.checked_div(busy).unwrap_or(0).min(TAIL);
    let mut lines = Vec::new();
    for (row, reason) in view.rows.iter().zip(reasons) {
        lines.push(columns.line(row, now_ms));
        lines.extend(reason);
        if let (State::Running, Some(run)) = (&row.state, &row.run) {
            lines.extend(output(run, width, each));
        }
    }
    lines
}

/// The last lines that the steps wrote: those of the step that wrote last, when it is one, else one of each.
fn output(run: &Run, width: usize, limit: usize) -> Vec<Line> {
    let talking: Vec<_> = run.running().into_iter().filter(|step| !step.tail.is_empty()).collect();
    let dim = |text: String| line(Tone::Dim, &text, width);
    match &talking[..] {
        [] => Vec::new(),
        [one] => {
            let skip = one.tail.len().saturating_sub(limit);
            one.tail.iter().skip(skip).map(|text| dim(format!("      | {text}"))).collect()
        }
        many => many
            .iter()
            .take(limit)
            .map(|step| {
                let name = fit(&step.name, width / 3);
                dim(format!("      {name} | {}", step.tail.back().map_or("", String::as_str)))
            })
            .collect(),
    }
}

/// What stands in which column; narrow terminals have fewer.
struct Columns {
    width: usize,
    platform: usize,
    support: usize,
    worker: Option<usize>,
    bar: bool,
    count: Option<usize>,
    time: usize,
}

impl Columns {
    fn new(rows: &[Row], width: usize, now_ms: i64) -> Self {
        let widest = |cell: &dyn Fn(&Row) -> usize| rows.iter().map(cell).max().unwrap_or(0);
        let run = |cell: fn(&Run) -> usize| move |row: &Row| row.run.as_ref().map_or(0, cell);
        let mut columns = Self {
            width,
            platform: widest(&|row| row.platform.width()),
            support: widest(&|row| support(row).width()),
            worker: Some(widest(&run(|run| run.worker.width()))),
            bar: true,
            count: Some(widest(&run(|run| count(run).width()))),
            time: widest(&|row| row.run.as_ref().map_or(0, |run| span(run.took_ms(now_ms)).width())),
        };
        // What is missed least goes first.
        let enough = width.saturating_sub(STEP);
        if columns.fixed() > enough {
            columns.bar = false;
        }
        if columns.fixed() > enough {
            columns.worker = None;
        }
        if columns.fixed() > enough {
            columns.count = None;
        }
        columns
    }

    fn fixed(&self) -> usize {
        let optional = |column: Option<usize>| column.filter(|width| *width > 0).map_or(0, |width| width + 2);
        let bar = if self.bar { BAR + 2 } else { 0 };
        2 + self.platform
            + 2
            + self.support
            + 2
            + optional(self.worker)
            + bar
            + optional(self.count)
            + self.time
            + 2
    }

    fn line(&self, row: &Row, now_ms: i64) -> Line {
        let mut text =
            format!("  {}  {}", pad(&row.platform, self.platform), pad(support(row), self.support));
        let tone = match (&row.state, &row.run) {
            (State::Waiting { why, starts_ms }, _) => {
                text.push_str(&format!("  {}", waiting(why, *starts_ms, now_ms)));
                Tone::Plain
            }
            (state, Some(run)) => {
                if let Some(width) = self.worker.filter(|width| *width > 0) {
                    text.push_str(&format!("  {}", pad(&run.worker, width)));
                }
                if self.bar {
                    text.push_str(&format!("  {}", pad(&bar(run, state), BAR)));
                }
                if let Some(width) = self.count.filter(|width| *width > 0) {
                    text.push_str(&format!("  {}", pad(&count(run), width)));
                }
                text.push_str(&format!("  {}", pad(&span(run.took_ms(now_ms)), self.time)));
                let (tone, last) = doing(run, state);
                text.push_str(&format!("  {last}"));
                tone
            }
            (state, None) => {
                let (tone, word) = word(state);
                text.push_str(&format!("  {word}"));
                tone
            }
        };
        line(tone, text.trim_end(), self.width)
    }

    /// Why a row is as it is, below what it says.
    fn reason(&self, row: &Row) -> Option<Line> {
        let run = row.run.as_ref().filter(|_| row.state == State::Running)?;
        // What the worker does besides the steps is of interest while none runs.
        let notice = Some(&run.notice).filter(|_| run.running().is_empty());
        let text = Some(&run.reason).filter(|reason| !reason.is_empty()).or(notice)?;
        let indent = " ".repeat(self.platform + 4);
        (!text.is_empty()).then(|| line(Tone::Dim, &format!("{indent}{text}"), self.width))
    }
}

fn support(row: &Row) -> &str {
    match (&row.state, &row.run) {
        (State::Waiting { .. }, _) => "waiting",
        (_, Some(run)) => &run.support,
        (State::Built(_), None) => "taken over",
        _ => "",
    }
}

fn count(run: &Run) -> String {
    match run.steps() {
        (_, 0) => String::new(),
        (ended, all) => format!("{ended}/{all}"),
    }
}

/// How much is done, in eighths of a character.
fn bar(run: &Run, state: &State) -> String {
    let (ended, all) = if matches!(state, State::Built(_)) { (1, 1) } else { run.steps() };
    let eighths = (BAR * 8 * ended).checked_div(all).unwrap_or(0);
    let part = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"][eighths % 8];
    format!("{}{part}", "█".repeat(eighths / 8))
}

fn word(state: &State) -> (Tone, String) {
    match state {
        State::Waiting { why, .. } => (Tone::Plain, why.clone()),
        State::Running => (Tone::Plain, String::new()),
        State::Built(digest) => (Tone::Good, format!("built {digest}")),
        State::Failed => (Tone::Bad, "failed".to_owned()),
        State::Cancelled => (Tone::Dim, "cancelled".to_owned()),
    }
}

/// What a running one does, what an ended one has come to.
fn doing(run: &Run, state: &State) -> (Tone, String) {
    if *state != State::Running {
        return word(state);
    }
    let running = run.running();
    let Some(step) = running.first() else { return (Tone::Plain, String::new()) };
    let moved = match step.transfer {
        Some((now, 0)) => format!("  {}", bytes(now)),
        Some((now, all)) => format!("  {} of {}", bytes(now), bytes(all)),
        None => String::new(),
    };
    let others =
        if running.len() > 1 { format!("  (and {} more)", running.len() - 1) } else { String::new() };
    (Tone::Plain, format!("{}{moved}{others}", step.name))
}

fn pad(text: &str, width: usize) -> String {
    format!("{text}{}", " ".repeat(width.saturating_sub(text.width())))
}

fn line(tone: Tone, text: &str, width: usize) -> Line {
    Line { tone, text: fit(&text.replace('\t', "    "), width) }
}

#[cfg(test)]
#[path = "frame_tests.rs"]
mod tests;
