//! A result comes into the hands of whoever asked for it: the same as from buildx on the same engine, whatever dies on the way.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Stdio};

use farm_tests::bed::Bed;
use farm_tests::database::psql;
use farm_tests::farm::{Farm, Output, WorkerSpec, output};
use farm_tests::process::run;
use serde_json::Value;

use crate::support::*;

const TWO: &str = "linux/amd64,linux/arm64";

/// Files of all kinds, with times that are no whole seconds, in an image of nothing else.
fn odd_files() -> Context {
    Context::new(&format!(
        "FROM {BASE} AS big\nRUN mkdir -p /out/d /out/ro && echo {} >/out/f && ln -s f /out/l && ln /out/f /out/h \
         && chmod 4755 /out/h && mkfifo /out/p && chmod 1777 /out/d && echo x >/out/d/x && chown 12:34 /out/d/x \
         && ln -s /etc/passwd /out/abs && ln -s ../../.. /out/up && echo r >/out/ro/r && chmod 555 /out/ro \
         && printf %300000s x >/out/long && touch /out/empty '/out/ä b' \
         && touch -d '2001-02-03 04:05:06.789' /out/d/x /out/d\nFROM scratch\nCOPY --from=big /out /\n",
        nonce()
    ))
}

/// `docker buildx build ARGS` on the bed's engine.
fn buildx(context: &Context, folder: &Path, args: &[&str]) -> Output {
    let mut command = Command::new("docker");
    command.args(["buildx", "build", "--provenance=false", "--sbom=false", "-q"]);
    output(
        command.env("DOCKER_HOST", Bed::from_env().engine).args(args).arg(context.path()).current_dir(folder),
    )
}

/// `farm submit ARGS`, there.
fn submit_in(farm: &Farm, context: &Context, folder: &Path, args: &[&str]) -> Output {
    let mut command = farm.command(&["submit", context.text()]);
    output(command.env("DOCKER_HOST", Bed::from_env().engine).args(args).current_dir(folder))
}

/// All files below a folder, with kind, mode, owner, size, time, link and names.
fn listing(folder: &Path) -> String {
    let mut find = Command::new("find");
    find.arg(folder).args(["-mindepth", "1", "-printf", "%P %y %m %U:%G %s %T@ %l %n\\n"]);
    let text = run(&mut find);
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    // A folder's size is the file system's.
    lines.join("\n")
}

/// What is in an archive: names and what they are, in their order.
fn tar_listing(archive: &Path) -> String {
    run(Command::new("tar").args(["--full-time", "--numeric-owner", "-tvf"]).arg(archive))
}

fn from_tar(archive: &Path, name: &str) -> Vec<u8> {
    let out = Command::new("tar").arg("-xOf").arg(archive).arg(name).output().unwrap();
    assert!(out.status.success(), "{name}");
    out.stdout
}

/// The blobs of a layout, and the digest of its image.
fn blobs(archive: &Path) -> (Vec<String>, String) {
    let names = run(Command::new("tar").arg("-tf").arg(archive));
    let mut blobs: Vec<String> = names.lines().filter(|name| name.len() > 30).map(str::to_owned).collect();
    blobs.sort_unstable();
    let index: Value = serde_json::from_slice(&from_tar(archive, "index.json")).unwrap();
    for blob in &blobs {
        let hex = blob.rsplit('/').next().unwrap();
        let content = from_tar(archive, blob);
        let mut file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file, &content).unwrap();
        assert!(run(Command::new("sha256sum").arg(file.path())).starts_with(hex), "{blob}");
    }
    (blobs, index["manifests"][0]["digest"].as_str().unwrap().to_owned())
}

#[test]
fn each_form_is_what_buildx_makes() {
    let farm = small_farm();
    let context = odd_files();
    let (ours, theirs) = (Bed::from_env().folder("farm"), Bed::from_env().folder("buildx"));
    let (ours, theirs) = (ours.path(), theirs.path());
    for (nth, args) in [
        vec!["-o", "local"],
        vec!["-o", "type=local,dest=split", "--platform", TWO],
        vec!["-o", "type=tar,dest=t.tar"],
        vec!["-o", "type=tar,dest=t2.tar", "--platform", TWO],
        vec!["-o", "type=oci,dest=o.tar", "-t", "localhost:5002/outputs/app:1", "-t", "app:2"],
        vec!["-o", "type=oci,dest=plain.tar,compression=uncompressed"],
        vec!["-o", "type=oci,dest=o2.tar", "-t", "app:1", "--platform", TWO],
        vec!["-o", "type=docker,dest=d.tar", "-t", "app:1"],
        vec!["-o", "type=oci,dest=layout,tar=false", "-t", "app:1"],
        vec!["-o", "m", "-o", "type=tar,dest=m.tar", "-o", "type=oci,dest=mo.tar"],
    ]
    .into_iter()
    .enumerate()
    {
        let platform = if args.contains(&"--platform") { vec![] } else { vec!["--platform", "linux/amd64"] };
        let args: Vec<&str> = args.into_iter().chain(platform).collect();
        assert_eq!(buildx(&context, theirs, &args).status, 0, "{nth}");
        let text = submit_in(&farm, &context, ours, &args).ok();
        says(&text, &["written  ", "built in "]);
        assert!(!text.contains("published"), "{text}");
    }
    for folder in ["local", "split", "m"] {
        assert_eq!(listing(&ours.join(folder)), listing(&theirs.join(folder)), "{folder}");
    }
    for archive in ["t.tar", "m.tar"] {
        assert!(
            fs::read(ours.join(archive)).unwrap() == fs::read(theirs.join(archive)).unwrap(),
            "{archive}"
        );
    }
    assert_eq!(tar_listing(&ours.join("t2.tar")), tar_listing(&theirs.join("t2.tar")));
    for archive in ["o.tar", "plain.tar", "d.tar", "mo.tar"] {
        assert_eq!(blobs(&ours.join(archive)), blobs(&theirs.join(archive)), "{archive}");
    }
    // An index of several has farm's own bytes, which are those of a publication; what it lists is the same.
    let index_and_rest = |folder: &Path| {
        let archive = folder.join("o2.tar");
        let (mut blobs, digest) = blobs(&archive);
        let place = format!("blobs/sha256/{}", &digest["sha256:".len()..]);
        let index: Value = serde_json::from_slice(&from_tar(&archive, &place)).unwrap();
        blobs.retain(|blob| *blob != place);
        (index["manifests"].clone(), blobs)
    };
    assert_eq!(index_and_rest(ours), index_and_rest(theirs));
    let without_times = |folder: &Path| {
        listing(folder)
            .lines()
            .filter(|line| line.contains(" f "))
            .map(|line| {
                let words: Vec<&str> = line.split(' ').collect();
                (words[0].to_owned(), words[2].to_owned())
            })
            .collect::<BTreeMap<_, _>>()
    };
    let mut expected = without_times(&theirs.join("layout"));
    expected.retain(|name, _| !name.ends_with(".lock"));
    assert_eq!(without_times(&ours.join("layout")), expected);
    let names = |folder: &Path| {
        let index: Value = serde_json::from_slice(&from_tar(&folder.join("o.tar"), "index.json")).unwrap();
        index["manifests"]
            .as_array()
            .unwrap()
            .iter()
            .map(|m| m["annotations"]["io.containerd.image.name"].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(names(ours), names(theirs));
    // The same again, over what is there.
    submit_in(&farm, &context, ours, &["-o", "local", "--platform", "linux/amd64"]).ok();
    assert_eq!(listing(&ours.join("local")), listing(&theirs.join("local")));
    // Nothing is left beside.
    let left: Vec<_> = fs::read_dir(ours).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().contains(".part")), "{left:?}");
}

#[test]
fn an_archive_goes_to_standard_output_and_all_else_to_the_other() {
    let farm = small_farm();
    let context = odd_files();
    let folder = Bed::from_env().folder("stdout");
    let mut command = farm.command(&["submit", context.text(), "-o", "-", "--platform", "linux/amd64"]);
    let out = command.stdin(Stdio::null()).output().unwrap();
    let told = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success(), "{told}");
    says(&told, &["written  standard output", "built in "]);
    assert_eq!(
        buildx(&context, folder.path(), &["-o", "type=tar,dest=t.tar", "--platform", "linux/amd64"]).status,
        0
    );
    assert!(out.stdout == fs::read(folder.path().join("t.tar")).unwrap());
}

#[test]
fn a_loaded_image_runs() {
    let farm = small_farm();
    let engine = Bed::from_env().engine;
    let folder = Bed::from_env().folder("load");
    let name = format!("loaded-{}", nonce());
    let context = Context::new(&format!("FROM {BASE}\nRUN echo {name} >/here\nCMD [\"cat\", \"/here\"]\n"));
    let docker = |args: &[&str]| output(Command::new("docker").args(["--host", &engine]).args(args));
    // Without a platform: what the engine runs.
    let text = submit_in(&farm, &context, folder.path(), &["--load", "-t", &name, "--iidfile", "iid"]).ok();
    says(&text, &["loaded   ", &name, &format!("into {engine}"), "linux/amd64"]);
    assert!(!text.contains("published"), "{text}");
    assert_eq!(docker(&["run", "--rm", "--pull=never", &name]).ok().trim(), name);
    let iid = fs::read_to_string(folder.path().join("iid")).unwrap();
    let config = docker(&["image", "inspect", &name, "--format", "{{json .Architecture}}"]).ok();
    assert_eq!((config.trim(), iid.len()), ("\"amd64\"", 71));

    // Both platforms, as one index; the one that isn't this machine's runs, too.
    let both = format!("{name}:both");
    let json =
        submit_in(&farm, &context, folder.path(), &["--load", "-t", &both, "--platform", TWO, "--json"])
            .json();
    let loaded = &json["outputs"][0];
    assert_eq!(
        (loaded["type"].as_str(), loaded["platforms"].as_array().map(Vec::len)),
        (Some("docker"), Some(2))
    );
    let arm = docker(&["run", "--rm", "--pull=never", "--platform", "linux/arm64", &both, "uname", "-m"]);
    assert_eq!(arm.ok().trim(), "aarch64");
    // The digest of the index is the one that it would have in a registry.
    let tag = format!("{}:1", repository("load"));
    submit(&farm, &context, &["-t", &tag, "--platform", TWO]).ok();
    assert_eq!(loaded["digest"].as_str(), Some(digest_of(&raw(&tag).unwrap()).as_str()));

    // Published and loaded, with what attests it.
    let text = submit_in(
        &farm,
        &context,
        folder.path(),
        &["--load", "--push", "-t", &tag, "--provenance", "--platform", "linux/amd64"],
    )
    .ok();
    says(&text, &["published", "loaded   "]);
    assert_eq!(docker(&["run", "--rm", "--pull=never", &tag]).ok().trim(), name);
    docker(&["image", "rm", "-f", &name, &both, &tag]).ok();
}

#[test]
fn without_an_engine_or_a_place_nothing_is_built() {
    let farm = small_farm();
    let context = Context::new("FROM scratch\nCOPY Dockerfile /\n");
    let folder = Bed::from_env().folder("refused");
    fs::write(folder.path().join("file"), "").unwrap();
    let refuse = |args: &[&str], parts: &[&str]| {
        let mut command = farm.command(&["submit", context.text()]);
        command.args(args).env("DOCKER_HOST", "unix:///none/docker.sock").current_dir(folder.path());
        refused(&output(&mut command), 2, parts);
    };
    refuse(&["--load"], &["--load", "unix:///none/docker.sock", "DOCKER_HOST", "nothing was built"]);
    refuse(&["-o", "type=docker,context=none"], &["docker context", "none"]);
    refuse(&["-o", "file"], &["--output", "file", "name a folder"]);
    refuse(&["-o", "type=tar,dest=no/where.tar"], &["no/where.tar", "make it first"]);
    refuse(&["-o", "type=docker,dest=x", "--platform", TWO], &["type=docker", "type=oci"]);
    refuse(&["-o", "out", "--detach"], &["--output", "--detach"]);
    assert_eq!(builds(&farm), 0);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    let dry = submit_in(
        &farm,
        &context,
        folder.path(),
        &["--dry-run", "-o", "out", "--load", "-t", "app", "--platform", "linux/amd64"],
    )
    .ok();
    says(&dry, &["would write type=local to out", "would load it into unix://"]);
    assert!(!dry.contains("would publish"), "{dry}");
    assert_eq!(builds(&farm), 0);
}

#[test]
fn an_output_that_is_too_long_fails_the_build_and_says_so() {
    let farm = with_worker(Farm::builder().config("[limits]\noutput_bytes = 100000\n"));
    let context = Context::new(&format!("FROM scratch\nLABEL n={}\nCOPY big /\n", nonce()))
        .file("big", vec![7; 200_000]);
    let folder = Bed::from_env().folder("too-long");
    for output in ["type=tar,dest=x.tar", "type=local,dest=x"] {
        let failed = submit_in(&farm, &context, folder.path(), &["-o", output, "--platform", "linux/amd64"]);
        assert_eq!(failed.status, 1, "{failed:?}");
        says(&failed.stdout, &["100000 bytes", "limits.output_bytes", "failed after"]);
        let record = show(&farm, &build_id(&failed.stdout));
        assert_eq!(record["platforms"][0]["failure"]["code"], "output_too_large");
        assert_eq!(record["platforms"][0]["attempts"], 1);
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// An image of one file of so many MiB that no compression makes smaller. (It is copied: what a step makes is its project's, and
/// buildx would make another one.)
fn large(mib: usize) -> Context {
    let mut bytes = vec![0; mib << 20];
    rand::fill(&mut bytes[..]);
    Context::new("FROM scratch\nCOPY big /\n").file("big", bytes)
}

#[test]
fn a_worker_that_dies_while_it_sends_costs_nothing() {
    let spec = |name: &str| WorkerSpec::new(name).platforms("linux/amd64").slots(2);
    let mut farm = Farm::builder().config(QUICK_LEASES).worker(spec("w1")).worker(spec("w2")).start();
    let context = large(48);
    let folder = Bed::from_env().folder("dying");
    let dest = folder.path().join("out.tar").display().to_string();
    let form = format!("type=tar,dest={dest}");
    let mut cli =
        farm.cli_spawn("submit", &["submit", context.text(), "-o", &form, "--platform", "linux/amd64"]);
    let sending = "SELECT w.name FROM output_pieces p JOIN attempts a ON a.id = p.attempt_id JOIN workers w ON w.id = a.worker_id
                   WHERE a.state = 'running' AND p.seq >= 2 LIMIT 1";
    let worker = until("pieces on their way", LONG, || {
        Some(psql(farm.database_url(), sending)).filter(|name| !name.is_empty())
    });
    farm.kill_worker(&worker);
    assert_eq!(cli.wait_exit(2 * LONG).code(), Some(0), "{}", cli.tail());
    let text = cli.output();
    says(&text, &["was lost", "written  ", "built in "]);
    assert_eq!(buildx(&context, folder.path(), &["-o", "type=tar,dest=theirs.tar"]).status, 0);
    assert!(fs::read(&dest).unwrap() == fs::read(folder.path().join("theirs.tar")).unwrap());
    // Of what the dead one sent nothing stays, of what was received neither.
    until("all pieces are gone", LONG, || {
        (psql(farm.database_url(), "SELECT count(*) FROM output_pieces") == "0").then_some(())
    });
}

#[test]
fn a_coordinator_that_dies_while_it_gives_out_costs_nothing() {
    let mut farm = Farm::builder()
        .coordinators(2)
        .worker(WorkerSpec::new("w1").platforms("linux/amd64").coordinator(1))
        .start();
    let context = large(64);
    let folder = Bed::from_env().folder("dying");
    let urls = farm.urls();
    let mut command =
        farm.command_by(&urls, &["submit", context.text(), "-o", "-", "--platform", "linux/amd64"]);
    let mut cli = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut stdout = cli.stdout.take().unwrap();
    let mut archive = vec![0; 1 << 20];
    stdout.read_exact(&mut archive).unwrap();
    // More than windows and pipes hold is still to come, from the one that the command holds on to.
    farm.kill_coordinator_at(0);
    stdout.read_to_end(&mut archive).unwrap();
    assert!(cli.wait().unwrap().success());
    assert_eq!(buildx(&context, folder.path(), &["-o", "type=tar,dest=theirs.tar"]).status, 0);
    assert!(archive == fs::read(folder.path().join("theirs.tar")).unwrap());
}

#[test]
fn what_goes_wrong_at_the_end_leaves_nothing_half_and_a_retry_says_what_to_do() {
    let farm = small_farm();
    let context = large(20);
    let folder = Bed::from_env().folder("full");
    // A folder that takes no file any more once the build runs is one that is full.
    let mut mount = Command::new("mount");
    run(mount.args(["-t", "tmpfs", "-o", "size=4m", "none"]).arg(folder.path()));
    let failed = submit_in(
        &farm,
        &context,
        folder.path(),
        &["-o", "type=tar,dest=x.tar", "--platform", "linux/amd64"],
    );
    let id = build_id(&failed.stdout);
    assert_eq!(failed.status, 2, "{failed:?}");
    says(&failed.stderr, &["x.tar can't be written", "the build is done"]);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    let failed = submit_in(&farm, &context, folder.path(), &["-o", "out", "--platform", "linux/amd64"]);
    assert_eq!(failed.status, 2, "{failed:?}");
    assert_eq!(fs::read_dir(folder.path().join("out")).unwrap().count(), 0);
    run(Command::new("umount").arg(folder.path()));
    assert_eq!(show(&farm, &id)["state"], "succeeded");
    refused(&farm.cli(&["retry", &id]), 2, &["--output", "give that command again"]);
}
