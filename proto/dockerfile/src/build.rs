//! What a Dockerfile comes to for one platform: its stages with what each stands on, takes, and runs.
//!
//! The engine goes through a file in the same order (BuildKit, `dockerfile2llb/convert.go`): arguments above all stages, then
//! each stage with the environment of what it stands on. Invariant: what depends on something unknown makes the whole
//! answer [`None`] where a stage could be missed, and the whole of a context where a path could be.

use std::collections::{BTreeMap, BTreeSet};

use farm_types::spec::NamedContext;
use farm_types::{ContextName, Platform};

use crate::Dockerfile;
use crate::expand::{Variables, expand};
use crate::instruction::{CopyArgs, FromArgs, Instruction, Kind, Mount, MountType};
use crate::selection::{Pattern, Selection};

/// What is asked of a Dockerfile.
#[derive(Debug, Clone, Copy)]
pub struct Build<'a> {
    /// The stage; `None`: the last.
    pub target: Option<&'a str>,
    /// The build arguments.
    pub args: &'a BTreeMap<String, String>,
    /// What stands in for stages and images of these names.
    pub contexts: &'a BTreeMap<String, NamedContext>,
    /// For which platform.
    pub platform: &'a Platform,
}

/// A stage as it is built.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) name: Option<String>,
    /// The lines from its FROM to the next one, from 1.
    pub(crate) first: u32,
    /// Inclusive.
    pub(crate) last: u32,
    /// The stages that it is made of, by their places.
    pub(crate) needs: BTreeSet<usize>,
    /// Whether the image for the target needs it.
    pub(crate) is_used: bool,
    /// What it takes of the build's context.
    pub(crate) context: Selection,
    /// What it takes of named contexts.
    pub(crate) named: BTreeMap<String, Selection>,
    /// Whether it runs a program.
    pub(crate) has_run: bool,
    /// Whose programs those are.
    pub(crate) platform: StagePlatform,
    /// A named context stands in for it: none of its instructions is carried out.
    is_replaced: bool,
    /// Set at its end.
    variables: Variables,
    /// What a stage that stands on it will do first.
    triggers: Vec<Instruction>,
}

/// The platform of a stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum StagePlatform {
    /// The one that is built for.
    Target,
    /// The engine's own.
    Engine,
    /// This one, whatever is built for.
    Fixed(Platform),
    /// It can't be told.
    Unknown,
}

/// A longer file isn't gone through: that costs stages times variables.
const MOST_INSTRUCTIONS: usize = 10_000;
/// The same.
const MOST_STAGES: usize = 500;

/// Where a name leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Stage(usize),
    Named(String),
    Elsewhere,
}

/// The stages, those that are needed marked; `None` when that can't be told.
pub(crate) fn stages(file: &Dockerfile, build: &Build<'_>) -> Option<Vec<Stage>> {
    if file.is_unterminated || file.instructions.len() > MOST_INSTRUCTIONS {
        return None;
    }
    let mut reader = Reader {
        build,
        escape: file.directives.escape,
        globals: automatic(build, false),
        platforms: automatic(build, true),
        stages: Vec::new(),
    };
    for instruction in &file.instructions {
        reader.take(instruction)?;
    }
    let mut stages = reader.stages;
    let target = match build.target {
        None => stages.len().checked_sub(1)?,
        Some(name) => named(&stages, name)?,
    };
    let mut open = vec![target];
    while let Some(place) = open.pop() {
        let stage = stages.get_mut(place)?;
        if !std::mem::replace(&mut stage.is_used, true) {
            open.extend(&stage.needs);
        }
    }
    Some(stages)
}

/// What stands for the engine's own platform while that of a stage is looked for.
const ENGINE: [(&str, &str); 4] = [
    ("BUILDPLATFORM", "\u{1}engine"),
    ("BUILDOS", "\u{1}os"),
    ("BUILDARCH", "\u{1}architecture"),
    ("BUILDVARIANT", ""),
];

/// The arguments that BuildKit sets for every Dockerfile. Those that the engine decides have no known value, or are marked.
fn automatic(build: &Build<'_>, marked: bool) -> Variables {
    let platform = build.platform;
    let mut known = Variables::closed();
    for (name, value) in ENGINE {
        known.set(name, marked.then(|| value.to_owned()));
    }
    for (name, value) in [
        ("TARGETPLATFORM", platform.to_string()),
        ("TARGETOS", platform.os().to_owned()),
        ("TARGETARCH", platform.architecture().to_owned()),
        ("TARGETVARIANT", platform.variant().to_owned()),
        ("TARGETSTAGE", build.target.unwrap_or("default").to_owned()),
    ] {
        known.set(name, Some(value));
    }
    // An argument takes their place, whether it is declared or not.
    for (name, value) in build.args {
        if known.value(name).is_some() {
            known.set(name, Some(value.clone()));
        }
    }
    known
}

/// The stage of this name or number. Of two with one name the later one, as in BuildKit.
fn named(stages: &[Stage], name: &str) -> Option<usize> {
    let is_it = |stage: &Stage| stage.name.as_deref().is_some_and(|own| own.eq_ignore_ascii_case(name));
    let number = || name.parse().ok().filter(|place| *place < stages.len());
    stages.iter().rposition(is_it).or_else(number)
}

struct Reader<'a> {
    build: &'a Build<'a>,
    escape: char,
    globals: Variables,
    /// The same, with the engine's own platform marked.
    platforms: Variables,
    stages: Vec<Stage>,
}

impl Reader<'_> {
    fn take(&mut self, instruction: &Instruction) -> Option<()> {
        match (&instruction.kind, self.stages.is_empty()) {
            (Kind::From(from), _) => return self.begin(from, instruction),
            (Kind::Arg(arguments), true) => self.declare(arguments),
            // The engine will refuse it.
            (_, true) => return None,
            (_, false) => self.within(instruction)?,
        }
        if let Some(stage) = self.stages.last_mut() {
            stage.last = stage.last.max(instruction.last);
        }
        Some(())
    }

    /// `ARG` above all stages.
    fn declare(&mut self, arguments: &[(String, Option<String>)]) {
        let (build, escape) = (self.build, self.escape);
        for variables in [&mut self.globals, &mut self.platforms] {
            for (name, default) in arguments {
                let given = build.args.get(name).cloned();
                match (given, default) {
                    (Some(value), _) => variables.set(name, Some(value)),
                    (None, Some(word)) => {
                        let value = expand(word, variables, escape);
                        variables.set(name, value);
                    }
                    // An automatic one that is only declared keeps its value.
                    (None, None) => {}
                }
            }
        }
    }

    fn begin(&mut self, from: &FromArgs, instruction: &Instruction) -> Option<()> {
        if self.stages.len() >= MOST_STAGES {
            return None;
        }
        let base = expand(&from.base, &self.globals, self.escape)?;
        let place = self.place(&base);
        let own = match &from.platform {
            None => StagePlatform::Target,
            Some(word) => self.platform(word),
        };
        let mut stage = Stage {
            name: from.name.clone(),
            first: instruction.first,
            last: instruction.last,
            needs: BTreeSet::new(),
            is_used: false,
            context: Selection::none(),
            named: BTreeMap::new(),
            has_run: false,
            platform: own,
            is_replaced: false,
            variables: Variables::open(),
            triggers: Vec::new(),
        };
        let mut triggers = Vec::new();
        // What replaces the stage itself.
        let replaced = from.name.as_ref().and_then(|name| self.context(name));
        stage.is_replaced = replaced.is_some();
        match replaced.map_or(place, Place::Named) {
            Place::Stage(below) => {
                let base = self.stages.get(below)?;
                stage.needs.insert(below);
                stage.platform = base.platform.clone();
                stage.variables = base.variables.clone();
                triggers.clone_from(&base.triggers);
            }
            Place::Named(name) => {
                stage.named.insert(name, Selection::All);
            }
            Place::Elsewhere if base == "scratch" => stage.variables = Variables::closed(),
            Place::Elsewhere => {}
        }
        self.stages.push(stage);
        triggers.iter().try_for_each(|trigger| self.within(trigger))
    }

    fn platform(&self, word: &str) -> StagePlatform {
        let Some(text) = expand(word, &self.platforms, self.escape) else { return StagePlatform::Unknown };
        let [(_, engine), (_, os), (_, architecture), _] = ENGINE;
        if text == engine || text == format!("{os}/{architecture}") || text == format!("linux/{architecture}")
        {
            return StagePlatform::Engine;
        }
        match text.parse::<Platform>() {
            Ok(platform) if platform == *self.build.platform => StagePlatform::Target,
            Ok(platform) => StagePlatform::Fixed(platform),
            Err(_) => StagePlatform::Unknown,
        }
    }

    /// The named context that a name means.
    fn context(&self, name: &str) -> Option<String> {
        let name: ContextName = name.parse().ok()?;
        let is_it = |key: &&String| key.parse().is_ok_and(|key: ContextName| key == name);
        self.build.contexts.keys().find(is_it).cloned()
    }

    fn place(&self, name: &str) -> Place {
        match (self.context(name), named(&self.stages, name)) {
            (Some(context), _) => Place::Named(context),
            (None, Some(stage)) => Place::Stage(stage),
            (None, None) => Place::Elsewhere,
        }
    }

    /// An instruction of the stage that was begun last.
    fn within(&mut self, instruction: &Instruction) -> Option<()> {
        if self.stages.last()?.is_replaced {
            return Some(());
        }
        match &instruction.kind {
            Kind::Arg(arguments) => self.arguments(arguments),
            Kind::Env(pairs) => {
                let escape = self.escape;
                let stage = self.stages.last_mut()?;
                // All of one instruction see what was there before it.
                let values: Vec<_> =
                    pairs.iter().map(|(_, word)| expand(word, &stage.variables, escape)).collect();
                for ((name, _), value) in pairs.iter().zip(values) {
                    let name = expand(name, &stage.variables, escape)?;
                    stage.variables.set(&name, value);
                }
            }
            Kind::Copy(copy) => self.copy(copy)?,
            Kind::Run(mounts) => {
                self.stages.last_mut()?.has_run = true;
                for mount in mounts {
                    self.mount(mount)?;
                }
            }
            Kind::Onbuild(trigger) => self.stages.last_mut()?.triggers.push((**trigger).clone()),
            Kind::Other => {}
            Kind::From(_) | Kind::Unreadable => return None,
        }
        Some(())
    }

    /// `ARG` within a stage.
    fn arguments(&mut self, arguments: &[(String, Option<String>)]) {
        let Some(stage) = self.stages.last_mut() else { return };
        for (name, default) in arguments {
            let given = self.build.args.get(name).cloned();
            match (given, default, self.globals.value(name)) {
                (Some(value), _, _) => stage.variables.set(name, Some(value)),
                (None, Some(word), _) => {
                    let value = expand(word, &stage.variables, self.escape);
                    stage.variables.set(name, value);
                }
                (None, None, Some(value)) => stage.variables.set(name, value.map(str::to_owned)),
                // What the base image may have set stays.
                (None, None, None) => {}
            }
        }
    }

    fn copy(&mut self, copy: &CopyArgs) -> Option<()> {
        let place = self.source(copy.from.as_deref())?;
        let escape = self.escape;
        let variables = &self.stages.last()?.variables;
        let mut selection = Selection::none();
        for word in &copy.sources {
            match expand(word, variables, escape) {
                Some(path) if copy.is_add && copy.from.is_none() && is_address(&path) => {}
                Some(path) if !path.contains('\u{fffd}') => selection.add(Pattern::parse(&path)),
                _ => selection = Selection::All,
            }
        }
        self.takes(place, selection)
    }

    fn mount(&mut self, mount: &Mount) -> Option<()> {
        if mount.kind == MountType::Sourceless || (mount.kind == MountType::Cache && mount.from.is_none()) {
            return Some(());
        }
        let place = self.source(mount.from.as_deref())?;
        let variables = &self.stages.last()?.variables;
        let path = mount.source.as_deref().map(|source| expand(source, variables, self.escape));
        let selection = match path {
            // A mount has no wildcards.
            Some(Some(path)) => {
                let mut one = Selection::none();
                one.add(Pattern::literal(&path));
                one
            }
            Some(None) | None => Selection::All,
        };
        self.takes(place, selection)
    }

    /// Where `--from=` and `from=` lead: no variables there. `None` when that can't be told.
    fn source(&self, from: Option<&str>) -> Option<Option<Place>> {
        match from {
            None | Some("") => Some(None),
            Some(name) if name.contains('$') => None,
            Some(name) => Some(Some(self.place(name))),
        }
    }

    fn takes(&mut self, place: Option<Place>, selection: Selection) -> Option<()> {
        let stage = self.stages.last_mut()?;
        match place {
            None => stage.context.extend(selection),
            Some(Place::Stage(other)) => drop(stage.needs.insert(other)),
            Some(Place::Named(name)) => {
                stage.named.entry(name).or_insert_with(Selection::none).extend(selection);
            }
            Some(Place::Elsewhere) => {}
        }
        Some(())
    }
}

/// Whether ADD fetches it without a look at the context. Of other addresses (`git://…`) the engine asks the context, too.
fn is_address(source: &str) -> bool {
    source.starts_with("http://") || source.starts_with("https://")
}
