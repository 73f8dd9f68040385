//! From `git push` to the green commit where all of git goes by ssh: whoever pushes has a key that writes, the project a deploy key that reads.
//! The host is a real one (dropbear and git); its post-receive signs and posts as GitHub does, and the API is a fake.

use farm_tests::farm::{Farm, WorkerSpec, output};
use farm_tests::forge::Forge;
use farm_tests::forge::api::ForgeApi;
use farm_tests::ports::free_port;

use crate::pushing::{Clone, delivered, give_token, post_receive, shown};
use crate::ssh_server::SshServer;
use crate::support::*;

#[test]
fn a_push_by_ssh_is_fetched_by_the_projects_deploy_key_and_is_a_green_commit() {
    let (server, port, at, api) = (SshServer::start(), free_port(), repository("by-ssh"), ForgeApi::start());
    let word = nonce();
    let (key, address) = server.repository(&word);
    let (deploy_key, known, place) =
        (server.deploy_key(), server.known_hosts(), format!("127.0.0.1:{}", server.port));
    let worker = WorkerSpec::new("w1").platforms("linux/amd64").arg("--fetch-from").arg("127.0.0.1");
    let builder = Farm::builder().arg("--hooks-listen").arg(&format!("127.0.0.1:{port}"));
    let farm = builder.arg("--insecure-secrets").worker(worker).start();
    // The forge names the repository by https, as they do whatever it is cloned by.
    let add = ["hook", "add", "github", "acme/app", "--host", "git.example"];
    let more = ["--clone-url", &address, "--api-url", &api.url(), "--json"].map(str::to_owned);
    let add: Vec<&str> = add.into_iter().chain(more.iter().map(String::as_str)).collect();
    let forge = Forge::of(port, &farm.cli(&add).json());
    give_token(&farm, &[]);
    server.take_pushes(&post_receive(&forge, "https://git.example/acme/app.git"));

    let ssh = |key: &str| {
        format!("ssh -i {key} -o IdentitiesOnly=yes -o UserKnownHostsFile={known} -o BatchMode=yes")
    };
    let clone = Clone::of(&address, &[("GIT_SSH_COMMAND", &ssh(&key))]);
    let rules = format!(
        "version: 1\nimages:\n  app:\n    on: {{push: {{branches: [main]}}}}\n    platforms: [linux/amd64]\n    destinations: [{at}]\n    tags: \
         [\"{{branch}}\"]\n"
    );
    let dockerfile = format!("FROM {BASE}\nCOPY file /\nRUN cat /file\n");
    let files = [(".farm.yaml", rules.as_str()), ("Dockerfile", &dockerfile)];
    let first = clone.commit(&files, "first");
    clone.push(&["main"]);
    shown(&api, &first, "farm", "failure");
    let failed = delivered(&farm, "failed", &|one| one["git_ref"] == "refs/heads/main");
    says(failed["reason"].as_str().unwrap(), &["needs a deploy key", &place]);

    let login = ["git", "login", &place, "--ssh-key", &deploy_key, "--known-hosts", &known];
    output(farm.command(&login).env("FARM_INSECURE_HTTP", "1")).ok();
    let second = clone.commit(&[("file", &format!("{word} again\n"))], "second");
    clone.push(&["main"]);
    let done = delivered(&farm, "done", &|one| !one["builds"].as_array().unwrap().is_empty());
    let green = shown(&api, &second, "farm/app", "success");
    says(&green.description, &["built in "]);
    let build = show(&farm, done["builds"][0].as_str().unwrap());
    let origin = &build["origins"][0];
    assert_eq!(
        (&origin["commit"], &origin["repository"]),
        (&second.as_str().into(), &address.as_str().into()),
        "{build:#}"
    );
    assert!(
        run_image("linux/amd64", &format!("{at}:main"), &["cat", "/file"]).contains(&format!("{word} again"))
    );
    // The key that the farm has writes nothing there.
    let push = format!(
        "cd {} && GIT_SSH_COMMAND='{}' git push origin HEAD:refs/heads/other",
        clone.path().display(),
        ssh(&deploy_key)
    );
    let refused = output(farm_tests::environment::command("sh").args(["-c", &push]));
    assert!(refused.status != 0 && refused.stderr.contains("this key only reads"), "{refused:?}");
}
