mod form;

use clap::Parser;
use farm_types::{Digest, Entitlement, Platform, SnapshotRef};

use super::bring::native;
use super::*;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: Args,
}

/// A plan for a context with a Dockerfile, from a command line.
fn plan(line: &[&str]) -> Result<Plan> {
    plan_with(line, |name| (name == "HOME_MADE").then(|| "yes".to_owned()))
}

/// The same with this environment.
fn plan_with(line: &[&str], variable: impl Fn(&str) -> Option<String>) -> Result<Plan> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("Dockerfile"), "FROM x").unwrap();
    let context = dir.path().to_str().unwrap();
    let args =
        Line::try_parse_from(["submit", context].iter().chain(line)).unwrap_or_else(|e| panic!("{e}")).args;
    Plan::new(args, |name| Ok(variable(name)), std::io::empty())
}

fn spec(line: &[&str]) -> farm_types::BuildSpec {
    let plan = plan(line).unwrap_or_else(|e| panic!("{e}"));
    let snapshot = SnapshotRef { tree_id: Digest::of(b"t"), content_key: Digest::of(b"c") };
    plan.spec(snapshot, plan.platforms.clone()).unwrap_or_else(|e| panic!("{e}"))
}

fn error(line: &[&str]) -> String {
    let Err(error) = plan(line) else { panic!("{line:?} was taken") };
    assert_eq!(error.exit().code(), 2);
    error.to_string()
}

#[test]
fn flags_mean_what_they_mean_to_buildx() {
    let spec = spec(&[
        "-t",
        "localhost:5002/app",
        "-t",
        "localhost:5002/app:latest",
        "--platform",
        "linux/arm64/v8,linux/amd64",
        "--platform",
        "arm64",
        "--build-arg",
        "A=b=c",
        "--build-arg",
        "HOME_MADE",
        "--build-arg",
        "NOT_SET",
        "--label",
        "k=v",
        "--label",
        "empty",
        "--no-cache",
        "--pull",
        "--provenance",
        "--build-context",
        "Base=docker-image://localhost:5002/base:1",
        "--emulation",
        "fallback=10m",
        "--timeout",
        "10m",
        "--target",
        "final",
        "--push",
    ]);
    assert_eq!(
        spec.platforms.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["linux/arm64", "linux/amd64"]
    );
    assert_eq!(spec.tags.len(), 1);
    assert_eq!(
        spec.build_args.into_iter().collect::<Vec<_>>(),
        [("A".to_owned(), "b=c".to_owned()), ("HOME_MADE".to_owned(), "yes".to_owned())]
    );
    assert_eq!(spec.labels["empty"], "");
    assert!(spec.no_cache && spec.pull == farm_types::PullMode::Always);
    assert_eq!(spec.provenance, farm_types::Provenance::Min);
    assert_eq!(spec.emulation.to_string(), "fallback=600s");
    assert_eq!(spec.timeout_ms, Some(600_000));
    assert_eq!(spec.target.as_deref(), Some("final"));
    assert!(spec.named_contexts.contains_key("base"));
    assert_eq!(spec.dockerfile, "Dockerfile");
    assert_eq!(self::spec(&["--provenance=mode=max"]).provenance, farm_types::Provenance::Max);
    assert_eq!(self::spec(&[]).provenance, farm_types::Provenance::Off);
}

/// Forms of flags that buildx takes, and what the request has of them.
#[test]
fn flags_are_taken_in_the_forms_of_buildx() {
    let tags = |line: &[&str]| spec(line).tags.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    for line in [
        &["-tr.example/a"][..],
        &["-t=r.example/a"],
        &["--tag=r.example/a"],
        &["-t", "r.example/a", "-t=R.EXAMPLE/a:latest"],
    ] {
        assert_eq!(tags(line), "r.example/a:latest", "{line:?}");
    }
    assert_eq!(tags(&["-tr.example/a", "-t", "r.example/b:1"]), "r.example/a:latest r.example/b:1");
    let hosts = |line: &[&str]| {
        spec(line).run.add_hosts.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(
        hosts(&["--add-host", "a:10.0.0.7", "--add-host=b=10.0.0.8,c=[::1]", "--add-host="]),
        "a=10.0.0.7 b=10.0.0.8 c=::1"
    );
    let shm = |size: &str| spec(&["--shm-size", size]).run.shm_bytes;
    for (size, bytes) in [
        ("64m", 64 << 20),
        ("64MB", 64 << 20),
        ("1.5G", 3 << 29),
        ("7b", 7),
        ("512KiB", 512 << 10),
        ("1 k", 1024),
    ] {
        assert_eq!(shm(size), Some(bytes), "{size}");
    }
    assert_eq!(shm("0"), None);
    let ulimits =
        |line: &[&str]| spec(line).run.ulimits.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    assert_eq!(
        ulimits(&["--ulimit=nofile=1", "--ulimit", "core=-1", "--ulimit", "nofile=2:3"]),
        "core=-1:-1 nofile=2:3"
    );
    let labels = spec(&["--label", "a", "--label=b=", "--label", "c=d=e", "--label", "c=f"]).labels;
    assert_eq!(labels.into_iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>(), ["a=", "b=", "c=f"]);
    let platforms = |line: &[&str]| spec(line).platforms.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(
        platforms(&["--platform=linux/arm64/v8, amd64,", "--platform", "linux/x86_64"]),
        ["linux/arm64", "linux/amd64"]
    );
    let here: Platform = std::env::consts::ARCH.parse().unwrap();
    assert_eq!(platforms(&["--platform", "local"]), [here.to_string()]);
    assert_eq!(spec(&["--target", "a", "--target=b"]).target.as_deref(), Some("b"));
    assert_eq!(spec(&["--target="]).target, None);
    assert_eq!(spec(&["--network="]).run.network, farm_types::run_options::Network::Default);
    let both = spec(&["--no-cache", "--no-cache-filter", "a", "--no-cache-filter=b,c"]);
    assert!(both.no_cache && both.no_cache_stages == ["a", "b", "c"]);
    assert!(plan(&["--push=true", "-tr.example/a"]).is_ok() && plan(&["--push=false"]).is_ok());
    assert!(plan(&["-f", ""]).is_ok());
    for (line, cure) in [
        (&["--push=false", "-tr.example/a"][..], "leave -t out"),
        (&["-f", "http://h/Dockerfile"], "curl -fsSL http://h/Dockerfile | farm submit CONTEXT -f -"),
        (&["-t", "r.example:70000/a"], "no port"),
        (
            &["--single-platform", "manifest", "--platform", "amd64,arm64"],
            "--single-platform \"manifest\": the build is for 2 platforms",
        ),
        (&["--single-platform", "manifest", "--attest", "type=provenance"], "leave one of the two out"),
        (&["--single-platform", "manifest", "--sbom"], "--attestations referrers"),
        (&["--single-platform", "list"], "write index or manifest"),
    ] {
        assert!(error(line).contains(cure), "{line:?}: {}", error(line));
    }
    let ignored = plan(&["--rm", "--compress", "-m", "1g", "-c", "5", "--memory-swap", "-1"])
        .unwrap_or_else(|e| panic!("{e}"));
    let said = ignored.warnings.join("\n");
    assert!(
        said.contains("--memory has no effect") && said.contains("--cpu-shares") && !said.contains("--rm"),
        "{said}"
    );
}

#[test]
fn the_environment_counts_as_with_buildx() {
    let set = |name: &'static str, value: &'static str| {
        move |asked: &str| (asked == name).then(|| value.to_owned())
    };
    let args = |line: &[&str], epoch: &'static str| {
        plan_with(line, set("SOURCE_DATE_EPOCH", epoch))
            .map(|plan| plan.build_args.into_iter().collect::<Vec<_>>())
    };
    let epoch = |value: &str| [("SOURCE_DATE_EPOCH".to_owned(), value.to_owned())];
    assert_eq!(args(&[], "1000000000").unwrap(), epoch("1000000000"));
    assert_eq!(args(&["--build-arg", "SOURCE_DATE_EPOCH=5"], "1000000000").unwrap(), epoch("5"));
    assert_eq!(args(&["--build-arg", "SOURCE_DATE_EPOCH"], "7").unwrap(), epoch("7"));
    // Given as empty, it is none, whatever the environment says.
    assert_eq!(args(&["--build-arg", "SOURCE_DATE_EPOCH="], "7").unwrap(), epoch(""));
    assert_eq!(args(&[], "").unwrap(), []);
    for wrong in ["abc", "1.5", " 1", "253402300800"] {
        let error = args(&[], wrong).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("SOURCE_DATE_EPOCH {wrong:?}: write seconds since 1970")),
            "{error}"
        );
    }
    let error = error(&["--build-arg", "SOURCE_DATE_EPOCH=soon"]);
    assert!(error.starts_with("--build-arg SOURCE_DATE_EPOCH \"soon\""), "{error}");
    let platforms = |line: &[&str], value: &'static str| {
        plan_with(line, set("DOCKER_DEFAULT_PLATFORM", value))
            .map(|plan| (plan.platforms, plan.platforms_from))
    };
    let arm: Platform = "linux/arm64".parse().unwrap();
    assert_eq!(platforms(&[], "linux/arm64").unwrap(), (vec![arm.clone()], Some("DOCKER_DEFAULT_PLATFORM")));
    assert_eq!(platforms(&["--platform", "arm64"], "linux/amd64").unwrap(), (vec![arm], None));
    assert_eq!(platforms(&[], "").unwrap(), (vec![], None));
    let error = platforms(&[], "linux/arm46").unwrap_err().to_string();
    assert!(error.starts_with("DOCKER_DEFAULT_PLATFORM \"linux/arm46\""), "{error}");
}

#[test]
fn a_mistake_is_answered_with_thing_value_and_cure() {
    assert_eq!(
        error(&["--platform", "linux/arm46"]),
        "--platform \"linux/arm46\": unknown architecture \"arm46\"; did you mean arm64?"
    );
    assert!(error(&["-t", "latest"]).starts_with("-t \"latest\": it has no repository"));
    assert!(error(&["--build-arg", "BUILDKIT_SYNTAX=x"]).contains("farm sets this one itself"));
    assert!(error(&["--build-arg", "=x"]).contains("NAME=VALUE"));
    assert!(error(&["--label", "=x"]).contains("--label"));
    assert!(error(&["--provenance=sure"]).contains("mode=max"));
    assert!(error(&["--emulation", "always"]).contains("never, fallback"));
    for timeout in ["0", "0s", "soon", "31d", "721h", "-1s"] {
        assert!(error(&[&format!("--timeout={timeout}")]).contains("like 90s, 10m or 2h"), "{timeout}");
    }
    assert!(error(&["--idempotency-key", ""]).contains("--idempotency-key"));
    assert!(error(&["--idempotency-key", &"k".repeat(129)]).contains("128"));
    for context in [
        "x",
        "=x",
        "x=",
        "x=http://example.com/a.tgz",
        "x=git://example.com/a",
        "x=target:y",
        "a b=.",
        "a..b=.",
    ] {
        assert!(error(&["--build-context", context]).contains("--build-context"), "{context}");
    }
    let both = |a: &str, b: &str| {
        error(&["--build-context", &format!("{a}=."), "--build-context", &format!("{b}=.")])
    };
    let text = both("golden:latest", "docker.io/library/golden");
    assert!(text.contains("golden:latest and docker.io/library/golden are both names of golden"), "{text}");
    assert!(error(&["--context-links", "outside"]).contains("write inside, or buildx"));
    assert!(error(&["--build-context", "x=/nowhere/at/all"]).contains("no such folder"));
    assert!(
        error(&["--build-context", "x=docker-image://a", "--build-context", "X=docker-image://b"])
            .contains("x and X are both names of x")
    );
    assert!(error(&["-f", "/nowhere/Dockerfile"]).contains("-f FILE"));
}

#[test]
fn each_invocation_has_a_key_of_its_own_unless_it_names_one() {
    let key = |line: &[&str]| plan(line).unwrap_or_else(|e| panic!("{e}")).idempotency_key;
    assert_ne!(key(&[]), key(&[]));
    assert_eq!(key(&["--idempotency-key", "k"]), "k");
}

#[test]
fn without_a_native_worker_a_platform_must_be_named() {
    let text = native(&[]).unwrap_err().to_string();
    assert!(text.contains("--platform linux/amd64"), "{text}");
    assert_eq!(native(&["linux/amd64".to_owned()]).unwrap().len(), 1);
}

#[test]
fn the_first_line_says_what_was_read_and_sent() {
    let uploaded = Uploaded {
        upload_id: String::new(),
        tree_id: Digest::of(b"t"),
        content_key: Digest::of(b"c"),
        new_files: 3,
        sent_bytes: 4_120,
        took: std::time::Duration::ZERO,
    };
    assert_eq!(
        first_line("7f3k2m", "app", &uploaded, 12),
        "build 7f3k2m  app @ snapshot e3b9…  12 files, 3 new (4.1 kB sent)"
    );
    let nothing = Uploaded { new_files: 0, sent_bytes: 0, ..uploaded };
    assert!(first_line("7f3k2m", "app", &nothing, 1).ends_with("1 file, all known to the farm"));
}

/// What a flag of the table is tried with.
const SAMPLES: &[(&str, &str)] = &[
    ("--add-host", "db=10.0.0.7"),
    ("--allow", "network.host"),
    ("--annotation", "a=b"),
    ("--attest", "type=provenance,mode=max"),
    ("--build-arg", "A=b"),
    ("--build-context", "x=docker-image://localhost:5002/base:1"),
    ("--builder", "mine"),
    ("--cache-from", "type=registry,ref=x"),
    ("--cache-to", "type=inline"),
    ("--call", "outline"),
    ("--cgroup-parent", "x"),
    ("--check", ""),
    ("--debug", ""),
    ("--label", "k=v"),
    ("--load", ""),
    ("--network", "none"),
    ("--no-cache", ""),
    ("--no-cache-filter", "build,final"),
    ("--output", "type=local,dest=out"),
    ("--platform", "linux/amd64"),
    ("--progress", "plain"),
    ("--provenance=mode=max", ""),
    ("--pull", ""),
    ("--push", ""),
    ("--quiet", ""),
    ("--sbom=true", ""),
    ("--secret", "id=x,from=project"),
    ("--shm-size", "64m"),
    ("--tag", "localhost:5002/app:1"),
    ("--target", "final"),
    ("--ulimit", "nofile=1024:4096"),
];

/// The rows of `docs/reference/buildx-flags.md`: flag, and what farm makes of it.
fn flags_table() -> Vec<(String, String)> {
    let text = include_str!("../../../../docs/reference/buildx-flags.md");
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `--"));
    rows.map(|row| {
        let mut cells = row.split('|').map(str::trim);
        let flag = cells.next().unwrap().trim_end_matches('`');
        (format!("--{flag}"), cells.next().unwrap().to_owned())
    })
    .collect()
}

#[test]
fn the_table_of_buildx_flags_says_what_farm_does() {
    let table = flags_table();
    assert!(table.len() > 30, "{table:?}");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("result").display().to_string();
    let agent = format!("default={}", folder.path().join("agent").display());
    let _agent = std::os::unix::net::UnixListener::bind(folder.path().join("agent")).unwrap();
    for (flag, says) in &table {
        let sample = SAMPLES.iter().find(|(name, _)| name.split('=').next() == Some(flag));
        let line: Vec<&str> = match (flag.as_str(), sample) {
            ("--iidfile", _) => vec![flag, &file, "-t", "localhost:5002/app:1"],
            ("--push", _) => vec![flag, "-t", "localhost:5002/app:1"],
            ("--metadata-file", _) => vec![flag, &file],
            ("--ssh", _) => vec![flag, &agent],
            ("--file", _) => {
                vec![flag, concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/multiarch/Dockerfile")]
            }
            (_, Some((name, ""))) => vec![name],
            (_, Some((name, value))) => vec![name, value],
            (_, None) => panic!("there is no sample for {flag}"),
        };
        match says.as_str() {
            "same" | "differs" => assert!(plan(&line).is_ok(), "{line:?}: {:?}", plan(&line).err()),
            "refused" | "not yet" => {
                let text = error(&line);
                assert!(text.starts_with(flag.as_str()), "{text}");
                assert_eq!(text.contains("not yet"), says == "not yet", "{text}");
            }
            other => panic!("{flag}: {other}"),
        }
    }
}

#[test]
fn options_of_run_and_stages_without_cache_reach_the_request() {
    let spec = spec(&[
        "--network=none",
        "--allow=security.insecure",
        "--allow=",
        "--add-host=db:10.0.0.7,web=10.0.0.8",
        "--shm-size=64m",
        "--ulimit=nofile=1024:4096",
        "--no-cache-filter=Build,final",
        "--attest=type=provenance,mode=max",
    ]);
    assert_eq!(spec.run.network, farm_types::run_options::Network::None);
    assert_eq!(spec.run.allow, [Entitlement::SecurityInsecure].into());
    assert_eq!(
        spec.run.add_hosts.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["db=10.0.0.7", "web=10.0.0.8"]
    );
    assert_eq!(spec.run.shm_bytes, Some(64 << 20));
    assert_eq!(spec.run.ulimits[0].to_string(), "nofile=1024:4096");
    assert_eq!(spec.no_cache_stages, ["build", "final"]);
    assert_eq!(spec.provenance, farm_types::Provenance::Max);
    for (line, cure) in [
        (&["--network", "bridge"][..], "--network \"bridge\": write default, none or host"),
        (&["--allow", "network.hots"], "--allow \"network.hots\": did you mean network.host"),
        (&["--allow", "device=a,alias=b"], "devices are not for builds"),
        (&["--allow", "fs.read=/"], "docker buildx bake"),
        (&["--add-host", "db"], "--add-host \"db\": write HOST=ADDRESS"),
        (&["--shm-size", "lots"], "--shm-size \"lots\""),
        (&["--ulimit", "files=1"], "nofile"),
        (&["--no-cache-filter", "a b"], "--no-cache-filter"),
        (&["--attest", "type=sbom,mode=max"], "an SBOM has no mode"),
        (&["--sbom=yes"], "--sbom \"yes\": write true, false or generator=IMAGE"),
        (&["--media-type", "zip"], "--media-type \"zip\": write auto, oci or docker"),
        (&["--media-type", "docker", "--provenance"], "Docker's formats carry no attestations"),
        (&["--media-type", "docker", "--annotation", "a=b"], "--media-type oci"),
        (&["--attestations", "beside"], "inline, referrers or none"),
        (&["--annotation", "a"], "--annotation \"a\": write KEY=VALUE"),
        (&["--annotation", "image:a=b"], "before the colon"),
        (&["--annotation", "index:a=b", "--single-platform", "manifest"], "there is no index"),
        (&["--annotation", "a=b", "--load"], "--annotation \"a=b\": it is about what is published"),
        (&["--if-unchanged", "-o", "out"], "--if-unchanged"),
        (&["--rewrite-timestamp", "-o", "type=oci,dest=x"], "--rewrite-timestamp"),
        (&["--rewrite-timestamp", "-tr.example/a"], "--source-date-epoch commit"),
        (&["--attest", "type=magic"], "type=provenance"),
        (&["--iidfile", "/nowhere/at/all"], "-t"),
        (&["--metadata-file", "/nowhere/at/all"], "folder isn't there"),
        (&["--metadata-file", "/"], "this is a folder"),
        (&["--metadata-file", "x", "--detach"], "--metadata-file \"x\": with --detach nobody is there"),
        (&["--iidfile", "x", "-t", "localhost:5002/a:1", "--detach"], "leave --detach out"),
        (&["-o", "type=local,dest=out", "--detach"], "--output"),
        (&["--load", "--detach"], "--load"),
        (&["-o", "type=tar,dest=x", "--load", "--detach"], "--output \"type=tar,dest=x\""),
        (&["-o", "-", "--json"], "dest=FILE"),
        (&["--push"], "-t REGISTRY/REPO:TAG"),
        (&["-o", "type=registry"], "-t REGISTRY/REPO:TAG"),
        (&["-o", "type=magic"], "--output \"type=magic\""),
        (&["-o", "out", "--iidfile", "x"], "--load"),
        (&["-o", "type=docker,dest=x", "--platform", "linux/amd64,linux/arm64"], "type=oci"),
    ] {
        assert!(error(line).contains(cure), "{line:?}: {}", error(line));
    }
    assert!(
        plan(&[
            "--sbom=false",
            "--attest",
            "type=sbom,disabled=true",
            "--call=build",
            "-o",
            "type=cacheonly"
        ])
        .is_ok()
    );
}

#[test]
fn a_named_context_has_the_name_that_engines_look_for() {
    let written =
        ["golden:latest=docker-image://a", "library/other=.", "localhost:5002/App:V1=.", "context=."];
    let written = written.map(|text| text.replace("App", "app"));
    let flags: Vec<&str> = written.iter().flat_map(|text| ["--build-context", text]).collect();
    let spec = spec(&flags);
    let names: Vec<_> = spec.named_contexts.keys().map(String::as_str).collect();
    assert_eq!(names, ["context", "golden", "localhost:5002/app:V1", "other"]);
}

#[test]
fn outputs_reach_the_request_and_only_what_was_asked_for_is_published() {
    let of = |line: &[&str]| {
        let spec = spec(&[line, &["--platform", "linux/amd64", "-t", "localhost:5002/app:1"]].concat());
        let forms: Vec<&str> = spec.exports.iter().map(|export| export.form.as_str()).collect();
        (forms.join(" "), spec.tags.len(), spec.image_names.len())
    };
    assert_eq!(of(&[]), (String::new(), 1, 0));
    assert_eq!(of(&["-o", "out"]), ("files".into(), 0, 0));
    assert_eq!(of(&["-o", "out", "--push"]), ("files".into(), 1, 0));
    assert_eq!(of(&["--load"]), ("docker".into(), 0, 1));
    assert_eq!(of(&["--load", "-o", "type=registry", "-o", "type=oci,dest=x"]), ("oci docker".into(), 1, 1));
    assert_eq!(of(&["-o", "type=cacheonly"]), (String::new(), 0, 0));
    assert_eq!(of(&["--check", "--load"]), (String::new(), 0, 0));
    // Without a name it is loaded all the same; a name without a registry is Docker's own.
    assert!(spec(&["--load", "--platform", "linux/amd64"]).image_names.is_empty());
    let named = spec(&["--load", "-t", "app", "--platform", "linux/amd64"]);
    assert_eq!(named.image_names[0].to_string(), "docker.io/library/app:latest");
    let several = spec(&["--load", "--platform", "linux/amd64,linux/arm64"]);
    assert_eq!(several.exports[0].form, farm_types::Form::Oci);
}

#[test]
fn a_context_or_a_dockerfile_comes_from_standard_input() {
    let with = |line: &[&str], input: &[u8]| {
        let args = Line::try_parse_from(["submit"].iter().chain(line)).unwrap_or_else(|e| panic!("{e}")).args;
        Plan::new(args, |_| Ok(None), input)
    };
    let alone = with(&["-"], b"FROM scratch\n").unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(
        (alone.location.shown.as_str(), alone.location.dockerfile_name.as_str()),
        ("standard input", "Dockerfile")
    );
    let folder = tempfile::tempdir().unwrap();
    let context = folder.path().to_str().unwrap();
    let beside = with(&[context, "-f", "-"], b"FROM scratch\n").unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(std::fs::read(&beside.location.dockerfile).unwrap(), b"FROM scratch\n");
    let place = beside.location.dockerfile.clone();
    drop(beside);
    assert!(!place.exists());
    std::fs::create_dir(folder.path().join("docker")).unwrap();
    std::fs::write(folder.path().join("docker/x.Dockerfile"), "FROM scratch\n").unwrap();
    let mut tar = std::process::Command::new("tar");
    let archive = tar.arg("-C").arg(folder.path()).args(["-c", "."]).output().unwrap().stdout;
    let within = with(&["-", "-f", "docker/x.Dockerfile"], &archive).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(within.location.dockerfile_name, "x.Dockerfile");
    let error = |line: &[&str], input: &[u8]| with(line, input).err().unwrap().to_string();
    assert!(error(&["-", "-f", "-"], b"").contains("can't both"));
    assert!(error(&["-"], b"").contains("is empty"));
    assert!(error(&["-", "-f", "x"], b"FROM scratch\n").contains("leave -f out"));
}

#[test]
fn an_older_farm_that_drops_secrets_is_noticed_also_where_all_of_them_are_the_projects() {
    let mounting = |line: &[&str]| plan(line).unwrap_or_else(|e| panic!("{e}")).mounting;
    let dropped = Build { spec: Some(farm_proto::v1::BuildSpec::default()), ..Default::default() };
    let mut taken = dropped.clone();
    taken.spec.iter_mut().for_each(|spec| drop(spec.secrets.insert("npm".into(), "project:npm".into())));
    for line in [&["--secret", "id=npm,from=project"][..], &["--secret", "id=HOME_MADE"][..]] {
        assert!(
            lost_secrets(&mounting(line), &dropped) && !lost_secrets(&mounting(line), &taken),
            "{line:?}"
        );
    }
    assert!(!lost_secrets(&mounting(&[]), &dropped));
}

#[test]
fn a_repository_is_fetched_as_the_context_and_its_dockerfile_is_named_within() {
    let plan = |line: &[&str]| {
        let args = Line::try_parse_from(["submit"].iter().chain(line)).unwrap_or_else(|e| panic!("{e}")).args;
        Plan::new(args, |_| Ok(None), std::io::empty())
    };
    let address = "https://x.example/a.git#main:docker";
    let plan_of = plan(&[
        address,
        "-f",
        "web/web.Dockerfile",
        "--build-context",
        "lib=git@x.example:b",
        "--keep-git",
        "--source-date-epoch",
        "commit",
    ]);
    let made = plan_of.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(
        (made.location.shown.as_str(), made.location.dockerfile_name.as_str()),
        (address, "web.Dockerfile")
    );
    assert_eq!(made.fetches.keys().collect::<Vec<_>>(), ["context", "context:lib"]);
    let context = &made.fetches["context"];
    assert_eq!(context.take, farm_types::Take::Build("web/web.Dockerfile".to_owned()));
    assert!(
        context.source.git().unwrap().keep_git
            && made.takes_epoch
            && made.meant(&made.platforms).unwrap().is_none()
    );
    assert_eq!(crate::fetch::shown(&context.source), address);
    let by_argument =
        plan(&[address, "--build-arg", "BUILDKIT_CONTEXT_KEEP_GIT_DIR=1"]).unwrap_or_else(|e| panic!("{e}"));
    assert!(by_argument.fetches["context"].source.git().unwrap().keep_git);
    for (line, part) in [
        (&[address, "-f", "-"][..], "by its path there"),
        (&[address, "-f", "../Dockerfile"], "-f \"../Dockerfile\""),
        (&["git://x.example/a"], "neither encrypted"),
        (&["https://x.example/a.git#:a/../../b"], "within the repository"),
    ] {
        let Err(error) = plan(line) else { panic!("{line:?} was taken") };
        assert!(error.exit().code() == 2 && error.to_string().contains(part), "{error}");
    }
}

#[test]
fn an_archive_at_an_address_is_fetched_as_the_context_and_nothing_of_a_repository_goes_with_it() {
    let plan = |line: &[&str]| {
        let args = Line::try_parse_from(["submit"].iter().chain(line)).unwrap_or_else(|e| panic!("{e}")).args;
        Plan::new(args, |_| Ok(None), std::io::empty())
    };
    let (address, digest) = ("https://x.example/app-1.0.tar.gz?sig=abc", "ab".repeat(32));
    let (checksum, lib) =
        (format!("sha256:{digest}"), format!("lib=https://x.example/lib.tgz#sha256={digest}"));
    let line = [address, "-f", "app-1.0/Dockerfile", "--checksum", &checksum, "--build-context", &lib];
    let made = plan(&line).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(made.fetches.keys().collect::<Vec<_>>(), ["context", "context:lib"]);
    let context = &made.fetches["context"];
    assert_eq!(context.take, farm_types::Take::Build("app-1.0/Dockerfile".to_owned()));
    assert_eq!(context.source.archive().unwrap().archive.as_str(), address);
    // Of its query nobody is told.
    assert_eq!(
        crate::fetch::shown(&context.source),
        format!("https://x.example/app-1.0.tar.gz#sha256={digest}")
    );
    assert_eq!(made.fetches["context:lib"].source.archive().unwrap().checksum, checksum.parse().ok());
    let lfs = |made: &Plan, root: &str| made.fetches[root].source.archive().unwrap().lfs;
    assert_eq!(lfs(&made, "context"), farm_types::Lfs::Refuse);
    let made = plan(&[&line[..], &["--lfs", "pointers"]].concat()).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!([lfs(&made, "context"), lfs(&made, "context:lib")], [farm_types::Lfs::Pointers; 2]);
    let other = format!("{address}#sha256={}", "0".repeat(64));
    for (line, part) in [
        (&["http://x.example/app.tar.gz"][..], "write https"),
        (&["https://me:hunter2@x.example/app.tar.gz"], "password doesn't belong"),
        (&["ftp://x.example/app.tar.gz"], "or an archive"),
        (&[address, "-f", "-"], "by its path there"),
        (&[address, "-f", "../Dockerfile"], "-f \"../Dockerfile\""),
        (&[address, "--source-date-epoch", "commit"], "no git repository"),
        (&[address, "--submodules"], "it is for git repositories"),
        (&[".", "--lfs", "pointers"], "archives at addresses"),
        (&[address, "--checksum", "md5:1"], "--checksum \"md5:1\""),
        (&[&other, "--checksum", &checksum], "keep one of the two"),
        (&["https://x.example/a.git", "--checksum", &checksum], "name the commit"),
        (&[".", "--checksum", &checksum], "leave it out"),
        (&["-f", "https://x.example/Dockerfile", "."], "farm fetches no Dockerfiles"),
    ] {
        let Err(error) = plan(line) else { panic!("{line:?} was taken") };
        let text = error.to_string();
        assert!(error.exit().code() == 2 && text.contains(part) && !text.contains("hunter2"), "{text}");
    }
}
