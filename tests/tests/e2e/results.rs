//! Files that a user names are written into and never replaced: devices, pipes and links stay what they are.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;

use farm_tests::farm::{Farm, Output, output};
use farm_tests::process::run;
use rustix::process::Signal;

use crate::support::*;

/// A farm, a context and a tag.
struct Scene {
    farm: Farm,
    context: Context,
    tag: String,
    folder: Context,
}

impl Scene {
    fn new() -> Scene {
        let context = Context::new("FROM scratch\nCOPY Dockerfile /\n");
        Scene {
            farm: small_farm(),
            context,
            tag: format!("{}:1", repository("files")),
            folder: Context::empty(),
        }
    }

    fn at(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    fn submit(&self, context: &Context, more: &[&str]) -> Output {
        let both = ["-t", &self.tag, "--platform", "linux/amd64"];
        submit(&self.farm, context, &[&both[..], more].concat())
    }

    fn node(&self, name: &str, kind: &[&str]) -> String {
        let path = self.at(name);
        run(Command::new("mknod").arg(&path).args(kind));
        path
    }
}

fn kind(path: &str) -> fs::FileType {
    fs::symlink_metadata(path).unwrap().file_type()
}

#[test]
fn devices_pipes_and_links_are_written_into() {
    let scene = Scene::new();
    let null = scene.node("null", &["c", "1", "3"]);
    let pipe = scene.node("pipe", &["p"]);
    scene.submit(&scene.context, &["--iidfile", &null, "--metadata-file", &null]).ok();
    assert!(kind(&null).is_char_device());
    let digest = digest_of(&raw(&scene.tag).unwrap());

    let reading = std::thread::spawn({
        let pipe = pipe.clone();
        move || fs::read_to_string(pipe).unwrap()
    });
    scene.submit(&scene.context, &["--iidfile", &pipe]).ok();
    assert_eq!(reading.join().unwrap(), digest);
    assert!(kind(&pipe).is_fifo());

    // A link, to a file of another mode that has a second name.
    fs::write(scene.at("target"), "stale").unwrap();
    fs::set_permissions(scene.at("target"), fs::Permissions::from_mode(0o640)).unwrap();
    fs::hard_link(scene.at("target"), scene.at("second")).unwrap();
    symlink("target", scene.at("link")).unwrap();
    scene.submit(&scene.context, &["--iidfile", &scene.at("link")]).ok();
    assert!(kind(&scene.at("link")).is_symlink());
    assert_eq!(fs::read_to_string(scene.at("second")).unwrap(), digest);
    assert_eq!(fs::metadata(scene.at("target")).unwrap().mode() & 0o777, 0o640);

    // What the command has open itself.
    let quiet = scene.submit(&scene.context, &["-q", "--iidfile", "/dev/stderr"]);
    assert_eq!((quiet.status, quiet.stderr.as_str()), (0, digest.as_str()), "{quiet:?}");
    let stdout = scene.submit(&scene.context, &["-q", "--metadata-file", "/dev/stdout"]).ok();
    says(&stdout, &["containerimage.digest", &digest]);
    let like = scene.farm.command(&[
        "submit",
        scene.context.text(),
        "-t",
        &scene.tag,
        "--platform",
        "linux/amd64",
        "-q",
        "--iidfile",
        "/dev/fd/3",
    ]);
    let log = scene.at("log");
    let mut shell = Command::new("bash");
    shell.args(["-c", "log=$1; shift; echo before >$log; \"$@\" 3>>$log", "bash", &log]);
    shell.arg(like.get_program()).args(like.get_args());
    shell.envs(like.get_envs().filter_map(|(name, value)| Some((name, value?))));
    output(&mut shell).ok();
    assert_eq!(fs::read_to_string(&log).unwrap(), format!("before\n{digest}"));
}

#[test]
fn a_build_that_fails_writes_nothing_and_breaks_nothing() {
    let scene = Scene::new();
    let broken = Context::new("FROM scratch\nCOPY missing /\n");
    let null = scene.node("null", &["c", "1", "3"]);
    let pipe = scene.node("pipe", &["p"]);
    fs::write(scene.at("twin"), "stale").unwrap();
    fs::hard_link(scene.at("twin"), scene.at("other")).unwrap();
    let waiting = std::thread::spawn({
        let pipe = pipe.clone();
        move || fs::read_to_string(pipe).unwrap()
    });
    assert_eq!(scene.submit(&broken, &["--iidfile", &null, "--metadata-file", &pipe]).status, 1);
    assert!(kind(&null).is_char_device() && kind(&pipe).is_fifo());
    // Who waits for it isn't left waiting.
    assert_eq!(waiting.join().unwrap(), "");
    assert_eq!(scene.submit(&broken, &["--iidfile", &scene.at("twin")]).status, 1);
    assert_eq!(fs::read_to_string(scene.at("other")).unwrap(), "");
}

#[test]
fn what_cannot_be_written_is_refused_before_the_build() {
    let scene = Scene::new();
    let folder = scene.at("folder");
    fs::create_dir(&folder).unwrap();
    symlink("folder", scene.at("to folder")).unwrap();
    let disk = scene.node("disk", &["b", "7", "250"]);
    let refuses = |args: &[&str], parts: &[&str]| refused(&scene.submit(&scene.context, args), 2, parts);
    for flag in ["--iidfile", "--metadata-file"] {
        refuses(&[flag, &folder], &[flag, "this is a folder"]);
        refuses(&[flag, &scene.at("to folder")], &[flag, "this is a folder"]);
        refuses(&[flag, &scene.at("none/file")], &[flag, "its folder isn't there"]);
        refuses(&[flag, &disk], &[flag, "this is a disk"]);
    }
    // A folder, and a file, on a disk that can only be read.
    fs::write(Path::new(&folder).join("old"), "").unwrap();
    for name in ["new", "old"] {
        let path = format!("{folder}/{name}");
        let like =
            scene.farm.command(&["submit", scene.context.text(), "-t", &scene.tag, "--iidfile", &path]);
        let mut shell = Command::new("unshare");
        shell.args(["-m", "bash", "-c"]);
        shell
            .arg("mount --bind $1 $1 && mount -o remount,ro,bind $1 && shift && exec \"$@\"")
            .args(["bash", &folder]);
        shell.arg(like.get_program()).args(like.get_args());
        shell.envs(like.get_envs().filter_map(|(name, value)| Some((name, value?))));
        refused(&output(&mut shell), 2, &["--iidfile", &path, "can't be written (read-only"]);
    }
    let dockerfile = scene.context.path().join("Dockerfile");
    refuses(&["--iidfile", dockerfile.to_str().unwrap()], &["this is the Dockerfile"]);
    symlink("one", scene.at("same")).unwrap();
    let (one, same) = (scene.at("one"), scene.at("same"));
    refuses(&["--iidfile", &one, "--metadata-file", &one], &["--metadata-file", "the same file"]);
    refuses(&["--iidfile", &one, "--metadata-file", &same], &["the same file"]);
    assert!(!Path::new(&one).exists() && dockerfile.metadata().unwrap().len() > 0);
    assert_eq!(builds(&scene.farm), 0);
}

#[test]
fn a_pipe_that_nobody_reads_is_waited_for_until_a_signal() {
    let scene = Scene::new();
    let pipe = scene.node("pipe", &["p"]);
    let args =
        ["submit", scene.context.text(), "-t", &scene.tag, "--platform", "linux/amd64", "--iidfile", &pipe];
    let mut cli = scene.farm.cli_spawn("submit", &args);
    cli.wait_for_line(&format!("waiting until somebody reads {pipe}"), LONG);
    cli.signal(Signal::TERM);
    assert_eq!(cli.wait_exit(LONG).code(), Some(130), "{}", cli.tail());
    says(&cli.output(), &["left; the build is done"]);
    assert!(raw(&scene.tag).is_some() && kind(&pipe).is_fifo());
}

#[test]
fn a_configuration_that_is_no_file_is_not_replaced() {
    let scene = Scene::new();
    let null = scene.node("null", &["c", "1", "3"]);
    let configured = |args: &[&str]| output(scene.farm.command(args).env("FARM_CONFIG", &null));
    configured(&["builds"]).ok();
    refused(&configured(&["config", "set", "emulation", "never"]), 2, &[&null, "no regular file"]);
    assert!(kind(&null).is_char_device());
    // Of a user's own file, also when root changes it.
    let own = scene.at("own.toml");
    fs::write(&own, "# mine\n").unwrap();
    std::os::unix::fs::chown(&own, Some(1234), Some(1234)).unwrap();
    fs::set_permissions(&own, fs::Permissions::from_mode(0o640)).unwrap();
    symlink("own.toml", scene.at("link.toml")).unwrap();
    let mut set = scene.farm.command(&["config", "set", "emulation", "never"]);
    output(set.env("FARM_CONFIG", scene.at("link.toml"))).ok();
    let metadata = fs::metadata(&own).unwrap();
    assert_eq!((metadata.uid(), metadata.mode() & 0o777), (1234, 0o640));
    assert!(kind(&scene.at("link.toml")).is_symlink());
    says(&fs::read_to_string(&own).unwrap(), &["# mine", "emulation"]);
}
