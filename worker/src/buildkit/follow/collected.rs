//! What a solve's status told so far, merged, and what of it is news.
//!
//! The engine sends the same step again and again with more of it set, also out of order, and after a broken
//! status stream everything from the beginning. Invariant: [`Collected::absorb`] gives each change, each log
//! byte and each warning once, however often they come. No IO and no clock.
//!
//! What is news is given as the engine tells it, secrets included, as it is judged by; whoever sends it masks it. Only what is cut
//! here is masked here, before that: a part of a value isn't found any more.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use bollard_buildkit_proto::google::protobuf::Timestamp;
use bollard_buildkit_proto::moby::buildkit::v1::{
    StatusResponse, Vertex, VertexLog, VertexStatus, VertexWarning,
};
use farm_dockerfile::Stages;
use farm_proto::v1;
use farm_proto::v1::attempt_event::Event;

use super::stepname::{self, StepName};
use crate::mask::{Mask, Masker};

/// How many last lines of a step's output a failure carries.
const TAIL_LINES: usize = 20;
/// Where a line of them is cut, bytes.
const TAIL_LINE_BYTES: usize = 1000;
/// The least time between two updates of the same transfer, milliseconds.
const TRANSFER_PAUSE_MS: i64 = 250;
/// Where an instruction is cut in a [`v1::StepTiming`], characters.
const INSTRUCTION_CHARS: usize = 200;

/// All that is known of a solve's steps.
#[derive(Debug, Default)]
pub(crate) struct Collected {
    steps: HashMap<String, Step>,
    transfers: HashMap<(String, String), Transfer>,
    warnings: HashSet<(String, Vec<u8>, i32)>,
    /// Those of the Dockerfile; none when it isn't known what they are used for.
    stages: Stages,
    mask: Mask,
}

/// A step (BuildKit: vertex).
#[derive(Debug, Default)]
pub(crate) struct Step {
    pub(crate) name: String,
    parsed: Option<StepName>,
    cached: bool,
    started: Option<Timestamp>,
    completed: Option<Timestamp>,
    pub(crate) error: String,
    /// What was told of it last.
    told: Option<v1::StepUpdate>,
    output: BTreeMap<u32, Output>,
    tail: Tail,
}

/// The bytes of one of a step's streams: how many ever came, and how many in this reading of the status.
#[derive(Debug, Default)]
struct Output {
    seen: usize,
    position: usize,
    /// On their way to the last lines.
    masker: Masker,
}

#[derive(Debug, Default)]
struct Transfer {
    told_at_ms: Option<i64>,
    told: v1::Transfer,
}

impl Collected {
    /// Nothing yet, of a Dockerfile with these stages, with this masked in what is cut.
    pub(crate) fn new(stages: Option<Stages>, mask: Mask) -> Self {
        Self { stages: stages.unwrap_or_default(), mask, ..Self::default() }
    }

    /// Whether a line of the Dockerfile is in a stage that the image doesn't need.
    pub(crate) fn is_unused(&self, line: u32) -> bool {
        self.stages.is_unused(line)
    }

    /// To be called when the status is read anew: all comes again from the beginning.
    pub(super) fn start_over(&mut self) {
        for output in self.steps.values_mut().flat_map(|step| step.output.values_mut()) {
            output.position = 0;
        }
    }

    /// Takes in a piece of the status. Answers with what is new in it.
    pub(crate) fn absorb(&mut self, response: StatusResponse, now_ms: i64) -> Vec<Event> {
        let mut news = Vec::new();
        for vertex in response.vertexes {
            news.extend(self.vertex(vertex).map(Event::Step));
        }
        for status in response.statuses {
            news.extend(self.transfer(status, now_ms).map(Event::Transfer));
        }
        for log in response.logs {
            news.extend(self.log(log).map(Event::Log));
        }
        for warning in response.warnings {
            news.extend(self.warning(warning).map(Event::Warning));
        }
        news
    }

    fn vertex(&mut self, vertex: Vertex) -> Option<v1::StepUpdate> {
        let step = self.steps.entry(vertex.digest.clone()).or_default();
        if !vertex.name.is_empty() && vertex.name != step.name {
            step.parsed = stepname::parse(&vertex.name);
            step.name = vertex.name;
        }
        step.cached |= vertex.cached;
        step.started = later(step.started, vertex.started);
        step.completed = later(step.completed, vertex.completed);
        if !vertex.error.is_empty() {
            step.error = vertex.error;
        }
        let parsed = step.parsed.as_ref();
        let update = v1::StepUpdate {
            digest: vertex.digest,
            name: step.name.clone(),
            stage: parsed.map(|name| name.stage.clone()).unwrap_or_default(),
            number: parsed.map_or(0, |name| name.number),
            total: parsed.map_or(0, |name| name.total),
            instruction: parsed.map(|name| name.instruction.clone()).unwrap_or_default(),
            cached: step.cached,
            started_ms: milliseconds(step.started),
            finished_ms: step.finished_ms(),
            error: step.error.clone(),
        };
        if step.told.as_ref() == Some(&update) {
            return None;
        }
        step.told = Some(update.clone());
        Some(update)
    }

    fn transfer(&mut self, status: VertexStatus, now_ms: i64) -> Option<v1::Transfer> {
        let bytes = |number: i64| u64::try_from(number).unwrap_or(0);
        let update = v1::Transfer {
            step_digest: status.vertex.clone(),
            name: if status.name.is_empty() { status.id.clone() } else { status.name },
            current: bytes(status.current),
            total: bytes(status.total),
            done: status.completed.is_some(),
        };
        let transfer = self.transfers.entry((status.vertex, status.id)).or_default();
        let due = transfer.told_at_ms.is_none_or(|told| now_ms - told >= TRANSFER_PAUSE_MS) || update.done;
        if !due || transfer.told == update || transfer.told.done {
            return None;
        }
        transfer.told_at_ms = Some(now_ms);
        transfer.told = update.clone();
        Some(update)
    }

    fn log(&mut self, log: VertexLog) -> Option<v1::StepLog> {
        let stream = u32::try_from(log.stream).unwrap_or(0);
        let step = self.steps.entry(log.vertex.clone()).or_default();
        let new = || Output { masker: self.mask.masker(), ..Output::default() };
        let output = step.output.entry(stream).or_insert_with(new);
        let known = output.seen.saturating_sub(output.position).min(log.msg.len());
        output.position += log.msg.len();
        output.seen = output.seen.max(output.position);
        let data = &log.msg[known..];
        if data.is_empty() {
            return None;
        }
        step.tail.push(stream, &output.masker.push(data));
        Some(v1::StepLog { step_digest: log.vertex, stream, data: data.to_vec().into() })
    }

    fn warning(&mut self, warning: VertexWarning) -> Option<v1::Warning> {
        let line = warning.ranges.first().and_then(|range| range.start).map_or(0, |start| start.line);
        if !self.warnings.insert((warning.vertex, warning.short.clone(), line)) {
            return None;
        }
        let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let line = u32::try_from(line).unwrap_or(0);
        let (rule, message) = split_warning(&lossy(&warning.short));
        let info = warning.info.unwrap_or_default();
        let source = String::from_utf8_lossy(&info.data);
        let source_line =
            usize::try_from(line).ok().and_then(|line| source.lines().nth(line.checked_sub(1)?));
        Some(v1::Warning {
            rule,
            message,
            detail: warning.detail.iter().map(|text| lossy(text)).collect(),
            url: warning.url,
            source_line: source_line.unwrap_or_default().to_owned(),
            file: info.filename,
            line,
            stage_unused: self.is_unused(line),
        })
    }

    /// A step, by its digest.
    pub(crate) fn step(&self, digest: &str) -> Option<&Step> {
        self.steps.get(digest)
    }

    /// A step that ended with an error.
    pub(crate) fn failed(&self) -> Option<&Step> {
        // One that failed by itself, before those that were only ended with it.
        let failed = self.steps.values().filter(|step| !step.error.is_empty());
        // The end of an error is the engine's own; what is before may repeat a command.
        failed.min_by_key(|step| (step.error.ends_with("context canceled"), step.finished_ms()))
    }

    /// The Dockerfile's steps that ran or were answered from the cache, in the order of their start.
    pub(crate) fn timings(&self) -> Vec<v1::StepTiming> {
        let mut steps: Vec<_> = self
            .steps
            .values()
            .filter_map(|step| Some((step, step.parsed.as_ref()?)))
            .filter(|(step, _)| step.cached || step.finished_ms() > 0)
            .collect();
        // The engine may have several vertices for one instruction (a COPY is one per way to reach its result);
        // the one that did the work speaks for it.
        steps.sort_by_key(|(step, _)| step.cached);
        let mut seen = HashSet::new();
        steps.retain(|(_, name)| seen.insert((&name.stage, name.number, &name.instruction)));
        steps.sort_by_key(|(step, name)| (milliseconds(step.started), &name.stage, name.number));
        steps
            .into_iter()
            .map(|(step, name)| v1::StepTiming {
                stage: name.stage.clone(),
                instruction: self.mask.text(&name.instruction).chars().take(INSTRUCTION_CHARS).collect(),
                cached: step.cached,
                started_ms: milliseconds(step.started),
                finished_ms: step.finished_ms(),
            })
            .collect()
    }
}

impl Step {
    /// The last lines of the step's output, as a terminal would show them.
    pub(crate) fn tail(&self) -> Vec<String> {
        let mut tail = self.tail.clone();
        for (stream, output) in &self.output {
            tail.push(*stream, &output.masker.clone().finish());
        }
        tail.lines()
    }

    /// 0 while it runs: a step that was interrupted and started again has an end that is older than its start.
    fn finished_ms(&self) -> i64 {
        let (started, completed) = (self.started.map(sortable), self.completed.map(sortable));
        if completed >= started { milliseconds(self.completed) } else { 0 }
    }
}

fn sortable(time: Timestamp) -> (i64, i32) {
    (time.seconds, time.nanos)
}

fn later(a: Option<Timestamp>, b: Option<Timestamp>) -> Option<Timestamp> {
    if b.map(sortable) > a.map(sortable) { b } else { a }
}

fn milliseconds(time: Option<Timestamp>) -> i64 {
    time.map_or(0, |time| time.seconds.saturating_mul(1000).saturating_add(i64::from(time.nanos / 1_000_000)))
}

/// `RuleName: text (line 7)` in its parts; the line is known otherwise.
fn split_warning(short: &str) -> (String, String) {
    let text = match short.rsplit_once(" (line ") {
        Some((text, rest)) if rest.ends_with(')') => text,
        _ => short,
    };
    match text.split_once(": ") {
        Some((rule, text)) if !rule.is_empty() && rule.bytes().all(|byte| byte.is_ascii_alphanumeric()) => {
            (rule.to_owned(), text.to_owned())
        }
        _ => (String::new(), text.to_owned()),
    }
}

/// The last lines of something that comes in pieces.
#[derive(Debug, Clone, Default)]
struct Tail {
    lines: VecDeque<Vec<u8>>,
    /// Of each stream, the line that has no end yet.
    open: BTreeMap<u32, Vec<u8>>,
}

impl Tail {
    fn push(&mut self, stream: u32, data: &[u8]) {
        let open = self.open.entry(stream).or_default();
        for piece in data.split_inclusive(|&byte| byte == b'\n') {
            let (text, ends) = piece.strip_suffix(b"\n").map_or((piece, false), |text| (text, true));
            let room = TAIL_LINE_BYTES.saturating_sub(open.len());
            open.extend_from_slice(&text[..text.len().min(room)]);
            if ends {
                if self.lines.len() == TAIL_LINES {
                    self.lines.pop_front();
                }
                self.lines.push_back(std::mem::take(open));
            }
        }
    }

    fn lines(&self) -> Vec<String> {
        let open = self.open.values().filter(|line| !line.is_empty());
        let mut lines: Vec<String> = self.lines.iter().chain(open).map(|line| plain(line)).collect();
        lines.drain(..lines.len().saturating_sub(TAIL_LINES));
        lines
    }
}

/// A line without what steers a terminal: what was overwritten (before a carriage return) and escape sequences
/// (ECMA-48, CSI).
fn plain(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let text = text.trim_end().rsplit('\r').next().unwrap_or_default();
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' => {
                if chars.next() == Some('[') {
                    chars.find(|c| ('@'..='~').contains(c));
                }
            }
            '\t' => plain.push(c),
            c if c.is_control() => {}
            c => plain.push(c),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Option<Timestamp> {
        Some(Timestamp { seconds, nanos: 0 })
    }

    fn vertex(name: &str, started: i64, completed: i64) -> StatusResponse {
        let time = |seconds| if seconds == 0 { None } else { at(seconds) };
        let vertex = Vertex {
            digest: name.into(),
            name: name.into(),
            started: time(started),
            completed: time(completed),
            ..Vertex::default()
        };
        StatusResponse { vertexes: vec![vertex], ..StatusResponse::default() }
    }

    fn log(text: &str) -> StatusResponse {
        let log = VertexLog { vertex: "v".into(), stream: 1, msg: text.into(), timestamp: None };
        StatusResponse { logs: vec![log], ..StatusResponse::default() }
    }

    fn logged(events: &[Event]) -> String {
        let text = |event: &Event| match event {
            Event::Log(log) => String::from_utf8_lossy(&log.data).into_owned(),
            _ => panic!("{event:?}"),
        };
        events.iter().map(text).collect()
    }

    #[test]
    fn a_step_is_told_once_per_change_and_counts_as_done_when_its_end_is_after_its_start() {
        let mut all = Collected::default();
        let name = "[a 1/2] RUN x";
        assert_eq!(all.absorb(vertex(name, 5, 0), 0).len(), 1);
        assert!(all.absorb(vertex(name, 5, 0), 0).is_empty());
        assert!(all.absorb(vertex(name, 0, 0), 0).is_empty());
        all.absorb(vertex(name, 5, 7), 0);
        assert_eq!(all.timings()[0].finished_ms, 7000);
        // Paused and started again.
        all.absorb(vertex(name, 8, 0), 0);
        assert!(all.timings().is_empty());
        all.absorb(vertex(name, 5, 7), 0);
        assert!(all.timings().is_empty());
        all.absorb(vertex(name, 8, 9), 0);
        all.absorb(vertex("[internal] load metadata", 1, 2), 0);
        let timing = all.timings();
        assert_eq!((timing.len(), timing[0].started_ms, timing[0].instruction.as_str()), (1, 8000, "RUN x"));
    }

    #[test]
    fn a_repeated_log_is_told_once_however_it_is_cut() {
        let mut all = Collected::default();
        assert_eq!(logged(&all.absorb(log("one\nt"), 0)), "one\nt");
        all.start_over();
        assert_eq!(logged(&all.absorb(log("on"), 0)), "");
        assert_eq!(logged(&all.absorb(log("e\ntwo\n"), 0)), "wo\n");
        assert_eq!(logged(&all.absorb(log("three"), 0)), "three");
        assert_eq!(all.step("v").unwrap().tail(), ["one", "two", "three"]);
    }

    /// Whoever sends what is news masks it; the last lines and what is cut are masked here.
    #[test]
    fn last_lines_and_timings_hold_no_secret_and_news_are_what_the_engine_says() {
        let key = "MIIEvQIBADANBgkqhkiG9w\nQ==";
        let (mask, unmasked) = Mask::new(&[b"hunter2-secret", key.as_bytes()]);
        assert_eq!(unmasked, []);
        let mut all = Collected::new(None, mask);
        assert_eq!(logged(&all.absorb(log("it is hunter2"), 0)), "it is hunter2");
        all.absorb(log("-secret\nMIIEvQIBADANBgkqhkiG9w\nQ="), 0);
        // A status that is read anew says nothing twice.
        all.start_over();
        all.absorb(log("it is hunter2-secret\n"), 0);
        all.absorb(log("MIIEvQIBADANBgkqhkiG9w\nQ==\nand hun"), 0);
        assert_eq!(all.step("v").unwrap().tail(), ["it is ***", "***", "and hun"]);
        let name = format!("[a 1/2] RUN {}hunter2-secret", ".".repeat(INSTRUCTION_CHARS - 10));
        all.absorb(vertex(&name, 5, 7), 0);
        assert!(all.timings()[0].instruction.ends_with("...***"), "{:?}", all.timings());
    }

    #[test]
    fn a_tail_keeps_the_last_lines_as_a_terminal_shows_them() {
        let mut tail = Tail::default();
        for n in 0..50 {
            tail.push(1, format!("line {n}\n").as_bytes());
        }
        tail.push(1, b"10%\r1");
        tail.push(2, b"\x1b[31mred\x1b[0m and ");
        tail.push(1, b"00%\r\n");
        tail.push(2, b"\x1b[1;2Hmore");
        let lines = tail.lines();
        assert_eq!(lines.len(), TAIL_LINES);
        assert_eq!(lines[TAIL_LINES - 3..], ["line 49", "100%", "red and more"]);
    }

    #[test]
    fn transfers_are_told_four_times_a_second_and_at_their_end() {
        let mut all = Collected::default();
        let mut told = Vec::new();
        for step in 0..100 {
            let status = VertexStatus {
                id: "x".into(),
                current: step,
                completed: if step == 99 { at(1) } else { None },
                ..VertexStatus::default()
            };
            let response = StatusResponse { statuses: vec![status], ..StatusResponse::default() };
            for event in all.absorb(response, step * 10) {
                let Event::Transfer(transfer) = event else { panic!("{event:?}") };
                told.push((transfer.current, transfer.done));
            }
        }
        assert_eq!(told, [(0, false), (25, false), (50, false), (75, false), (99, true)]);
    }

    #[test]
    fn a_warning_is_taken_apart_and_told_once() {
        let mut all = Collected::default();
        let warning = VertexWarning {
            short: b"InvalidBaseImagePlatform: Base image x was pulled (line 2)".to_vec(),
            ranges: vec![bollard_buildkit_proto::pb::Range {
                start: Some(bollard_buildkit_proto::pb::Position { line: 2, character: 0 }),
                end: None,
            }],
            info: Some(bollard_buildkit_proto::pb::SourceInfo {
                filename: "Dockerfile".into(),
                data: b"FROM a\nFROM b\n".to_vec(),
                ..Default::default()
            }),
            ..VertexWarning::default()
        };
        let response =
            StatusResponse { warnings: vec![warning.clone(), warning], ..StatusResponse::default() };
        let events = all.absorb(response, 0);
        let [Event::Warning(warning)] = &events[..] else { panic!("{events:?}") };
        assert_eq!(
            (warning.rule.as_str(), warning.line, warning.source_line.as_str()),
            ("InvalidBaseImagePlatform", 2, "FROM b")
        );
        assert_eq!(warning.message, "Base image x was pulled");
        assert_eq!(split_warning("no rule: here"), (String::new(), "no rule: here".to_owned()));
    }
}
