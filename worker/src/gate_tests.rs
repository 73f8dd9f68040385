//! What the engine is given of a command, and what its words are made of.

use farm_dockerfile::{Dockerfile, Kind};
use farm_proto::v1::{Notice, StepLog, StepUpdate, Warning};
use farm_types::LONGEST_GATE;
use proptest::prelude::*;

use super::*;
use crate::buildkit::{Bounds, Export, Fetches, Images, Looked};
use crate::mask::Mask;

fn repository() -> Repository {
    "localhost:5002/team/app".parse().unwrap()
}

fn pushed() -> Digest {
    Digest::of(b"pushed")
}

/// The words of the only RUN, as BuildKit reads them: what follows it is JSON.
fn words(text: &str) -> Vec<String> {
    let file = Dockerfile::parse(text.as_bytes());
    assert!(!file.is_unterminated && file.directives == Default::default(), "{text}");
    let [from, run] = &file.instructions[..] else { panic!("not two instructions: {text}") };
    assert!(
        matches!(from.kind, Kind::From(_)) && matches!(&run.kind, Kind::Run(mounts) if mounts.is_empty())
    );
    assert_eq!((from.first, from.last, run.first, run.last), (1, 1, 2, 2));
    assert_eq!(from.text, format!("FROM {}@{}", repository(), pushed()));
    serde_json::from_str(run.text.strip_prefix("RUN ").unwrap()).unwrap()
}

fn read_back(gate: &Gate) {
    let text = dockerfile(&repository(), &pushed(), gate);
    assert_eq!(words(&text), gate.arguments());
    // What a line, a variable, a here-document, a comment or a flag would be made of.
    let run = text.lines().nth(1).unwrap();
    assert!(run.len() < 65_535 && !run.contains(['$', '<', '#', '`', '\'', '\t', '\r']), "{run}");
    assert!(run.split('\\').skip(1).all(|rest| rest.starts_with('u')), "{run}");
}

#[test]
fn no_command_is_more_than_one_instruction() {
    for command in [
        "true\nRUN evil",
        "true\\\nUSER root",
        "true \\",
        "<<EOF cat\nRUN evil\nEOF",
        "cat <<EOF\n$(evil)\nEOF",
        "--mount=type=secret,id=a cat /run/secrets/a",
        "--network=host true",
        "--security=insecure true",
        "# syntax=evil/frontend",
        "# escape=`\n",
        "`\nFROM scratch",
        "echo ${A:-b} $$ \"quoted\" 'single' \\\\ \u{2028} \u{85} \u{1f40b}",
        "\"]\nRUN [\"evil",
        "[ -x /app ]",
        "\r\nRUN evil",
    ] {
        read_back(&command.parse().unwrap());
        read_back(&Gate::Exec(vec!["/app".into(), command.into(), String::new()]));
    }
    read_back(&"\u{7f}".repeat(LONGEST_GATE).parse().unwrap());
    read_back(&format!("a{}", "\n".repeat(LONGEST_GATE - 1)).parse().unwrap());
}

proptest! {
    #[test]
    fn whatever_the_command_the_dockerfile_gives_it_back_and_nothing_else(
        command in any::<String>(),
        odd in r"[$<>#`'\\\r\n\t \[\]{}a-zA-Z=-]{0,80}",
        more in prop::collection::vec(any::<String>(), 0..4),
    ) {
        let arguments = [vec!["/app".to_owned(), odd.clone()], more].concat();
        for gate in [command.parse(), odd.parse(), Ok(Gate::Exec(arguments))].into_iter().flatten() {
            read_back(&gate);
        }
    }
}

struct Nobody;

impl Images for Nobody {
    fn look_up(&self, _: &ImageRef) -> futures::future::BoxFuture<'static, Result<Looked, Failure>> {
        Box::pin(std::future::pending())
    }
}

fn build() -> Solve {
    let bounds = Bounds {
        project: "web".into(),
        within: [].into(),
        open: [].into(),
        readers: [].into(),
        images: Arc::new(Nobody),
        public: Arc::default(),
        pushed: None,
    };
    Solve {
        platform: "linux/arm64".parse().unwrap(),
        dockerfile: "docker/Dockerfile".into(),
        target: Some("final".into()),
        build_args: [("A".to_owned(), "1".to_owned())].into(),
        labels: [("a".to_owned(), "b".to_owned())].into(),
        no_cache: false,
        no_cache_stages: Vec::new(),
        run: RunOptions {
            network: Network::Host,
            allow: farm_types::Entitlement::ALL.into(),
            add_hosts: ["db=10.0.0.7".parse().unwrap()].into(),
            ..RunOptions::default()
        },
        pull: PullMode::Always,
        provenance: Provenance::Max,
        sbom: None,
        form: Default::default(),
        named_contexts: BTreeMap::new(),
        roots: BTreeMap::new(),
        partial: BTreeMap::new(),
        shared_key: "k".into(),
        caches: "c".into(),
        export: Some(Export { repositories: vec![repository()], plain_http: true, told_only: false }),
        outputs: Vec::new(),
        image_names: vec!["app".into()],
        logins: Vec::new(),
        lending: None,
        bounds: Some(bounds),
        fetches: Fetches::default(),
        mounted: Arc::default(),
        mask: Mask::default(),
        internal: false,
        call: None,
    }
}

fn gating(command: &str) -> Gating {
    Gating::of(Some(command.parse().unwrap()), &build()).unwrap()
}

#[test]
fn its_solve_has_the_image_and_nothing_of_the_build_that_could_open_something() {
    let gating = gating("true");
    let solve = gating.solve(&pushed());
    assert!(solve.no_cache && solve.export.is_none() && solve.outputs.is_empty());
    assert!(solve.build_args.is_empty() && solve.labels.is_empty() && solve.target.is_none());
    assert!(solve.mounted.secrets.is_empty() && solve.mounted.agents.is_empty());
    assert!(solve.run.entitlements().is_empty() && solve.run.network == Network::Default);
    assert_eq!(solve.run.add_hosts, build().run.add_hosts);
    assert_eq!((solve.provenance, solve.pull), (Provenance::Off, PullMode::Default));
    assert!(solve.shared_key != build().shared_key && solve.caches == build().caches);
    let allowed = solve.bounds.unwrap().pushed.unwrap();
    assert_eq!((allowed.repository, allowed.digest), (repository(), Some(pushed())));
    let without = Solve { run: RunOptions { network: Network::None, ..RunOptions::default() }, ..build() };
    let gate: Gate = "true".parse().unwrap();
    assert_eq!(Gating::of(Some(gate.clone()), &without).unwrap().solve.run.network, Network::None);
    assert!(Gating::of(Some(gate), &Solve { export: None, ..build() }).is_none(), "nothing is pushed");
    assert!(Gating::of(None, &build()).is_none());
}

fn step(number: u32, name: &str) -> AttemptEvent {
    let step = StepUpdate {
        digest: "sha256:1".into(),
        name: name.into(),
        number,
        total: 2 * number,
        instruction: named(name).into(),
        stage: "s".into(),
        ..StepUpdate::default()
    };
    AttemptEvent { at_ms: 1, event: Some(Event::Step(step)) }
}

#[test]
fn what_its_steps_tell_is_told_as_the_gates() {
    let told = |mut event: AttemptEvent| marked(&mut event, "make test").then_some(event.event).flatten();
    for (number, name, shown) in [
        (2, r#"[2/2] RUN ["/bin/sh","-c","make\u0020test"]"#, "[gate] make test"),
        (1, "[1/2] FROM localhost:5002/a@sha256:00", "[gate] FROM localhost:5002/a@sha256:00"),
        (2, "[2/3] ONBUILD RUN x", "[gate] ONBUILD RUN x"),
        (
            0,
            "[internal] load build definition from Dockerfile",
            "[internal] load build definition from Dockerfile",
        ),
    ] {
        let Some(Event::Step(step)) = told(step(number, name)) else { panic!("{name}") };
        assert_eq!((step.digest.as_str(), step.name.as_str()), ("gate:sha256:1", shown));
        assert_eq!((step.number, step.total), (0, 0));
    }
    let log = StepLog { step_digest: "sha256:1".into(), stream: 1, data: "x".into() };
    let Some(Event::Log(log)) = told(AttemptEvent { at_ms: 1, event: Some(Event::Log(log)) }) else {
        panic!()
    };
    assert_eq!(log.step_digest, "gate:sha256:1");
    let event = |event| AttemptEvent { at_ms: 1, event };
    assert_eq!(told(event(Some(Event::Warning(Warning::default())))), None);
    assert!(told(event(Some(Event::Notice(Notice::default())))).is_some());
    // What only says that somebody is there.
    assert!(marked(&mut event(None), ""));
}

#[test]
fn a_command_that_ends_badly_is_its_users_and_all_else_stays_what_it_is() {
    let platform: Platform = "linux/arm64".parse().unwrap();
    let name = r#"[2/2] RUN ["/bin/sh","-c","make test"]"#;
    let of = |cause, code, message: &str, exit_code, step: &str| Failure {
        exit_code,
        step: Some(step.to_owned()),
        log_tail: vec!["last words".into()],
        ..Failure::new(cause, code, message.replace("NAME", step))
    };
    let said = |failure: Failure| gating("make  test").failed(failure, &platform);

    let failed = said(of(Cause::User, FailureCode::RunFailed, "NAME: exit code 3", Some(3), name));
    assert_eq!(
        (failed.cause, &failed.code, failed.exit_code),
        (Cause::User, &FailureCode::GateFailed, Some(3))
    );
    assert_eq!(failed.message, "the gate failed on linux/arm64 with exit code 3: make test");
    assert_eq!((failed.step.as_deref(), failed.log_tail.len()), (Some("[gate] make test"), 1));

    let shell = r#"NAME: runc run failed: exec: "/bin/sh": stat /bin/sh: no such file or directory"#;
    let failed = said(of(Cause::User, FailureCode::RunFailed, shell, None, name));
    assert_eq!(failed.code, FailureCode::GateFailed);
    for part in ["could not be run on linux/arm64", "runc run failed", "has no /bin/sh", "[\"/app\""] {
        assert!(failed.message.contains(part), "{failed}");
    }
    let onbuild =
        of(Cause::User, FailureCode::CopySourceMissing, "\"a\" is not there", None, "[2/3] ONBUILD COPY a /");
    let failed = said(onbuild);
    assert_eq!(failed.code, FailureCode::GateFailed);
    assert!(failed.message.contains("ONBUILD COPY a /: \"a\" is not there"), "{failed}");

    let gone = of(
        Cause::User,
        FailureCode::BaseImageMissing,
        "image x: not found",
        None,
        "[internal] load metadata for x",
    );
    let failed = said(gone);
    assert_eq!((failed.cause, failed.code), (Cause::Infrastructure, FailureCode::RegistryUnavailable));

    for (cause, code, message) in [
        (
            Cause::Killed,
            FailureCode::RunKilled,
            "NAME: killed (exit code 137), most likely because memory ran out",
        ),
        (Cause::Infrastructure, FailureCode::EngineLost, "the engine went away"),
        (Cause::Infrastructure, FailureCode::EmulatorMissing, "NAME: no emulator"),
        (Cause::Infrastructure, FailureCode::NoSpace, "NAME: no space left"),
        (Cause::User, FailureCode::RegistryAuth, "image x: 401"),
    ] {
        let failed = said(of(cause, code.clone(), message, None, name));
        assert_eq!((failed.cause, &failed.code), (cause, &code));
        assert!(failed.message.starts_with("the gate on linux/arm64"), "{failed}");
        assert!(!failed.message.contains("RUN ["), "{failed}");
    }
}
