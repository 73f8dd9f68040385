//! Logins of Docker's configuration that go with one build.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use farm_tests::farm::output;

use super::*;

/// `farm submit` by somebody whose Docker configuration, and whose programs, are in this folder.
fn submit_with(farm: &Farm, folder: &Path, dockerfile: &str, more: &[&str]) -> Output {
    let context = Context::new(dockerfile);
    let args = [&["submit", context.text(), "--platform", "linux/amd64"], more].concat();
    let mut command = farm.command(&args);
    command.env("DOCKER_CONFIG", folder);
    command.env("PATH", format!("{}:/usr/bin:/bin", folder.display()));
    output(&mut command)
}

#[test]
fn a_private_base_image_is_pulled_by_the_login_of_whoever_submits_and_by_nobody_else() {
    let service = TokenService::start();
    let tokens = PrivateRegistry::start_with_tokens(&service);
    let basic = PrivateRegistry::start_with(Some(Login { user: "ci", password: "Pa55-of-ci" }));
    let (t, b) = (tokens.address(), basic.address());
    let settings = format!("[registries.'{t}']\nrealms = ['{}']\n[registries.'{b}']\n", service.at());
    let farm = farm(&settings, &["web"]);
    login(&farm, "web", &t, "web", &password_of("web")).ok();
    login(&farm, "web", &b, "ci", "Pa55-of-ci").ok();
    let (base, other) = (format!("{t}/web/base:1"), format!("{b}/base:1"));
    build(&farm, "web", &own(), &base).ok();
    build(&farm, "web", &own(), &other).ok();

    // Docker's file has one of them, and a program of its kind the other.
    let folder = farm_tests::bed::Bed::from_env().folder("docker");
    let folder = folder.path();
    let refused_at_once = submit_with(&farm, folder, &derived(&base), &["--registry-login", &t]);
    refused(&refused_at_once, 2, &["--registry-login", "docker login makes it"]);
    let auth = base64(&format!("web:{}", password_of("web")));
    let config = format!(
        "{{\"auths\": {{\"{t}\": {{\"auth\": \"{auth}\"}}}}, \"credHelpers\": {{\"{b}\": \"vault\"}}}}"
    );
    std::fs::write(folder.join("config.json"), config).unwrap();
    let program = folder.join("docker-credential-vault");
    let line = format!(
        "#!/bin/sh\nread host\n[ \"$1 $host\" = 'get {b}' ] || exit 1\n\
         echo '{{\"ServerURL\":\"{b}\",\"Username\":\"ci\",\"Secret\":\"Pa55-of-ci\"}}'\n"
    );
    std::fs::write(&program, line).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();

    let both = format!("FROM {base} AS one\nFROM {other}\nCOPY --from=one /etc/hostname /{}\n", nonce());
    let flags = ["--registry-login", &t, "--registry-login", &b];
    let built = submit_with(&farm, folder, &both, &flags).ok();
    let id = build_id(&built);
    let record = show(&farm, &id);
    assert_eq!(record["registry_logins"], serde_json::json!(sorted([&t, &b])), "{record:#}");
    says(&farm.cli(&["show", &id]).ok(), &[&format!("login at {t} (given with the build)")]);
    assert!(!format!("{record} {}", farm.cli(&["logs", &id]).ok()).contains("Pa55"));
    assert!(service.asked().iter().any(|asked| asked.user == "web"));

    // Whoever has none gets nothing of what the engine has by now; nor does the build's own project without it.
    is_kept_out(&farm, "default", &submit_with(&farm, folder, &derived(&base), &[]), "farm registry login");
    is_kept_out(&farm, "default", &submit_with(&farm, folder, &derived(&other), &[]), "farm registry login");

    // It is erased with the build's end, and a retry says so.
    let again = farm.cli(&["retry", &id]);
    refused(&again, 2, &["registry-login", "erased", &format!("--registry-login {t}")]);
    let mut command = farm.command(&[&["retry", id.as_str()][..], &flags].concat());
    command.env("DOCKER_CONFIG", folder).env("PATH", format!("{}:/usr/bin:/bin", folder.display()));
    output(&mut command).ok();
    // What is pushed is published after that, so it is for registries that are only pulled from.
    let tag = format!("{t}/web/app:1");
    let pushed = submit_with(
        &farm,
        folder,
        &derived(&base),
        &["--registry-login", &t, "-t", &tag, "--project", "web"],
    );
    refused(&pushed, 2, &["--registry-login", "the build pushes there, too", "farm registry login"]);
}

fn sorted<const N: usize>(mut hosts: [&String; N]) -> [&String; N] {
    hosts.sort();
    hosts
}

/// Base64, by the program that everybody has.
fn base64(text: &str) -> String {
    let mut command = farm_tests::environment::command("sh");
    command.args(["-c", "printf %s \"$1\" | base64 -w0", "sh", text]);
    output(&mut command).ok()
}
