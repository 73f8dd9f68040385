//! The guide for teams, run as it is written.

use farm_tests::farm::{Farm, Output, binary, output};

use crate::guide::{Kind, blocks};
use crate::support::*;

const GUIDE: &str = include_str!("../../../docs/guide/team.md");

#[test]
fn the_guide_for_teams_does_what_it_says() {
    // Secrets go over no other connection than one with TLS; here all are on this machine.
    let farm = with_worker(Farm::builder().arg("--insecure-secrets"));
    let context = Context::new(&format!("FROM {BASE}\nRUN echo {}\n", nonce()));
    std::fs::write(context.path().join("npm.token"), nonce()).unwrap();
    let homes = Context::empty();
    let programs = binary("farm").parent().unwrap().display().to_string();
    let path = format!("{programs}:{}", std::env::var("PATH").unwrap());
    let repository = repository("web");
    let as_person = |who: &str, script: &str| -> Output {
        let script = script.replace("https://farm.example", &farm.url());
        let script = script.replace("localhost:5002/web", &repository);
        let home = homes.path().join(who);
        std::fs::create_dir_all(&home).unwrap();
        let mut shell = farm_tests::environment::command("sh");
        shell.args(["-euc", &script]).current_dir(context.path()).env("HOME", home).env("PATH", &path);
        shell.env("FARM_INSECURE_HTTP", "1");
        if who == "admin" {
            shell.env("FARM_URL", farm.url()).env("FARM_TOKEN_FILE", farm.token_file());
        }
        output(&mut shell)
    };
    let blocks = blocks(GUIDE);
    assert!(blocks.len() > 12, "{blocks:?}");
    for (place, block) in blocks.iter().enumerate() {
        let (Kind::Commands(who), script) = (block.kind, block.text) else { panic!("{block:?}") };
        let said = as_person(who, script);
        assert_eq!(said.status, 0, "block {place}, by {who}:\n{script}\n{said:?}");
        if script.starts_with("farm member set bob") {
            says(
                &said.stdout,
                &["ada     person  admin", "bob     person  builder", "carol   person  viewer"],
            );
        }
        if script.contains("whoami") && who == "machine" {
            says(&said.stdout, &["w-arm1, on machine w-arm1, pool arm, trusted", "a certificate until"]);
        }
        if script.contains("cat bob.token") {
            says(&said.stdout, &["of bob is revoked, with 1 that was made with it"]);
        }
    }
    // What it says in between.
    let carol = format!("FARM_URL={} FARM_TOKEN=\"$(cat carol.token)\" farm submit .", farm.url());
    says(
        &as_person("carol", &carol).stderr,
        &["refuses: carol is viewer of project web; to submit builds needs builder"],
    );
    let list = "farm builds --project web --json";
    assert_eq!(as_person("admin", list).json()["builds"].as_array().unwrap().len(), 4);
    assert!(raw(&format!("{repository}:latest")).is_some());
    until("refusal", std::time::Duration::from_secs(5), || {
        (as_person("bob", "farm builds").status == 3).then_some(())
    });
}
