//! Build arguments that look like secrets: where a real engine shows them, and to whom farm does.

use std::process::Command;

use farm_proto::v1::WatchBuildRequest;
use farm_tests::client::Client;
use farm_tests::farm::output;

use crate::support::*;

const AMD64: [&str; 2] = ["--platform", "linux/amd64"];

/// As BuildKit has it: `mode=min` leaves build arguments out.
#[test]
fn what_looks_like_a_secret_is_warned_of_and_stands_in_no_provenance_but_that_of_mode_max() {
    let farm = small_farm();
    let context = Context::new(&format!("FROM {BASE}\nARG NPM_TOKEN\nLABEL n={}\n", nonce()));
    let value = format!("hunter2-{}", nonce());
    let arg = format!("NPM_TOKEN={value}");
    for (mode, holds) in [("min", false), ("max", true)] {
        let tag = format!("{}:1", repository(mode));
        let provenance = format!("--provenance=mode={mode}");
        let args = [&AMD64[..], &["-t", &tag, &provenance, "--build-arg", &arg, "-q"]].concat();
        // Also where nothing else is said.
        let said = submit(&farm, &context, &args);
        assert!(said.stderr.starts_with("warning  --build-arg NPM_TOKEN looks like a secret"), "{said:?}");
        assert_eq!(said.stderr.contains("provenance (mode=max)"), holds, "{said:?}");
        assert_eq!((said.stderr.lines().count(), said.stderr.contains(&value)), (1, false), "{said:?}");
        assert!(said.ok().starts_with("sha256:"));
        let mut inspect = Command::new("docker");
        inspect.args(["buildx", "imagetools", "inspect", "--format", "{{json .Provenance}}", &tag]);
        let provenance = output(&mut inspect).ok();
        says(&provenance, &["\"SLSA\""]);
        assert_eq!(provenance.contains(&value), holds, "{provenance}");
    }
}

/// What engines say has values in it: names of steps, and the outline of a Dockerfile.
#[tokio::test(flavor = "multi_thread")]
async fn what_engines_say_of_them_is_not_for_viewers() {
    let farm = small_farm();
    farm.cli(&["member", "set", "vera", "--role", "viewer"]).ok();
    let vera = farm.cli(&["token", "create", "--for", "vera"]).ok();
    let context =
        Context::new(&format!("FROM {BASE}\nARG NPM_TOKEN\nRUN : {} $NPM_TOKEN; exit 3\n", nonce()));
    // What JSON, as the engine writes it, has in another form.
    let value = format!("hunter2&{}", nonce());
    let arg = format!("NPM_TOKEN={value}");
    let args = [&AMD64[..], &["--build-arg", &arg]].concat();
    let failed = submit(&farm, &context, &args);
    assert_eq!(failed.status, 1, "{failed:?}");
    let asked = submit(&farm, &context, &[&args[..], &["--call", "outline"]].concat());
    says(&asked.ok(), &[&value]);
    let ids = farm.cli(&["builds", "--format", "{{ id }}"]).ok();
    let ids: Vec<&str> = ids.lines().collect();
    let [question, build] = ids[..] else { panic!("{ids:?}") };
    let (mut admin, mut vera) = (Client::connect(&farm).await, Client::with_token(&farm, vera.trim()).await);
    // In a step's name, and in JSON within what Rust prints.
    let places = [(build, format!(" {value}; exit 3")), (question, value.replace('&', "\\\\u0026"))];
    for (id, place) in places {
        says(&told(&mut admin, id).await, &[&place]);
        let told = told(&mut vera, id).await;
        assert!(told.contains('…') && !told.contains("hunter2"), "{told}");
    }
}

/// A build's record and all that watching it gives, in a form that shows every text.
async fn told(client: &mut Client, id: &str) -> String {
    let request = WatchBuildRequest { build_id: id.to_owned(), ..Default::default() };
    let mut stream = client.builds.watch_build(request).await.unwrap().into_inner();
    let mut all = format!("{:?}", client.build(id).await);
    while let Some(message) = stream.message().await.unwrap() {
        all.push_str(&format!("{message:?}"));
    }
    all
}
