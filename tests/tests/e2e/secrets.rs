//! Secrets of builds: what steps see of them, and what is left of them afterwards.

use std::io::Write as _;
use std::process::Stdio;
use std::time::Duration;

use farm_tests::farm::{Farm, Output, WorkerSpec, output, program};
use farm_tests::planted::Planted;
use farm_types::Digest;

use crate::gate::Gate;
use crate::schemas::fits;
use crate::support::*;
use crate::terminal::Terminal;

const AMD64: [&str; 2] = ["--platform", "linux/amd64"];

/// A farm whose connections have TLS, as secrets go over no others.
fn covered() -> Farm {
    with_worker(Farm::builder().tls())
}

fn given(file: &str) -> String {
    format!("id=npm,src={file}")
}

#[test]
fn steps_read_what_was_given_in_each_way_and_the_image_has_nothing_of_it() {
    let farm = covered();
    let value = format!("hunter2-{}", nonce());
    let context = Context::new(&format!(
        "FROM {BASE}\nARG SUM\n\
         RUN --mount=type=secret,id=npm test \"$(sha256sum < /run/secrets/npm)\" = \"$SUM  -\" # {}\n\
         RUN --mount=type=secret,id=npm,required=true,target=/root/.npmrc,mode=0440,uid=7,gid=8 \
             test \"$(stat -c '%a %u %g' /root/.npmrc)\" = '440 7 8'\n\
         RUN --mount=type=secret,id=word,env=WORD test \"$(printf %s \"$WORD\" | sha256sum)\" = \"$SUM  -\"\n\
         RUN --mount=type=secret,id=way1 --mount=type=secret,id=way2 --mount=type=secret,id=way3 \
             --mount=type=secret,id=way4 --mount=type=secret,id=WAY5 --mount=type=secret,id=way6 \
             for way in way1 way2 way3 way4 WAY5 way6; do \
             test \"$(sha256sum < /run/secrets/$way)\" = \"$SUM  -\" || exit 1; done\n\
         RUN --mount=type=secret,id=absent test ! -e /run/secrets/absent\n\
         RUN test ! -s /root/.npmrc && test ! -s /run/secrets/npm && test -z \"$WORD\"\n",
        nonce()
    ))
    .file(".dockerignore", "npmrc\nway6\n")
    .file("npmrc", &value)
    .file("way6", &value);
    let file = context.path().join("npmrc");
    let (npm, sum) = (given(file.to_str().unwrap()), format!("SUM={}", Digest::of(value.as_bytes()).hex()));
    let tag = format!("{}:1", repository("secrets"));
    let args = ["submit", context.text(), "-t", &tag, "--platform", "linux/amd64", "--build-arg", &sum];
    let more = ["--provenance=mode=max", "--secret", &npm, "--secret", "id=word,env=FARM_TEST_WORD"];
    // As buildx's documentation has them, beside these two; an id alone is a variable, or else a file here.
    let (source, typed) =
        (format!("id=way1,source={}", file.display()), format!("type=file,id=way2,src={}", file.display()));
    let ways = [
        source.as_str(),
        typed.as_str(),
        "type=env,id=way3,env=FARM_TEST_WORD",
        "type=env,id=way4,src=FARM_TEST_WORD",
        "id=WAY5",
        "id=way6",
    ];
    let ways: Vec<&str> = ways.into_iter().flat_map(|way| ["--secret", way]).collect();
    let mut command = farm.command(&[&args[..], &more, &ways].concat());
    command.current_dir(context.path()).env("FARM_TEST_WORD", &value).env("WAY5", &value);
    let built = farm_tests::farm::output(&mut command);
    let id = build_id(&built.ok());
    let record = show(&farm, &id);
    assert_eq!(record["state"], "succeeded");
    assert!(!record.to_string().contains(&value), "{record:#}");

    // What was given is erased, and a retry says what it needs.
    let again = farm.cli(&["retry", &id]);
    refused(&again, 2, &["secret npm", "secret word", "erased", &format!("farm retry {id} --secret id=")]);
    let all = ["npm", "word", "way1", "way2", "way3", "way4", "WAY5", "way6"];
    let all = all.map(|id| given(file.to_str().unwrap()).replace("npm,", &format!("{id},")));
    let all: Vec<&str> = all.iter().flat_map(|one| ["--secret", one.as_str()]).collect();
    farm.cli(&[&["retry", id.as_str()][..], &all].concat()).ok();
}

#[test]
fn what_is_required_and_was_not_given_is_told_with_its_cure() {
    let farm = covered();
    let context = Context::new(&format!(
        "FROM {BASE}\nRUN --mount=type=secret,id=npm,required=true cat /run/secrets/npm # {}\n",
        nonce()
    ));
    let failed = submit(&farm, &context, &AMD64);
    assert_eq!(failed.status, 1, "{failed:?}");
    says(&failed.stdout, &["requires the secret npm", "--secret id=npm,src=FILE"]);
    let failure = &show(&farm, &build_id(&failed.stdout))["failure"];
    assert_eq!((&failure["cause"], &failure["code"]), (&"user".into(), &"secret_missing".into()));
}

#[test]
fn a_replacement_gets_them_again_after_its_worker_is_lost() {
    let spec = |name: &str| WorkerSpec::new(name).platforms("linux/amd64");
    let mut farm = Farm::builder().tls().config(QUICK_LEASES).worker(spec("w1")).worker(spec("w2")).start();
    let gate = Gate::new();
    let step = gate.step().replace("RUN ", "RUN --mount=type=secret,id=npm,required=true ");
    let context = Context::new(&format!("FROM {BASE}\n{step}")).with_gate().file("npmrc", "hunter22");
    let npm = given(context.path().join("npmrc").to_str().unwrap());
    let mut cli =
        farm.cli_spawn("submit", &["submit", context.text(), "--platform", "linux/amd64", "--secret", &npm]);
    let first = gate.arrival();
    let id = build_id(&cli.output());
    let lost = show(&farm, &id)["platforms"][0]["worker"].as_str().unwrap().to_owned();
    farm.kill_worker(&lost);
    first.wait_killed(LONG);
    gate.arrival().open();
    assert_eq!(cli.wait_exit(LONG).code(), Some(0), "{}", cli.tail());
    let record = show(&farm, &id);
    assert_eq!(record["platforms"][0]["attempts"], 2, "{record:#}");
    assert_ne!(record["platforms"][0]["worker"], lost.as_str());
}

/// `farm secret set npm`, with the value on standard input.
fn set(farm: &Farm, value: &[u8], args: &[&str]) -> Output {
    let mut command = farm.command(&[&["secret", "set", "npm"][..], args].concat());
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // One that refuses before it reads has gone.
    let _ = child.stdin.take().unwrap().write_all(value);
    let ended = child.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Output { status: ended.status.code().unwrap(), stdout: text(&ended.stdout), stderr: text(&ended.stderr) }
}

/// What whoever runs the farm does with its keys.
fn keys(farm: &Farm, args: &[&str]) -> String {
    let mut command = program("farm-coordinator");
    command
        .args(["--database-url", farm.database_url(), "--state-dir"])
        .arg(farm.folder().join("coordinator"));
    output(command.arg("keys").args(args)).ok()
}

#[test]
fn a_projects_secret_is_set_used_shown_and_removed_and_never_told() {
    let farm = covered();
    let value = Planted::new("npm-");
    let sum = format!("SUM={}", Digest::of(value.value()).hex());
    let context = Context::new(&format!(
        "FROM {BASE}\nARG SUM\nRUN --mount=type=secret,id=npm,required=true \
             test \"$(sha256sum < /run/secrets/npm)\" = \"$SUM  -\" # {}\n",
        nonce()
    ));
    let from_project = ["--platform", "linux/amd64", "--build-arg", &sum, "--secret", "id=npm,from=project"];
    refused(
        &submit(&farm, &context, &from_project),
        2,
        &["project default has no secret npm", "farm secret set npm"],
    );

    let made = set(&farm, value.value(), &[]).ok();
    assert_eq!(made, "secret npm of project default is set (version 1); used by: builder\n");
    let built = submit(&farm, &context, &from_project);
    let id = build_id(&built.clone().ok());
    says(&farm.cli(&["show", &id]).ok(), &["secret npm (project, version 1)"]);
    fits("build", &farm.cli(&["show", &id, "--json"]).ok());
    let record = show(&farm, &id);
    let [npm] = &record["secrets"].as_array().unwrap()[..] else { panic!("{record:#}") };
    assert_eq!(
        (&npm["id"], &npm["project_secret"], &npm["version"]),
        (&"npm".into(), &"npm".into(), &1.into())
    );
    let ls = farm.cli(&["secret", "ls"]).ok();
    says(&ls, &["NAME  VERSION  SET", "npm   1", &id, "builder"]);
    fits("project-secrets", &farm.cli(&["secret", "ls", "--json"]).ok());
    assert_eq!(
        farm.cli(&["secret", "ls", "--format", "{{ name }} {{ last_used_build }}"]).ok(),
        format!("npm {id}\n")
    );

    // A new value is warned of where it may not be as it was meant; a retry takes it.
    let anew = set(&farm, b"12\n", &["--role", "publisher", "--event", "push", "--event", "manual"]);
    says(&anew.stderr, &["warning: 3 bytes are too few", "warning: the line break at the end"]);
    assert_eq!(
        anew.ok(),
        "secret npm of project default is set (version 2); used by: publisher, by manual or push\n"
    );
    let own = farm.cli(&["retry", &id, "--secret", "id=npm,from=project"]);
    refused(&own, 2, &["--secret", "takes the project's secrets by itself"]);
    let again = farm.cli(&["retry", &id]);
    assert_eq!(show(&farm, &build_id(&again.clone().ok()))["secrets"][0]["version"], 2);
    let ruled = farm.cli(&["secret", "rule", "npm", "--ref", "refs/heads/main", "--event", "none"]).ok();
    assert_eq!(ruled, "secret npm of project default is used by: publisher, jobs of refs/heads/main\n");
    refused(&farm.cli(&["retry", &id]), 3, &["admin may not use secret npm", "--event manual"]);
    refused(&farm.cli(&["secret", "rule", "npm"]), 2, &["say what to change"]);
    refused(&set(&farm, b"", &[]), 2, &["its value is empty"]);
    let removed = farm.cli(&["secret", "rm", "npm"]).ok();
    assert_eq!(
        removed,
        "secret npm of project default is removed; builds that were accepted with it go on\n"
    );
    refused(&farm.cli(&["secret", "rm", "npm"]), 2, &["project default has no secret npm"]);
    says(&farm.cli(&["secret", "ls"]).ok(), &["project default keeps no secrets yet: farm secret set NAME"]);
    value.is_not_in("what was said", format!("{built:?} {record:#} {ls} {again:?}"));
    assert!(value.is_not_below(farm.folder()) > 5);
}

#[test]
fn nothing_is_lost_when_the_farms_key_changes_while_builds_run() {
    let farm = covered();
    let value = Planted::new("npm-");
    set(&farm, value.value(), &[]).ok();
    let sum = format!("SUM={}", Digest::of(value.text().repeat(2).as_bytes()).hex());
    let context = Context::new(&format!(
        "FROM {BASE}\nARG SUM\nARG N\n\
         RUN --mount=type=secret,id=npm,required=true --mount=type=secret,id=own,required=true \
             test \"$(cat /run/secrets/npm /run/secrets/own | sha256sum)\" = \"$SUM  -\" # $N {}\n",
        nonce()
    ))
    .file("own", value.text());
    let own = format!("id=own,src={}", context.path().join("own").display());
    let builds = 6;
    for n in 0..builds {
        let number = format!("N={n}");
        let args = ["--detach", "--platform", "linux/amd64", "--build-arg", &sum, "--build-arg", &number];
        let secrets = ["--secret", "id=npm,from=project", "--secret", &own];
        submit(&farm, &context, &[&args[..], &secrets].concat()).ok();
        keys(&farm, &["rotate"]);
        // The next build takes what was set while the keys changed.
        set(&farm, value.value(), &[]).ok();
    }
    let mut rotations = builds;
    let states = until("all builds to end", LONG, || {
        keys(&farm, &["rotate"]);
        rotations += 1;
        let listed = farm.cli(&["builds", "--json"]).json();
        let states: Vec<String> =
            listed["builds"].as_array().unwrap().iter().map(|build| build["state"].to_string()).collect();
        let is_final =
            |state: &String| ["\"succeeded\"", "\"failed\"", "\"cancelled\""].contains(&state.as_str());
        states.iter().all(is_final).then_some(states)
    });
    assert_eq!(states, vec!["\"succeeded\""; builds]);
    // All that is left is sealed by the newest, and an older one is needed for nothing.
    let newest = until("everything to be sealed anew", Duration::from_secs(20), || {
        let listed = keys(&farm, &["ls"]);
        let rows: Vec<Vec<&str>> =
            listed.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
        assert!(rows.len() == rotations + 1 && !listed.contains("missing"), "{listed}");
        let older = rows[1..].iter().all(|row| row.last() == Some(&"0"));
        (older && rows[0][1..] == ["yes", "1"]).then(|| rows[0][0].to_owned())
    });
    let file = farm.folder().join("coordinator/keys");
    let kept = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, kept.lines().next().unwrap()).unwrap();
    assert!(keys(&farm, &["ls"]).contains(&newest));
    let args = ["--platform", "linux/amd64", "--build-arg", &sum, "--build-arg", "N=last"];
    let secrets = ["--secret", "id=npm,from=project", "--secret", &own];
    submit(&farm, &context, &[&args[..], &secrets].concat()).ok();
}

#[test]
fn without_tls_none_are_sent_and_what_is_mistyped_is_told_before() {
    let farm = small_farm();
    let context = Context::new("FROM scratch\n").file("npmrc", "hunter22");
    let npm = given(context.path().join("npmrc").to_str().unwrap());
    let open = submit(&farm, &context, &["--secret", &npm]);
    refused(&open, 2, &["secrets aren't sent to http://127.0.0.1:", "farm login https://"]);
    let lacking = submit(&farm, &context, &["--secret", "id=npm,src=/nowhere"]);
    refused(&lacking, 2, &["--secret", "there is no file /nowhere", "env=NAME"]);
    assert_eq!(builds(&farm), 0);
    refused(&set(&farm, b"hunter22", &[]), 2, &["secrets aren't sent to http://127.0.0.1:"]);
    // Which the farm sees to as well.
    let mut insecure = farm.command(&["submit", context.text(), "--secret", &npm]);
    let told = farm_tests::farm::output(insecure.env("FARM_INSECURE_HTTP", "1"));
    assert_ne!(told.status, 0, "{told:?}");
    says(&told.stderr, &["without TLS", "--insecure-secrets"]);
    assert_eq!(builds(&farm), 0);
}

#[test]
fn what_is_typed_at_the_question_is_not_shown_and_the_terminal_is_left_as_it_was() {
    let farm = Farm::builder().tls().start();
    let ask = || {
        let terminal = Terminal::run_like(&farm.command(&["secret", "set", "npm"]), 100, 24, &[]);
        terminal.shows("Value of secret npm:");
        assert!(!terminal.echoes());
        terminal
    };
    let value = Planted::new("npm-");
    let mut typed = ask();
    typed.press(format!("{}\r", value.text()).as_bytes());
    assert_eq!(typed.end(), 0, "{}", typed.raw());
    typed.shows("secret npm of project default is set (version 1)");
    value.is_not_in("the terminal", typed.raw());
    assert!(typed.echoes() && !typed.raw().contains("warning"), "{}", typed.raw());
    // The line break is none of it.
    let mut short = ask();
    short.press(b"12345\r");
    assert_eq!(short.end(), 0, "{}", short.raw());
    short.shows("warning: 5 bytes are too few");
    short.shows("is set (version 2)");
    assert!(!short.raw().contains("12345"), "{}", short.raw());
    let mut left = ask();
    left.press(b"hunter2\x03");
    assert_eq!(left.end(), 130, "{}", left.raw());
    left.shows("nothing was changed");
    assert!(left.echoes() && !left.raw().contains("hunter2"), "{}", left.raw());
    assert_eq!(farm.cli(&["secret", "ls", "--format", "{{ version }}"]).ok(), "2\n");
}

#[test]
fn what_steps_print_of_them_is_masked_however_it_is_cut_and_what_cannot_be_is_told() {
    let farm = covered();
    let value = format!("hunter2-{}", nonce());
    let context = Context::new(&format!(
        "FROM {BASE}\n\
         RUN --mount=type=secret,id=npm echo \"plain $(cat /run/secrets/npm)\"; base64 < /run/secrets/npm; \
             for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do \
                 head -c $i /run/secrets/npm | tail -c 1; sleep 0.02; done; echo \" piece by piece\"; \
             echo short $(cat /run/secrets/pin) # {}\n\
         RUN --mount=type=secret,id=npm echo failed with $(cat /run/secrets/npm) >&2; exit 3\n",
        nonce()
    ))
    .file("npmrc", &value)
    .file("pin", "1234");
    let at = |name: &str| context.path().join(name).display().to_string();
    let (npm, pin) = (given(&at("npmrc")), format!("id=pin,src={}", at("pin")));
    let failed = submit(&farm, &context, &["--platform", "linux/amd64", "--secret", &npm, "--secret", &pin]);
    assert_eq!(failed.status, 1, "{failed:?}");
    says(&failed.stdout, &["plain ***", "*** piece by piece", "failed with ***", "secret pin is not masked"]);
    let id = build_id(&failed.stdout);
    let base64 = {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(&value)
    };
    let log = farm.cli(&["logs", &id, "--json"]).ok() + &show(&farm, &id).to_string() + &failed.stdout;
    for form in [value.as_str(), &base64[..16], &value[8..]] {
        assert!(!log.contains(form), "{form} is in:\n{log}");
    }
}

#[test]
fn what_is_pasted_in_several_lines_is_not_taken_and_none_of_it_goes_to_the_shell() {
    let farm = Farm::builder().tls().start();
    let like = farm.command(&["secret", "set", "deploy"]);
    let mut shell = std::process::Command::new("/bin/bash");
    shell.args(["-c", r#""$0" "$@"; echo "ended:$?"; read -r -t 1 line; echo "left:[$line]""#]);
    shell.arg(like.get_program()).args(like.get_args());
    shell.envs(like.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let key = ["-----BEGIN OPENSSH ", "PRIVATE KEY-----\rrm -rf hunter2\rand the last"].concat();
    for pasted in
        ["first hunter2\rrm -rf hunter2\r", "first hunter2\rand hunter2", &key, &"hunter2".repeat(1000)]
    {
        let mut terminal = crate::terminal::Terminal::run_like(&shell, 200, 24, &[]);
        terminal.shows("Value of secret deploy:");
        terminal.press(pasted.as_bytes());
        if pasted.starts_with("hunter2") {
            terminal.press(b"\r");
        }
        terminal
            .shows("nothing was taken: name the file that has the value: farm secret set deploy --file FILE");
        terminal.shows("ended:2");
        terminal.shows("left:[]");
        assert_eq!(terminal.end(), 0);
        assert!(!terminal.raw().contains("hunter2"), "{}", terminal.raw());
    }
    // A line break too many does no harm.
    let mut terminal = crate::terminal::Terminal::run_like(&like, 200, 24, &[]);
    terminal.shows("Value of secret deploy:");
    terminal.press(b"hunter2-of-one-line\r\r");
    terminal.shows("secret deploy of project default is set (version 1)");
    assert_eq!(terminal.end(), 0);
}
