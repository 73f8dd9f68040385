//! Real pushes: somebody's clone, and what a forge's host does after a push to it: it signs and posts by itself, from git's `post-receive`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use farm_tests::bed::Bed;
use farm_tests::farm::{Farm, output};
use farm_tests::forge::Forge;
use farm_tests::forge::api::{ForgeApi, TOKEN, Taken};
use farm_tests::forge::form::Form;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::*;

/// What the forge posts after a push, and how it signs that (its documentation of webhooks), as far as a shell can. `jq` isn't needed: what
/// is pushed here has nothing in it that JSON would have otherwise.
pub fn post_receive(forge: &Forge, clone_url: &str) -> String {
    let url = format!("http://127.0.0.1:{}{}", forge.port, forge.path);
    let (body, event) = match forge.form {
        Form::Gitlab | Form::GitlabBare => (
            format!(
                r#""object_kind":"push","checkout_sha":"%s","user_id":7,"user_username":"ada","total_commits_count":1,"commits":[{{"id":"%s","message":"%s"}}],"project":{{"id":42,"path_with_namespace":"acme/app","git_http_url":"{clone_url}","default_branch":"main"}}"#
            ),
            "Push Hook",
        ),
        Form::Github | Form::Gitea | Form::Forgejo => (
            format!(
                r#""created":%s,"deleted":false,"forced":false,"commits":[],"total_commits":1,"head_commit":{{"id":"%s","message":"%s"}},"repository":{{"id":42,"full_name":"acme/app","clone_url":"{clone_url}","default_branch":"main"}},"sender":{{"id":7,"login":"ada"}}"#
            ),
            "push",
        ),
    };
    // What stands for each `%s` of the body.
    let said = if event == "push" { r#""$created" "$commit""# } else { r#""$commit" "$commit""# };
    let signed = match forge.form {
        Form::Github => {
            r#"-H "x-github-event: $event" -H "x-github-delivery: $id" -H "x-hub-signature-256: sha256=$hex""#
        }
        Form::Gitlab => {
            r#"-H "x-gitlab-event: $event" -H "idempotency-key: $id" -H "webhook-id: $id" -H "webhook-timestamp: $at" -H "webhook-signature: v1,$standard""#
        }
        Form::GitlabBare => {
            r#"-H "x-gitlab-event: $event" -H "idempotency-key: $id" -H "x-gitlab-token: $secret""#
        }
        Form::Gitea => {
            r#"-H "x-gitea-event: $event" -H "x-gitea-delivery: $id" -H "x-gitea-signature: $hex" -H "x-gogs-event: $event" -H "x-github-event: $event" -H "x-hub-signature-256: sha256=$hex""#
        }
        Form::Forgejo => {
            r#"-H "x-forgejo-event: $event" -H "x-forgejo-delivery: $id" -H "x-forgejo-signature: $hex" -H "x-gitea-event: $event" -H "x-gitea-delivery: $id" -H "x-gitea-signature: $hex" -H "x-github-event: $event" -H "x-hub-signature-256: sha256=$hex""#
        }
    };
    let standard = match forge.form {
        Form::Gitlab => {
            let key = STANDARD.decode(forge.secret.strip_prefix("whsec_").unwrap()).unwrap();
            let key = key.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
            format!(
                "$(printf %s \"$id.$at.$body\" | openssl dgst -sha256 -mac HMAC -macopt hexkey:{key} -binary | base64 -w0)"
            )
        }
        _ => String::new(),
    };
    format!(
        r#"#!/bin/sh
secret='{secret}' event='{event}'
while read -r before after ref; do
  created=false commit=$(git rev-parse "$after^{{commit}}")
  [ "$before" != 0000000000000000000000000000000000000000 ] || created=true
  body=$(printf '{{"ref":"%s","before":"%s","after":"%s",{body}}}' "$ref" "$before" "$after" {said} "$(git log -1 --format=%s "$after")")
  id=$(cat /proc/sys/kernel/random/uuid) at=$(date +%s)
  hex=$(printf %s "$body" | openssl dgst -sha256 -hmac "$secret" | sed 's/.* //')
  standard={standard}
  printf '%s: the farm answers ' "$ref"
  curl -sS -o /dev/null -w '%{{http_code}}\n' -H 'content-type: application/json' {signed} --data-binary "$body" '{url}'
done
"#,
        secret = forge.secret
    )
}

/// Somebody's clone.
pub struct Clone {
    folder: TempDir,
    env: Vec<(String, String)>,
}

impl Clone {
    /// Of the repository there, with these variables in the environment of git.
    pub fn of(url: &str, env: &[(&str, &str)]) -> Clone {
        let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let clone = Clone { folder: Bed::from_env().folder("clone"), env };
        clone.git(&["clone", "-q", url, "app"], clone.folder.path());
        clone
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().join("app")
    }

    pub fn commit(&self, files: &[(&str, &str)], message: &str) -> String {
        for (name, text) in files {
            fs::write(self.path().join(name), text).unwrap();
        }
        self.git(&["add", "-A"], &self.path());
        self.git(&["commit", "-q", "-m", message], &self.path());
        self.git(&["rev-parse", "HEAD"], &self.path())
    }

    /// Pushes, and prints what is said.
    pub fn push(&self, refs: &[&str]) {
        let said = self.git(&[&["push", "origin"], refs].concat(), &self.path());
        assert!(said.contains("the farm answers 202"), "{said}");
    }

    /// Runs git, and prints it, but for what only asks.
    pub fn git(&self, args: &[&str], place: &Path) -> String {
        let mut git = Command::new("git");
        git.args(args).current_dir(place).env("HOME", self.folder.path());
        git.envs([("GIT_CONFIG_NOSYSTEM", "1"), ("GIT_CONFIG_GLOBAL", "/dev/null")]);
        git.envs([("GIT_AUTHOR_NAME", "ada"), ("GIT_COMMITTER_NAME", "ada")]);
        git.envs([("GIT_AUTHOR_EMAIL", "ada@localhost"), ("GIT_COMMITTER_EMAIL", "ada@localhost")]);
        git.envs(self.env.iter().map(|(name, value)| (name, value)));
        let done = git.output().unwrap();
        let said =
            format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        assert!(done.status.success(), "git {args:?}: {said}");
        if args[0] != "rev-parse" {
            println!("$ git {}\n{said}", args.join(" "));
        }
        said.trim().to_owned()
    }
}

/// Gives the hook the token that the fakes of forges' APIs take.
pub fn give_token(farm: &Farm, more: &[&str]) {
    let file = farm.folder().join("hook-token");
    fs::write(&file, TOKEN).unwrap();
    let args = ["hook", "token", "app", "--file", file.to_str().unwrap()];
    output(farm.command(&[&args, more].concat()).env("FARM_INSECURE_HTTP", "1")).ok();
}

/// The delivery about this ref and commit, once it is over.
pub fn delivered(farm: &Farm, state: &str, of: &dyn Fn(&Value) -> bool) -> Value {
    until("the delivery is over", LONG, || {
        let listed = farm.cli(&["hook", "deliveries", "app", "--json"]).json();
        let found = listed["deliveries"].as_array().unwrap().iter().find(|one| of(one)).cloned();
        let found = found.filter(|one| one["state"] != "received");
        found.inspect(|one| assert_eq!(one["state"], state, "{one:#}"))
    })
}

/// What is shown at a commit, once it is.
pub fn shown(api: &ForgeApi, commit: &str, context: &str, state: &str) -> Taken {
    let found = api.wait(state, |one| {
        (one.commit.as_str(), one.context.as_str(), one.state.as_str()) == (commit, context, state)
    });
    println!(
        "at {}: {} is {}: {}\n  {}\n",
        &commit[..7],
        found.context,
        found.state,
        found.description,
        found.target
    );
    found
}
