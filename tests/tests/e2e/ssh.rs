//! `--ssh`: steps that use keys, or the agent of whoever waits, at a server that asks for them.

use std::process::Command;

use farm_tests::farm::{Farm, output};

use crate::ssh_server::SshServer;
use crate::support::*;

const AMD64: [&str; 2] = ["--platform", "linux/amd64"];

/// A farm whose connections have TLS, as keys go over no others.
fn covered() -> Farm {
    with_worker(Farm::builder().tls())
}

/// A step in which the server must answer `expected` to whoever has this id's key.
fn asks(id: &str, port: u16, expected: &str) -> String {
    format!("RUN --mount=type=ssh,id={id},required=true test \"$(python3 /ssh/ssh.py {port} x)\" = {expected}\n")
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
    let mut steps = format!("FROM {BASE}\nCOPY ssh /ssh\nADD {repository} /src\nRUN test \"$(cat /src/file)\" = {word}\n");
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
         RUN --mount=type=ssh,id=absent test -z \"$SSH_AUTH_SOCK\"\n\
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
    let context = Context::new(&format!("FROM {BASE}\nRUN --mount=type=ssh,required=true true # {}\n", nonce()));
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
        farm_tests::process::run(keygen.args(["-q", "-f", &file]).args(arguments));
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
