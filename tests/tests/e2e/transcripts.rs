//! What every verb says, as it is written down in `tests/transcripts/`: its help, a success, a mistake.
//!
//! `[..]` stands for what is different each time. After a change on purpose: `TRYCMD=overwrite tests/run.sh e2e transcripts`,
//! then put the `[..]` back and read the difference.

use std::path::Path;

use farm_tests::bed::Bed;
use farm_tests::farm::{Farm, WorkerSpec, binary};

use crate::support::*;

#[test]
fn what_every_verb_says_is_as_it_is_written_down() {
    let farm = Farm::builder().worker(WorkerSpec::new("w1").platforms(BOTH).slots(4)).start();
    let bed = Bed::from_env();
    let folder = bed.folder("transcripts");
    let context = |name: &str, dockerfile: String| {
        let at = folder.path().join(name);
        std::fs::create_dir(&at).unwrap();
        std::fs::write(at.join("Dockerfile"), dockerfile).unwrap();
    };
    context("app", format!("FROM {BASE}\nRUN echo hello\n"));
    context("broken", format!("FROM {BASE}\nRUN echo oh no; exit 3\n"));
    context("old", format!("FROM {BASE}\nMAINTAINER me\n"));
    context("syntax", "FROM\n".to_owned());
    let rules = "version: 1\nimages:\n  base:\n    on: [push]\n    paths: [base]\n  web:\n    on:\n      push: {branches: [main]}\n    needs: [base]\n    \
                 destinations: [r.example/web]\n    tags: [\"{branch}\", latest]\n";
    std::fs::write(folder.path().join(".farm.yaml"), rules).unwrap();
    std::fs::write(
        folder.path().join("wrong.yaml"),
        rules.replace("branches: [main]", "branch: main").replace("{branch}", "{branc}"),
    )
    .unwrap();
    let base = Context::new(&format!("FROM {BASE}\nENTRYPOINT [\"uname\"]\n"));
    submit(
        &farm,
        &base,
        &["-t", "localhost:5002/transcripts/base:1", "--platform", "linux/amd64,linux/arm64"],
    )
    .ok();
    // What the engine then has in its cache is told as such.
    for name in ["app", "old"] {
        farm.cli(&[
            "submit",
            folder.path().join(name).to_str().unwrap(),
            "--platform",
            "linux/amd64,linux/arm64",
        ])
        .ok();
    }
    let home = folder.path().join("home");
    std::fs::create_dir(&home).unwrap();
    std::env::set_current_dir(folder.path()).unwrap();

    let cases = trycmd::TestCases::new();
    cases.register_bin("farm", binary("farm"));
    cases.env("FARM_URL", farm.url()).env("FARM_TOKEN_FILE", farm.token_file().to_str().unwrap());
    cases.env("HOME", home.to_str().unwrap()).env("NO_COLOR", "1");
    cases.insert_var("[FARM]", farm.url()).unwrap();
    cases.insert_var("[HOME]", home.to_str().unwrap().to_owned()).unwrap();
    cases.case(Path::new(env!("CARGO_MANIFEST_DIR")).join("transcripts/*.md"));
    cases.run();
}
