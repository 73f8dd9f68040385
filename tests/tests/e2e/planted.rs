//! Secrets are planted wherever a user can put one, and then looked for wherever they must not be.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use farm_tests::bed::Bed;
use farm_tests::capture::Capture;
use farm_tests::database::dump;
use farm_tests::farm::{Farm, WorkerSpec, output};
use farm_tests::planted::Planted;
use farm_tests::registry::{Login, PrivateRegistry};

use crate::gate::Gate;
use crate::support::*;

/// Where it was looked, and how much: for whoever runs this by hand.
#[derive(Default)]
struct Search(Vec<String>);

impl Search {
    #[track_caller]
    fn bytes(&mut self, place: &str, planted: &[&Planted], bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        planted.iter().for_each(|planted| planted.is_not_in(place, bytes));
        self.0.push(format!("{place}: {} bytes, nothing", bytes.len()));
    }

    #[track_caller]
    fn folder(&mut self, place: &str, planted: &[&Planted], folder: &Path) {
        let files = planted.iter().map(|planted| planted.is_not_below(folder)).max().unwrap();
        assert!(files > 0, "{place}: there is no file below {}", folder.display());
        self.0.push(format!("{place}: {files} files, nothing"));
    }
}

/// What all processes but these show of themselves to root, by file of /proc.
fn processes(file: &str, but: &[u32]) -> Vec<u8> {
    let mut all = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        if id != std::process::id() && !but.contains(&id) {
            all.extend(fs::read(entry.path().join(file)).unwrap_or_default());
            all.push(b'\n');
        }
    }
    all
}

#[test]
fn what_is_planted_where_a_user_can_put_it_is_found_nowhere_else() {
    let noisy = "debug,h2=debug,hyper=debug,tonic=debug,rustls=debug,sqlx=debug";
    let worker = WorkerSpec::new("w1").platforms("linux/amd64").slots(2).env("RUST_LOG", noisy);
    let farm = Farm::builder().tls().env("RUST_LOG", noisy).worker(worker).start();
    let (file, variable) = (Planted::new("file "), Planted::new("variable-"));
    let kept = Planted::new("project-");
    let (login, own) = (Planted::new("login-"), Planted::new("docker-"));
    let all = [&file, &variable, &kept, &login, &own];

    let home = Bed::from_env().folder("planted");
    let (given, set) = (home.path().join("given"), home.path().join("set"));
    fs::write(&given, file.value()).unwrap();
    fs::write(&set, kept.value()).unwrap();
    fs::set_permissions(&given, fs::Permissions::from_mode(0o600)).unwrap();
    // These registries have no TLS, so the capture begins when the one has been asked, and leaves out what goes to the other.
    let registry = PrivateRegistry::start_with(Some(Login { user: "ci", password: login.text() }));
    crate::logins::login(&farm, "default", &registry.address(), "ci", login.text()).ok();
    let other = PrivateRegistry::start();
    let elsewhere = other.address();
    let docker = serde_json::json!({"auths": {&elsewhere: {"username": "ci", "password": own.text()}}});
    fs::write(home.path().join("config.json"), docker.to_string()).unwrap();
    let port: u16 = elsewhere.rsplit_once(':').unwrap().1.parse().unwrap();
    let capture = Capture::without(port);
    farm.cli(&["secret", "set", "kept", "--file", set.to_str().unwrap()]).ok();

    let gate = Gate::new();
    let context = Context::new(&format!(
        "FROM {BASE}\n\
         RUN --mount=type=secret,id=file,required=true --mount=type=secret,id=variable,required=true,env=VARIABLE \
             --mount=type=secret,id=kept,required=true,target=/kept \
             test -s /run/secrets/file -a -n \"$VARIABLE\" -a -s /kept # {}\n{}",
        nonce(),
        gate.step()
    ))
    .with_gate();
    let tag = format!("{}:1", repository("planted"));
    let of_file = format!("id=file,src={}", given.display());
    let mut command = farm.command(&["submit", context.text(), "-t", &tag, "--platform", "linux/amd64"]);
    command.args(["--provenance=mode=max", "--secret", &of_file, "--secret", "id=variable,env=PLANTED"]);
    command.args(["--secret", "id=kept,from=project"]).env("PLANTED", variable.text()).env("RUST_LOG", noisy);
    command.args(["--registry-login", &elsewhere]).env("DOCKER_CONFIG", home.path());
    let mut cli = farm_tests::process::Child::spawn("submit", &command, farm.folder());
    let step = gate.arrival();

    let mut search = Search::default();
    // While it runs; the variable is in the environment of the command that was given it, and of no other process.
    let id = build_id(&cli.output());
    search.bytes("/proc/*/cmdline", &all, processes("cmdline", &[]));
    let client = cli.pid();
    assert!(
        variable.find(&processes("environ", &[])).is_some(),
        "the search doesn't see the client's environment"
    );
    search.bytes("/proc/*/environ but the client's", &all, processes("environ", &[client]));
    search.bytes("the database while it runs (pg_dump)", &all, dump(farm.database_url()));
    step.open();
    assert_eq!(cli.wait_exit(LONG).code(), Some(0), "{}", cli.tail());

    let traffic = capture.end();
    assert!(traffic.len() > 100_000, "only {} bytes were captured", traffic.len());
    search.bytes("traffic over loopback", &all, traffic);
    search.bytes("the database afterwards (pg_dump)", &all, dump(farm.database_url()));
    search.bytes("the command's output at debug level", &all, cli.output());
    for args in [
        &["show", &id, "--json"][..],
        &["show", &id],
        &["logs", &id],
        &["logs", &id, "--json"],
        &["builds", "--json"],
        &["audit", "--json"],
        &["secret", "ls", "--json"],
        &["registry", "ls", "--json"],
        &["workers", "--json"],
    ] {
        search.bytes(&format!("farm {}", args.join(" ")), &all, farm.cli(args).ok());
    }
    // Logs at debug level, blobs, the worker's state, and whatever else they keep.
    search.folder("the farm's folder (logs, blobs, workers' state, keys)", &all, farm.folder());
    let image = home.path().join("image");
    let mut copy = Command::new("skopeo");
    copy.args(["copy", "--all", "--src-tls-verify=false", &format!("docker://{tag}")]);
    output(copy.arg(format!("dir:{}", image.display()))).ok();
    search.folder("the image: layers, configuration with its history, provenance", &all, &image);
    let mut inspect = Command::new("docker");
    inspect.args(["buildx", "imagetools", "inspect", "--format", "{{json .}}", &tag]);
    search.bytes("imagetools inspect (provenance, history)", &all, output(&mut inspect).ok());
    search.0.iter().for_each(|line| println!("{line}"));
}

/// The same, where somebody has said that others may read it: the capture sees what is there to be seen.
#[test]
fn without_tls_the_capture_finds_it() {
    let worker = WorkerSpec::new("w1").platforms("linux/amd64");
    let farm = Farm::builder().arg("--insecure-secrets").worker(worker).start();
    let planted = Planted::new("in-clear-");
    let context = Context::new(&format!(
        "FROM {BASE}\nRUN --mount=type=secret,id=a,required=true,env=A test -n \"$A\" # {}\n",
        nonce()
    ));
    let capture = Capture::begin();
    let mut command = farm.command(&["submit", context.text(), "--secret", "id=a,env=PLANTED"]);
    command.args(["--platform", "linux/amd64"]);
    output(command.env("PLANTED", planted.text()).env("FARM_INSECURE_HTTP", "1")).ok();
    assert!(planted.find(&capture.end()).is_some(), "it isn't in what was captured");
}
