//! `--ssh`: steps that use keys, or the agent of whoever waits, at a server that asks for them.

use std::process::Command;

use farm_tests::farm::{Farm, WorkerSpec, output};
use farm_tests::process::{Child, run};

use crate::gate::Gate;
use crate::ssh_server::{SshAgent, SshServer};
use crate::support::*;

const AMD64: [&str; 2] = ["--platform", "linux/amd64"];

/// A farm whose connections have TLS, as keys go over no others.
fn covered() -> Farm {
    // Its repositories are on loopback.
    let worker = WorkerSpec::new("w1").platforms(BOTH).slots(2).arg("--fetch-from").arg("127.0.0.1");
    Farm::builder().tls().worker(worker).start()
}

/// A step in which the server must answer `expected` to whoever has this id's key.
fn asks(id: &str, port: u16, expected: &str) -> String {
    format!(
        "RUN --mount=type=ssh,id={id},required=true test \"$(python3 /ssh/ssh.py {port} x)\" = {expected}\n"
    )
}

#[test]
fn steps_log_in_with_keys_of_every_kind_and_a_private_repository_is_cloned() {
    let farm = covered();
    let server = SshServer::start();
    let word = nonce();
    let (key, repository) = server.repository(&word);
    let kinds: [(&str, &[&str]); 7] = [
        ("p256", &["-t", "ecdsa", "-b", "256"]),
        ("p384", &["-t", "ecdsa", "-b", "384"]),
        ("rsa", &["-t", "rsa", "-b", "2048"]),
        ("rsa3072", &["-t", "rsa", "-b", "3072"]),
        ("pkcs1", &["-t", "rsa", "-b", "2048", "-m", "PEM"]),
        ("pkcs8", &["-t", "rsa", "-b", "2048", "-m", "PKCS8"]),
        ("sec1", &["-t", "ecdsa", "-b", "384", "-m", "PEM"]),
    ];
    let mut steps = format!(
        "FROM {BASE}\nCOPY ssh /ssh\nADD {repository} /src\nRUN test \"$(cat /src/file)\" = {word}\n"
    );
    let mut flags = vec![format!("default={key}")];
    for (name, kind) in kinds {
        let key = server.key(name, kind, &format!("echo {word}-{name}"));
        steps.push_str(&asks(name, server.port, &format!("{word}-{name}")));
        flags.push(format!("{name}={key}"));
    }
    // The first one that the server knows counts, and nothing of all that is left in the image.
    let both = format!("both={},{}", server.path("p256").display(), server.path("rsa").display());
    flags.push(both);
    steps.push_str(&asks("both", server.port, &format!("{word}-p256")));
    steps.push_str(
        "RUN --mount=type=ssh,id=both,target=/agent,mode=0660,uid=7,gid=8 \
             test \"$(stat -c '%a %u %g' /agent)\" = '660 7 8' && test \"$SSH_AUTH_SOCK\" = /agent\n\
         RUN --mount=type=ssh,id=absent test ! -S \"$SSH_AUTH_SOCK\"\n\
         RUN test -z \"$SSH_AUTH_SOCK\" && test ! -S /agent\n",
    );
    let context = Context::new(&steps).with_ssh();
    let mut args = AMD64.to_vec();
    flags.iter().for_each(|flag| args.extend(["--ssh", flag]));
    let id = build_id(&submit(&farm, &context, &args).ok());
    let record = show(&farm, &id);
    assert_eq!(record["state"], "succeeded");
    let log = farm.cli(&["logs", &id]).ok();
    assert!(!format!("{record} {log}").contains("PRIVATE"), "{record:#}\n{log}");

    // What was given is erased, and a retry says what it needs.
    let again = farm.cli(&["retry", &id]);
    refused(&again, 2, &["ssh both", "ssh default", "erased", "--ssh p256=KEYFILE"]);
    let mut args = vec!["retry", &id];
    flags.iter().for_each(|flag| args.extend(["--ssh", flag]));
    farm.cli(&args).ok();
}

#[test]
fn what_is_required_and_was_not_given_or_can_not_be_used_is_told_with_its_cure() {
    let farm = covered();
    let context =
        Context::new(&format!("FROM {BASE}\nRUN --mount=type=ssh,required=true true # {}\n", nonce()));
    let failed = submit(&farm, &context, &AMD64);
    assert_eq!(failed.status, 1, "{failed:?}");
    says(&failed.stdout, &["requires ssh default", "--ssh default=KEYFILE"]);
    let failure = &show(&farm, &build_id(&failed.stdout))["failure"];
    assert_eq!((&failure["cause"], &failure["code"]), (&"user".into(), &"secret_missing".into()));

    // Keys as ssh-keygen makes them, and what is no use of it.
    let folder = farm_tests::bed::Bed::from_env().folder("keys");
    let key = |name: &str, arguments: &[&str]| {
        let file = folder.path().join(name).display().to_string();
        let mut keygen: Command = farm_tests::environment::command("ssh-keygen");
        run(keygen.args(["-q", "-f", &file]).args(arguments));
        format!("default={file}")
    };
    let good = key("good", &["-N", ""]);
    for (flag, told) in [
        (key("locked", &["-N", "correct horse"]), "ssh-add"),
        (key("locked-rsa", &["-N", "correct horse", "-t", "rsa", "-b", "2048", "-m", "PEM"]), "ssh-add"),
        (key("large", &["-N", "", "-t", "ecdsa", "-b", "521"]), "nistp521 keys aren't taken"),
        (format!("{good}.pub"), "public key"),
    ] {
        refused(&submit(&farm, &context, &["--ssh", &flag]), 2, &["--ssh", told]);
    }
    let builds_before = builds(&farm);
    let open = small_farm();
    refused(&submit(&open, &context, &["--ssh", &good]), 2, &["aren't sent to http://127.0.0.1:"]);
    assert_eq!((builds(&open), builds(&farm)), (0, builds_before));
    let mut insecure = open.command(&["submit", context.text(), "--ssh", &good]);
    let told = output(insecure.env("FARM_INSECURE_HTTP", "1"));
    assert_ne!(told.status, 0, "{told:?}");
    says(&told.stderr, &["without TLS"]);
}

/// What a step does to its agent by Python: sends messages, and prints the kinds of the answers.
const TALK: &str = r#"import os, socket, struct, sys
agent = socket.socket(socket.AF_UNIX)
agent.connect(os.environ["SSH_AUTH_SOCK"])
for message in sys.argv[1:]:
    message = bytes.fromhex(message)
    agent.sendall(struct.pack(">I", len(message)) + message)
    length, = struct.unpack(">I", agent.recv(4, socket.MSG_WAITALL))
    print(agent.recv(length, socket.MSG_WAITALL)[0], end=" ")
"#;

#[test]
fn an_agent_signs_for_steps_through_whichever_coordinator_is_there_and_nothing_else_is_done_by_it() {
    let spec = |name: &str| {
        WorkerSpec::new(name).platforms("linux/amd64").coordinator(1).arg("--fetch-from").arg("127.0.0.1")
    };
    let farm = Farm::builder().tls().coordinators(2).config(QUICK_LEASES);
    let mut farm = farm.worker(spec("w1")).worker(spec("w2")).start();
    let server = SshServer::start();
    let word = nonce();
    let (key, repository) = server.repository(&word);
    // Also one of a kind that farm itself doesn't take: it only has to be the agent's.
    let large = server.key("p521", &["-t", "ecdsa", "-b", "521"], &format!("echo {word}-p521"));
    let (agent, other) = (SshAgent::start(&[&key]), SshAgent::start(&[&large]));
    let gate = Gate::new();
    let (ssh, talk) = (asks("large", server.port, &format!("{word}-p521")), "RUN --mount=type=ssh test");
    // 11: keys; 17, 18, 19, 22: add, remove, remove all, lock; 27: an extension.
    let messages = "0b 110000000b 12 13 1600000000 1b0000000571756572790b 0b";
    let context = Context::new(&format!(
        "FROM {BASE}\nCOPY ssh /ssh\nCOPY talk.py /\n\
         {talk} \"$(python3 /talk.py {messages})\" = '12 5 5 5 5 5 12 '\n\
         ADD {repository} /src\nRUN test \"$(cat /src/file)\" = {word}\n{ssh}{}{}",
        gate.step(),
        ssh.replace(" x)", " again)")
    ));
    let context = context.with_gate().with_ssh().file("talk.py", TALK);
    let large = format!("large={}", other.socket);
    let args = ["submit", context.text(), "--platform", "linux/amd64", "--ssh", "default", "--ssh", &large];
    let urls = farm.urls();
    let mut command = farm.command_by(&urls, &args);
    command.env("SSH_AUTH_SOCK", &agent.socket);
    let mut cli = Child::spawn("submit", &command, farm.folder());
    let step = gate.arrival();
    // All of the above went from one coordinator to the other. Now that one dies, the command goes to the other, and another worker asks.
    let show = ["show", &build_id(&cli.output()), "--json"];
    let record = output(&mut farm.command_by(&farm.url_of(1), &show)).json();
    farm.kill_coordinator_at(0);
    farm.kill_worker(record["platforms"][0]["worker"].as_str().unwrap());
    step.wait_killed(LONG);
    gate.arrival().open();
    assert_eq!(cli.wait_exit(LONG).code(), Some(0), "{}", cli.tail());
    for (agent, name) in [(&agent, "git"), (&other, "p521")] {
        let keys = run(&mut agent.add(&["-l"]));
        assert!(keys.lines().count() == 1 && keys.contains(name), "{keys}");
    }
}

#[test]
fn a_step_whose_agent_has_left_fails_and_says_so_and_a_retry_offers_another() {
    let farm = with_worker(Farm::builder().tls().config("[limits]\nagent_away_seconds = 5\n"));
    let server = SshServer::start();
    let word = nonce();
    let key = server.key("key", &["-t", "ed25519"], &format!("echo {word}"));
    let agent = SshAgent::start(&[&key]);
    let gate = Gate::new();
    let steps = format!("FROM {BASE}\nCOPY ssh /ssh\n{}{}", gate.step(), asks("default", server.port, &word));
    let context = Context::new(&steps).with_gate().with_ssh();
    let args = ["submit", context.text(), "--platform", "linux/amd64", "--ssh", "default"];
    let by_agent = |args: &[&str]| {
        let mut command = farm.command(args);
        command.env("SSH_AUTH_SOCK", &agent.socket);
        command
    };
    let detached = output(&mut by_agent(&[&args[..], &["--detach"]].concat()));
    refused(&detached, 2, &["--ssh", "with --detach nobody is there", "--ssh default=KEYFILE"]);
    let unset = farm.cli(&args);
    refused(&unset, 2, &["SSH_AUTH_SOCK isn't set"]);
    assert_eq!(builds(&farm), 0);

    let mut cli = Child::spawn("submit", &by_agent(&args), farm.folder());
    let step = gate.arrival();
    let id = build_id(&cli.output());
    cli.kill9();
    step.open();
    let ended = farm.cli(&["attach", &id]);
    assert_eq!(ended.status, 1, "{ended:?}");
    says(&ended.stdout, &["the ssh agent default", "--ssh default=KEYFILE"]);
    let failure = &show(&farm, &id)["failure"];
    assert_eq!((&failure["cause"], &failure["code"]), (&"user".into(), &"agent_away".into()));
    assert_eq!(show(&farm, &id)["platforms"][0]["attempts"], 1);

    refused(
        &farm.cli(&["retry", &id]),
        2,
        &["asks the ssh agent default", &format!("farm retry {id} --ssh default")],
    );
    let again = output(&mut by_agent(&["retry", &id, "--ssh", "default"]));
    assert_eq!(again.status, 0, "{again:?}");
}
