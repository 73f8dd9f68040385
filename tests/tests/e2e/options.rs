//! Flags of `farm submit` mean what they mean to `docker buildx build`.

use std::process::Command;

use farm_tests::farm::output;

use crate::support::*;

const AMD64: [&str; 2] = ["--platform", "linux/amd64"];

#[test]
fn arguments_labels_and_target_are_in_the_image_of_every_platform() {
    let farm = small_farm();
    let repository = repository("options");
    let dockerfile = format!(
        "FROM {BASE} AS base\nARG GIVEN=default\nARG FROM_ENV\nARG ABSENT=default\n\
         RUN echo \"args $GIVEN $FROM_ENV $ABSENT\"\n\
         FROM base AS wanted\nLABEL own=1 both=file\n\
         FROM base AS last\nRUN echo not wanted && exit 1\n"
    );
    let context = Context::new(&dockerfile);
    let given = format!("given {}", nonce());
    let tags = [format!("{repository}:1"), format!("{repository}:latest"), format!("{repository}/other:1")];
    let given_arg = format!("GIVEN={given}");
    let mut args =
        vec!["submit", context.text(), "--platform", "linux/amd64,linux/arm64", "--target", "wanted"];
    args.extend(["--build-arg", &given_arg, "--build-arg", "FROM_ENV", "--build-arg", "ABSENT"]);
    args.extend(["--label", "org.example.x=a b=c", "--label", "both=flag"]);
    for tag in &tags {
        args.extend(["-t", tag]);
    }
    let mut command = farm.command(&args);
    let stdout = output(command.env("FROM_ENV", "env").env_remove("ABSENT")).ok();
    says(
        &stdout,
        &[
            &format!("linux/amd64 | args {given} env default"),
            &format!("linux/arm64 | args {given} env default"),
        ],
    );
    // Several tags in two repositories: one index.
    let stored = raw(&tags[0]).unwrap();
    for tag in &tags {
        assert_eq!(raw(tag).as_ref(), Some(&stored), "{tag}");
        says(&stdout, &[&format!("published  {tag}")]);
    }
    for architecture in ["amd64", "arm64"] {
        let labels = &config(&tags[2], architecture)["config"]["Labels"];
        assert_eq!(
            (&labels["own"], &labels["org.example.x"], &labels["both"]),
            (&"1".into(), &"a b=c".into(), &"flag".into()),
            "{labels:#}"
        );
    }
}

#[test]
fn no_cache_runs_a_step_again() {
    let farm = small_farm();
    let context =
        Context::new(&format!("FROM {BASE}\nRUN echo {n}; cat /proc/sys/kernel/random/uuid\n", n = nonce()));
    let run = |args: &[&str]| {
        let stdout = submit(&farm, &context, &[&AMD64[..], args].concat()).ok();
        let lines: Vec<_> = stdout.lines().filter(|line| line.contains(" | ")).map(str::to_owned).collect();
        (lines, stdout)
    };
    let (first, _) = run(&[]);
    assert_eq!(first.len(), 2, "{first:?}");
    let (cached, stdout) = run(&[]);
    assert!(cached.is_empty(), "{stdout}");
    says(&stdout, &["RUN echo", "CACHED"]);
    let (again, stdout) = run(&["--no-cache", "--pull"]);
    assert_eq!(again.len(), 2, "{stdout}");
    assert_ne!(again, first);
}

#[test]
fn named_contexts_are_folders_or_images() {
    let farm = small_farm();
    let library = Context::empty().file("lib.txt", format!("from a folder {}", nonce()));
    let base = format!("{}:1", repository("named"));
    let made = Context::new("FROM scratch\nCOPY made.txt /\n")
        .file("made.txt", format!("from an image {}", nonce()));
    submit(&farm, &made, &["-t", &base, "--platform", "linux/amd64,linux/arm64"]).ok();
    let context = Context::new(&format!(
        "FROM {BASE}\nCOPY --from=library lib.txt /\nCOPY --from=other made.txt /\nRUN cat /lib.txt; echo; cat /made.txt\n"
    ));
    let folder = format!("library={}", library.text());
    let image = format!("other=docker-image://{base}");
    let args =
        ["--build-context", &folder, "--build-context", &image, "--platform", "linux/amd64,linux/arm64"];
    let stdout = submit(&farm, &context, &args).ok();
    for platform in ["linux/amd64", "linux/arm64"] {
        says(&stdout, &[&format!("{platform} | from a folder"), &format!("{platform} | from an image")]);
    }
}

#[test]
fn provenance_stands_beside_each_platform_in_one_flat_index() {
    let farm = small_farm();
    let repository = repository("provenance");
    let tag = format!("{repository}:1");
    let context = Context::new(&format!("FROM {BASE}\nLABEL n={}\n", nonce()));
    let args = ["-t", &tag, "--platform", "linux/amd64,linux/arm64", "--provenance=mode=max"];
    let stdout = submit(&farm, &context, &args).ok();
    says(&stdout, &["(2 platforms)"]);
    let index = index(&tag);
    let manifests = index["manifests"].as_array().unwrap();
    let platforms: Vec<_> = manifests
        .iter()
        .map(|m| {
            assert_eq!(m["mediaType"], "application/vnd.oci.image.manifest.v1+json", "{index:#}");
            let platform = &m["platform"];
            format!("{}/{}", platform["os"].as_str().unwrap(), platform["architecture"].as_str().unwrap())
        })
        .collect();
    assert_eq!(platforms.iter().filter(|p| *p == "unknown/unknown").count(), 2, "{index:#}");
    assert!(
        ["linux/amd64", "linux/arm64"].iter().all(|p| platforms.contains(&(*p).to_owned())),
        "{platforms:?}"
    );
    for attestation in manifests.iter().filter(|m| m["platform"]["os"] == "unknown") {
        let annotations = &attestation["annotations"];
        assert_eq!(annotations["vnd.docker.reference.type"], "attestation-manifest");
        let of = &annotations["vnd.docker.reference.digest"];
        assert!(manifests.iter().any(|m| m["digest"] == *of), "{index:#}");
        let manifest = raw(&format!("{repository}@{}", attestation["digest"].as_str().unwrap())).unwrap();
        says(&manifest, &["https://slsa.dev/provenance/"]);
    }
    // Docker's own tools read it.
    let mut inspect = Command::new("docker");
    inspect.args(["buildx", "imagetools", "inspect", &tag]);
    says(&output(&mut inspect).ok(), &["linux/amd64", "linux/arm64", "attestation-manifest"]);
}

#[test]
fn run_instructions_get_their_hosts_limits_memory_and_network() {
    let farm = small_farm();
    let dockerfile = format!(
        "FROM {BASE}\nRUN : {}; grep db.test /etc/hosts; ulimit -n; ulimit -Hn; df -k /dev/shm | tail -n 1; \
         wc -l </proc/net/dev\n",
        nonce()
    );
    let context = Context::new(&dockerfile);
    let options = ["--add-host", "db.test=10.0.0.7", "--ulimit", "nofile=1234:2345", "--shm-size", "7m"];
    let said = |more: &[&str]| {
        let stdout = submit(&farm, &context, &[&AMD64[..], &options, more].concat()).ok();
        let lines = stdout.lines().filter_map(|line| line.strip_prefix("linux/amd64 | ").map(str::to_owned));
        lines.collect::<Vec<_>>()
    };
    let usual = said(&[]);
    assert!(usual[0].starts_with("10.0.0.7") && usual[0].ends_with("db.test"), "{usual:?}");
    assert_eq!((&*usual[1], &*usual[2]), ("1234", "2345"), "{usual:?}");
    assert!(usual[3].contains(" 7168 "), "{usual:?}");
    // Two lines of heading, loopback, and one link; without a network no link.
    assert_eq!(usual[4], "4", "{usual:?}");
    assert_eq!(said(&["--network", "none"])[4], "3");
}

#[test]
fn stages_can_be_built_without_their_cache() {
    let farm = small_farm();
    let dockerfile = format!(
        "FROM {BASE} AS first\nRUN : {n}; echo first\nFROM first AS Second\nRUN : {n}; echo second\n",
        n = nonce()
    );
    let context = Context::new(&dockerfile);
    submit(&farm, &context, &AMD64).ok();
    let stdout = submit(&farm, &context, &[&AMD64[..], &["--no-cache-filter", "Second"]].concat()).ok();
    assert!(stdout.contains("| second") && !stdout.contains("| first"), "{stdout}");
}

#[test]
fn contexts_and_dockerfiles_come_from_standard_input() {
    let farm = small_farm();
    let context =
        Context::new(&format!("FROM {BASE}\nCOPY hello /\nRUN cat /hello\n")).file("hello", nonce());
    let hello = std::fs::read_to_string(context.path().join("hello")).unwrap();
    let pipe = |shell: &str| {
        let like = farm.command(&[]);
        let mut command = Command::new("sh");
        command.args(["-c", shell, "sh"]).arg(like.get_program()).current_dir(context.path());
        command.envs(like.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.output().unwrap()
    };
    let platform = "--platform linux/amd64 --no-cache";
    for shell in [
        format!("tar -c . | \"$1\" submit - {platform}"),
        format!("tar -cz . | \"$1\" submit - {platform}"),
        format!("\"$1\" submit . -f - {platform} <Dockerfile"),
    ] {
        let out = pipe(&shell);
        let stdout = String::from_utf8(out.stdout).unwrap();
        assert!(out.status.success(), "{shell}: {stdout} {}", String::from_utf8_lossy(&out.stderr));
        assert!(stdout.contains(&format!("| {hello}")), "{shell}: {stdout}");
    }
    // A Dockerfile alone has no context.
    let out = pipe(&format!("\"$1\" submit - {platform} <Dockerfile"));
    let stdout = String::from_utf8(out.stdout).unwrap();
    assert!(out.status.code() == Some(1) && stdout.contains("\"/hello\" is not there"), "{stdout}");
}

#[test]
fn what_was_published_is_written_for_other_tools() {
    let farm = small_farm();
    let context = Context::new("FROM scratch\nCOPY Dockerfile /\n");
    let tag = format!("{}:1", repository("results"));
    let (iid, metadata) = (context.path().join("iid"), context.path().join("metadata.json"));
    std::fs::write(context.path().join(".dockerignore"), "iid\nmetadata.json\n").unwrap();
    let files = ["--iidfile", iid.to_str().unwrap(), "--metadata-file", metadata.to_str().unwrap()];
    let both = ["--platform", "linux/amd64,linux/arm64", "-t", &tag];
    submit(&farm, &context, &[&both[..], &files].concat()).ok();
    let index = raw(&tag).unwrap();
    let digest = digest_of(&index);
    assert_eq!(std::fs::read_to_string(&iid).unwrap(), digest);
    let read: serde_json::Value = serde_json::from_slice(&std::fs::read(&metadata).unwrap()).unwrap();
    assert_eq!(read["containerimage.digest"], digest.as_str());
    assert_eq!(read["containerimage.descriptor"]["size"], index.len());
    assert_eq!(read["image.name"], tag.as_str());
    // buildx's, for the same: these keys are there, too.
    let theirs = context.path().join("theirs.json");
    let mut buildx = Command::new("docker");
    buildx.args(["buildx", "build", "--push", "--provenance=false", "-t", &tag, "--metadata-file"]);
    output(buildx.arg(&theirs).arg(context.path())).ok();
    let theirs: serde_json::Value = serde_json::from_slice(&std::fs::read(&theirs).unwrap()).unwrap();
    for key in read.as_object().unwrap().keys() {
        assert!(theirs.get(key).is_some(), "{key} is not in {theirs}");
    }
    // A build that fails leaves none of an earlier one.
    let broken = Context::new("FROM scratch\nCOPY missing /\n");
    assert_eq!(submit(&farm, &broken, &[&both[..], &files].concat()).status, 1);
    assert!(!iid.exists() && !metadata.exists());
}

/// A tag is an index or, when that was asked for, exactly the manifest that the worker pushed.
#[test]
fn one_platform_is_a_plain_manifest_on_request() {
    let farm = small_farm();
    let repository = repository("plain");
    let context = Context::new(&format!("FROM scratch\nLABEL n={}\nCOPY Dockerfile /\n", nonce()));
    let (tag, other) = (format!("{repository}:1"), format!("{repository}/other:1"));
    let metadata = context.path().join("metadata.json");
    std::fs::write(context.path().join(".dockerignore"), "*.json\n").unwrap();
    let plain = ["--single-platform", "manifest"];
    let files = ["-t", &tag, "-t", &other, "--metadata-file", metadata.to_str().unwrap()];
    let stdout = submit(&farm, &context, &[&AMD64[..], &plain, &files].concat()).ok();
    says(&stdout, &[&format!("published  {tag}"), "(1 platform, a plain manifest)"]);
    let manifest = index(&tag);
    assert_eq!(manifest["mediaType"], "application/vnd.oci.image.manifest.v1+json", "{manifest:#}");
    assert!(manifest["config"]["digest"].is_string(), "{manifest:#}");
    let id = build_id(&stdout);
    let record = show(&farm, &id);
    let digest = digest_of(&raw(&tag).unwrap());
    assert_eq!(digest, digest_of(&raw(&other).unwrap()));
    assert_eq!(
        (&record["index_digest"], &record["index_media_type"]),
        (&digest.as_str().into(), &manifest["mediaType"])
    );
    assert_eq!(record["platforms"][0]["digest"], digest.as_str());
    let written: serde_json::Value = serde_json::from_slice(&std::fs::read(&metadata).unwrap()).unwrap();
    assert_eq!(written["containerimage.descriptor"]["mediaType"], manifest["mediaType"]);
    assert_eq!(written["containerimage.digest"], digest.as_str());
    let shown = farm.cli(&["inspect", &tag]).ok();
    says(&shown, &["OCI image", "linux/amd64", "built here", &id]);
    // buildx without attestations makes a manifest of one platform, too.
    let theirs = format!("{repository}:theirs");
    let mut buildx = Command::new("docker");
    buildx.args(["buildx", "build", "--push", "--provenance=false", "-t", &theirs, context.text()]);
    output(&mut buildx).ok();
    assert!(index(&theirs)["config"]["digest"].is_string(), "{:#}", index(&theirs));

    // A newer index takes the tag, and a retry of the older one doesn't take it back.
    submit(&farm, &context, &[&AMD64[..], &["-t", &tag]].concat()).ok();
    assert_eq!(index(&tag)["manifests"][0]["digest"], digest.as_str());
    let again = farm.cli(&["retry", &id]).ok();
    says(&again, &["not moved", &format!("published  {other}"), "a plain manifest"]);
    assert_eq!(index(&tag)["manifests"][0]["digest"], digest.as_str());
    assert_eq!(digest_of(&raw(&other).unwrap()), digest);

    for (args, cure) in [
        (&["--platform", "linux/amd64,linux/arm64"][..], "only an index holds several"),
        (&["--platform", "linux/amd64", "--provenance"], "leave one of the two out"),
    ] {
        let out = submit(&farm, &context, &[args, &plain].concat());
        refused(&out, 2, &["--single-platform", cure]);
    }
}

/// What `docker buildx build` makes of the same.
fn buildx(context: &Context, environment: &[(&str, &str)], args: &[&str]) -> farm_tests::farm::Output {
    let mut command = Command::new("docker");
    command.args(["buildx", "build", "--progress", "plain"]).args(args).arg(context.text());
    output(command.envs(environment.iter().copied()))
}

#[test]
fn the_source_date_of_the_environment_is_that_of_the_image() {
    let farm = small_farm();
    let dockerfile = format!(
        "FROM {BASE}\nARG SOURCE_DATE_EPOCH\nRUN echo {} $SOURCE_DATE_EPOCH >/epoch\nLABEL a=1\n",
        nonce()
    );
    let context = Context::new(&dockerfile);
    let repository = repository("dated");
    let times = |tag: &str| {
        let config = config(tag, "amd64");
        let history = config["history"].as_array().unwrap().iter().map(|step| step["created"].clone());
        (config["created"].clone(), history.collect::<Vec<_>>())
    };
    for (n, (epoch, args, created)) in [
        ("1000000000", &[][..], "2001-09-09T01:46:40Z"),
        ("-5", &[], "1969-12-31T23:59:55Z"),
        ("5", &["--build-arg", "SOURCE_DATE_EPOCH=1000000001"], "2001-09-09T01:46:41Z"),
        ("1000000002", &["--build-arg", "SOURCE_DATE_EPOCH"], "2001-09-09T01:46:42Z"),
    ]
    .into_iter()
    .enumerate()
    {
        let (ours, theirs) = (format!("{repository}:{n}"), format!("{repository}:{n}-theirs"));
        let mut all = vec!["submit", context.text(), "-t", &ours];
        all.extend(AMD64.iter().chain(args));
        output(farm.command(&all).env("SOURCE_DATE_EPOCH", epoch)).ok();
        buildx(&context, &[("SOURCE_DATE_EPOCH", epoch)], &[args, &["--push", "-t", &theirs]].concat()).ok();
        assert_eq!(times(&ours).0, created);
        assert_eq!(times(&ours), times(&theirs), "{epoch} {args:?}");
    }
    // Empty is none, for both; and what is no number is refused by both.
    let now = format!("{repository}:now");
    let empty = |args: &[&str]| output(farm.command(args).env("SOURCE_DATE_EPOCH", ""));
    empty(&["submit", context.text(), "-t", &now, "--platform", "linux/amd64"]).ok();
    assert!(times(&now).0.as_str().unwrap() > "2020", "{:?}", times(&now));
    for wrong in ["abc", "1.5", "1000000000 "] {
        let args = ["submit", context.text(), "--platform", "linux/amd64"];
        let out = output(farm.command(&args).env("SOURCE_DATE_EPOCH", wrong));
        refused(&out, 2, &["SOURCE_DATE_EPOCH", wrong, "seconds since 1970"]);
        assert_eq!(buildx(&context, &[("SOURCE_DATE_EPOCH", wrong)], &[]).status, 1);
    }
}

/// Flags of which the table says that they are the same, in the forms that buildx takes: a step sees the same.
#[test]
fn every_form_of_a_flag_has_the_effect_that_it_has_with_buildx() {
    let farm = small_farm();
    let dockerfile = format!(
        "FROM {BASE} AS build\nARG A=none\nARG B=none\nRUN : {}; echo A=[$A] B=[$B]; tail -n +3 /etc/hosts; \
         df -k /dev/shm | tail -n 1; ulimit -n; ulimit -Hn; ulimit -c\nFROM build AS final\nLABEL a=1\n",
        nonce()
    );
    let context = Context::new(&dockerfile);
    let of = |text: &str, is_ours: bool| {
        let step = |line: &str| {
            if is_ours {
                return line.strip_prefix("linux/amd64 | ").map(str::to_owned);
            }
            // #7 0.123 what was written
            let (time, rest) = line.strip_prefix('#')?.split_once(' ')?.1.split_once(' ')?;
            time.parse::<f64>().is_ok().then(|| rest.to_owned())
        };
        let blanks = |line: String| line.split_whitespace().collect::<Vec<_>>().join(" ");
        // farm's own, by which an engine tells projects apart.
        let is_users = |line: &String| !line.ends_with(".caches.invalid");
        text.lines().filter_map(step).map(blanks).filter(is_users).collect::<Vec<_>>()
    };
    // Several to a build, since each takes its time twice.
    for args in [
        &["--add-host", "db:10.0.0.7", "--add-host=db=10.0.0.8", "--build-arg", "A", "--build-arg", "B"][..],
        &[
            "--add-host",
            "db=[::1],x=[10.0.0.9]",
            "--add-host",
            "y:::1",
            "--add-host",
            "",
            "--shm-size",
            "64M",
        ],
        &[
            "--build-arg",
            "A=",
            "--build-arg=B=a=b",
            "--shm-size",
            "1.5m",
            "--ulimit",
            "nofile=1024",
            "--target",
            "",
        ],
        &[
            "--shm-size=32 MiB",
            "--ulimit",
            "nofile=512:1024",
            "--ulimit",
            "core=0",
            "--target",
            "final",
            "--target=BUILD",
        ],
        &[
            "--build-arg",
            "A=1",
            "--build-arg",
            "A=2",
            "--ulimit",
            "nofile=512",
            "--ulimit",
            "nofile=600",
            "--shm-size",
            "0",
        ],
        &[
            "--shm-size",
            "65536k",
            "--pull=false",
            "--quiet=false",
            "--load=false",
            "--push=false",
            "--network",
            "",
        ],
        &["--shm-size", "7340032b", "--no-cache=false", "--no-cache-filter", "build", "-f", ""],
        &[
            "--shm-size",
            "1m",
            "--shm-size",
            "2m",
            "--platform",
            "local",
            "--rm",
            "--force-rm=true",
            "--compress",
            "-m",
            "1g",
        ],
    ] {
        let mut all = vec!["submit", context.text(), "--no-cache"];
        all.extend(if args.contains(&"local") { &[][..] } else { &AMD64 });
        all.extend(args);
        let ours = output(farm.command(&all).env("B", "of the environment").env_remove("A")).ok();
        let theirs = buildx(&context, &[("B", "of the environment")], &[&["--no-cache"], args].concat());
        assert_eq!(theirs.status, 0, "{args:?}: {theirs:?}");
        let (ours, theirs) = (of(&ours, true), of(&theirs.stderr, false));
        assert!(ours.len() >= 5, "{args:?}: {ours:?}");
        assert_eq!(ours, theirs, "{args:?}");
    }
    // What buildx refuses is refused.
    for args in [
        &["--add-host", "db"][..],
        &["--add-host", "a,b=1.2.3.4"],
        &["--add-host", "db=[[::1]]"],
        &["--build-arg", "=x"],
        &["--build-arg", ""],
        &["--label", "=x"],
        &["--shm-size", ""],
        &["--shm-size", "64mm"],
        &["--ulimit", "files=1"],
        &["--ulimit", "nofile=2:1"],
        &["--no-cache=yes"],
        &["-t", ""],
        &["--platform", "nonsense"],
    ] {
        assert_ne!(submit(&farm, &context, args).status, 0, "{args:?}");
        assert_ne!(buildx(&context, &[], args).status, 0, "{args:?}");
    }
}

#[test]
fn the_default_platform_of_docker_counts_where_nothing_else_is_said() {
    let farm = small_farm();
    let context = Context::new(&format!("FROM {BASE}\nRUN : {}; uname -m\n", nonce()));
    let run = |args: &[&str]| {
        let all = [&["submit", context.text()], args].concat();
        output(farm.command(&all).env("DOCKER_DEFAULT_PLATFORM", "linux/arm64"))
    };
    let stdout = run(&[]).ok();
    says(&stdout, &["for linux/arm64, by DOCKER_DEFAULT_PLATFORM", "linux/arm64 | aarch64"]);
    assert!(!stdout.contains("linux/amd64 |"), "{stdout}");
    says(&run(&AMD64).ok(), &["linux/amd64 | x86_64"]);
    let args = ["submit", context.text()];
    let wrong = output(farm.command(&args).env("DOCKER_DEFAULT_PLATFORM", "nonsense"));
    refused(&wrong, 2, &["DOCKER_DEFAULT_PLATFORM", "nonsense"]);
}

#[test]
fn the_table_of_flags_is_that_of_the_buildx_that_is_installed() {
    let help = output(Command::new("docker").args(["buildx", "build", "--help"])).ok();
    let flags = help.lines().filter_map(|line| {
        let flag = line.trim_start().trim_start_matches("-f, ").trim_start_matches("-o, ");
        let flag = flag.trim_start_matches("-q, ").trim_start_matches("-t, ").trim_start_matches("-D, ");
        flag.starts_with("--").then(|| flag.split_whitespace().next().unwrap().to_owned())
    });
    let table = include_str!("../../../docs/reference/buildx-flags.md");
    let missing: Vec<String> = flags.filter(|flag| !table.contains(&format!("| `{flag}` |"))).collect();
    assert_eq!(missing, [""; 0], "{help}");
    assert!(help.contains("--metadata-file"), "{help}");
}
