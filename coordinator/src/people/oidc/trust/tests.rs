//! Which tokens fit which rules, and what is told of a rule.

use serde_json::json;

use super::*;

fn wants(all: &[(&str, &[&str])]) -> Wants {
    let values = |values: &[&str]| values.iter().map(|&value| value.to_owned()).collect();
    Wants(all.iter().map(|(claim, of)| ((*claim).to_owned(), values(of))).collect())
}

fn rule(provider: Provider, name: &str, all: &[(&str, &[&str])]) -> Rule {
    let issuer = match provider {
        Provider::Github => GITHUB,
        Provider::Gitlab => GITLAB,
        Provider::Other => "https://issuer.example",
    };
    Rule {
        id: Uuid::nil(),
        provider,
        issuer: issuer.to_owned(),
        name: name.to_owned(),
        audience: "farm".to_owned(),
        wants: wants(all),
        role: Role::Builder,
    }
}

const IDS: &[(&str, &[&str])] = &[("repository_id", &["74"]), ("repository_owner_id", &["65"])];

/// A rule on a repository with these conditions.
fn github(conditions: &[(&str, &[&str])]) -> Rule {
    rule(Provider::Github, "acme/app", &[IDS, conditions].concat())
}

/// What a job of acme/app says, with these changes.
fn job(changes: Value) -> Claims {
    let mut claims = json!({
        "repository": "acme/app", "repository_id": "74", "repository_owner": "acme", "repository_owner_id": "65",
        "ref": "refs/heads/main", "ref_type": "branch", "ref_protected": "true", "event_name": "push",
        "sub": "repo:acme@65/app@74:ref:refs/heads/main", "runner_environment": "github-hosted"
    });
    claims.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    claims.as_object().unwrap().clone()
}

fn condition(claim: &str, has: Option<&str>, wants: &str) -> Result<(), Mismatch> {
    let (claim, has) = (claim.to_owned(), has.map(str::to_owned));
    Err(Mismatch::Condition { claim, has, wants: wants.to_owned() })
}

#[test]
fn a_repository_is_told_by_its_ids_and_never_by_its_name() {
    let rule = github(&[]);
    assert_eq!(rule.fits(&job(json!({}))), Ok(()));
    // Renamed or moved within its owner: it is the same.
    assert_eq!(rule.fits(&job(json!({"repository": "acme/application"}))), Ok(()));
    // The name was given up, and somebody took it.
    for (claim, value) in [("repository_id", "75"), ("repository_owner_id", "66")] {
        let renamed =
            Mismatch::Renamed { claim: claim.into(), has: Some(value.into()), name: "acme/app".into() };
        assert_eq!(rule.fits(&job(json!({ claim: value }))), Err(renamed));
    }
    let gone = Mismatch::Renamed { claim: "repository_id".into(), has: None, name: "acme/app".into() };
    assert_eq!(rule.fits(&job(json!({"repository_id": null}))), Err(gone));
    let other = job(json!({"repository": "evil/app", "repository_id": "1", "repository_owner_id": "2"}));
    assert_eq!(rule.fits(&other), Err(Mismatch::Stranger));
    // A pattern among ids is none.
    let loose = super::tests::rule(
        Provider::Github,
        "x/y",
        &[("repository_id", &["*"]), ("repository_owner_id", &["65"])],
    );
    assert!(loose.fits(&job(json!({}))).is_err() && loose.check().is_err());
}

#[test]
fn an_owners_rule_takes_all_of_the_owners_repositories() {
    let rule = rule(Provider::Github, "acme/*", &[("repository_owner_id", &["65"])]);
    assert_eq!((rule.check(), rule.fits(&job(json!({"repository_id": "99"})))), (Ok(()), Ok(())));
    let taken = rule.fits(&job(json!({"repository_owner_id": "66"}))).unwrap_err();
    assert!(matches!(taken, Mismatch::Renamed { .. }));
    let other = job(json!({"repository_owner_id": "66", "repository_owner": "evil"}));
    assert_eq!(rule.fits(&other), Err(Mismatch::Stranger));
}

#[test]
fn conditions_are_told_to_the_repository_that_they_are_about_only() {
    let rule = github(&[("ref", &["refs/heads/main", "refs/tags/v*"]), ("environment", &["production"])]);
    assert_eq!(rule.fits(&job(json!({"environment": "production"}))), Ok(()));
    assert_eq!(rule.fits(&job(json!({"environment": "production", "ref": "refs/tags/v1.2"}))), Ok(()));
    assert_eq!(rule.fits(&job(json!({}))), condition("environment", None, "production"));
    let wants = "refs/heads/main or refs/tags/v*";
    for wrong in ["refs/heads/main2", "refs/heads/refs/tags/v1", "main", "refs/tags/w"] {
        let token = job(json!({"environment": "production", "ref": wrong}));
        assert_eq!(rule.fits(&token), condition("ref", Some(wrong), wants));
    }
    let stranger = job(json!({"repository": "evil/app", "repository_id": "1", "ref": "refs/heads/x"}));
    assert_eq!(rule.fits(&stranger), Err(Mismatch::Stranger));
}

#[test]
fn what_runs_on_strangers_pull_requests_is_refused_unless_it_is_meant() {
    let event = |name: &str| job(json!({ "event_name": name }));
    assert_eq!(github(&[]).fits(&event("pull_request")), Ok(()));
    let refused = condition("event_name", Some(STRANGERS), "anything but pull_request_target");
    assert_eq!(github(&[]).fits(&event(STRANGERS)), refused);
    assert_eq!(github(&[("event_name", &[STRANGERS])]).fits(&event(STRANGERS)), Ok(()));
    assert_eq!(
        github(&[("event_name", &["push"])]).fits(&event(STRANGERS)),
        condition("event_name", Some(STRANGERS), "push")
    );
}

#[test]
fn a_gitlab_project_is_told_by_its_ids_and_words_and_truth_values_are_the_same() {
    let rule = rule(
        Provider::Gitlab,
        "team/app",
        &[
            ("project_id", &["20"]),
            ("namespace_id", &["72"]),
            ("ref_protected", &["true"]),
            ("ref", &["main"]),
        ],
    );
    assert_eq!(rule.check(), Ok(()));
    let token = |id: Value, protected: Value| {
        let claims = json!({
            "project_id": id, "namespace_id": "72", "project_path": "team/app", "namespace_path": "team",
            "ref": "main", "ref_protected": protected
        });
        claims.as_object().unwrap().clone()
    };
    for right in [token(json!("20"), json!("true")), token(json!(20), json!(true))] {
        assert_eq!(rule.fits(&right), Ok(()));
    }
    assert_eq!(
        rule.fits(&token(json!("20"), json!("false"))),
        condition("ref_protected", Some("false"), "true")
    );
    assert!(matches!(rule.fits(&token(json!("21"), json!("true"))), Err(Mismatch::Renamed { .. })));
}

#[test]
fn of_any_issuer_all_claims_have_to_fit_and_of_a_list_one() {
    let rule = rule(
        Provider::Other,
        "builders",
        &[("sub", &["system:serviceaccount:ci:*"]), ("groups", &["builders"])],
    );
    assert_eq!(rule.check(), Ok(()));
    let token = |sub: &str, groups: Value| json!({"sub": sub, "groups": groups}).as_object().unwrap().clone();
    // `sub` tells whom it is about, so it is taken as it is.
    assert_eq!(rule.fits(&token("system:serviceaccount:ci:a", json!(["builders"]))), Err(Mismatch::Stranger));
    let groups = super::tests::rule(Provider::Other, "builders", &[("groups", &["builders"])]);
    assert_eq!(groups.fits(&token("a", json!(["others", "builders"]))), Ok(()));
    for wrong in [json!([]), json!(["others"]), json!({"builders": true}), json!([["builders"]]), json!(null)]
    {
        assert_eq!(groups.fits(&token("a", wrong)), Err(Mismatch::Stranger));
    }
}

#[test]
fn a_rule_that_trusts_more_than_is_meant_or_never_fits_is_refused_in_words() {
    let said = |rule: Rule| rule.check_new().unwrap_err().to_string();
    assert!(said(rule(Provider::Github, "acme/app", &[])).contains("repository_id"));
    assert!(
        said(rule(Provider::Github, "acme/app", &[("repository_owner_id", &["65"])]))
            .contains("repository_id")
    );
    assert!(said(rule(Provider::Github, "acme/*", &[("ref", &["x"])])).contains("repository_owner_id"));
    assert!(
        said(rule(Provider::Gitlab, "a/b", &[("project_id", &["a"]), ("namespace_id", &["1"])]))
            .contains("project_id")
    );
    assert!(said(github(&[("enviroment", &["x"])])).contains("did you mean environment?"));
    assert!(said(github(&[("ref", &[])])).contains("1 to 64 values"));
    // What no token would ever say.
    let short = said(github(&[("ref", &["refs/tags/v*", "main"])]));
    assert!(short.starts_with("ref \"main\": GitHub writes refs in full"), "{short}");
    let gitlab = |of: &str| {
        rule(Provider::Gitlab, "a/b", &[("project_id", &["1"]), ("namespace_id", &["1"]), ("ref", &[of])])
    };
    assert!(said(gitlab("refs/heads/main")).contains("by its name alone: main"));
    assert_eq!((gitlab("main").check_new(), github(&[("ref", &["*"])]).check_new()), (Ok(()), Ok(())));
    // Those that are kept go on.
    assert_eq!((gitlab("refs/heads/main").check(), github(&[("ref", &["main"])]).check()), (Ok(()), Ok(())));
    assert!(said(github(&[("ref", &[""])])).contains("1 to 64 values"));
    assert!(said(rule(Provider::Other, "x", &[])).contains("sub=VALUE"));
    assert!(said(rule(Provider::Other, "x", &[("aud", &["farm"])])).contains("leave it out"));
    let by_name =
        Rule { issuer: GITHUB.to_owned(), ..rule(Provider::Other, "x", &[("repository", &["acme/app"])]) };
    assert!(said(by_name).contains("trust it as github"));
    assert_eq!(github(&[("repo_property_team", &["web"])]).check(), Ok(()));
}

#[test]
fn a_star_stands_for_any_characters() {
    for (pattern, text, fits) in [
        ("", "", true),
        ("a", "a", true),
        ("a", "ab", false),
        ("*", "", true),
        ("*", "a/b", true),
        ("a*", "a", true),
        ("a*c", "abc", true),
        ("a*c", "abcd", false),
        ("a*a", "a", false),
        ("*a*b*", "xxaxxbxx", true),
        ("*a*b*", "xxbxxaxx", false),
        ("a*b*b", "ab", false),
        ("a*b*b", "abb", true),
        ("**", "x", true),
        ("?", "x", false),
    ] {
        assert_eq!(matches(pattern, text), fits, "{pattern} {text}");
    }
}

#[test]
fn a_subject_is_known_by_its_id_and_shown_by_its_name() {
    let shown = subject(Provider::Github, &job(json!({}))).unwrap();
    assert_eq!(
        (shown.id.as_str(), shown.name.as_str()),
        ("repository_id=74", "github:acme/app@refs/heads/main")
    );
    let odd = json!({"sub": "a b c\u{202e}"}).as_object().unwrap().clone();
    let odd = subject(Provider::Other, &odd).unwrap();
    assert_eq!(odd.name, "other:a?b?c?");
    let nobody = json!({"sub": "a\u{1b}[2J"}).as_object().unwrap().clone();
    assert_eq!((subject(Provider::Github, &Claims::new()), subject(Provider::Other, &nobody)), (None, None));
    let said = in_short(Provider::Github, &job(json!({})));
    assert_eq!(
        said,
        r#"repository "acme/app", repository_id "74", repository_owner_id "65", ref "refs/heads/main""#
    );
    assert_eq!(in_short(Provider::Other, &json!({"sub": "x"}).as_object().unwrap().clone()), r#"sub "x""#);
}

#[test]
fn what_a_job_is_run_for_is_told_in_one_form_and_by_known_providers_only() {
    let told = |provider, claims: serde_json::Value| {
        let JobClaims { full_ref, event } = job_claims(provider, claims.as_object().unwrap());
        (full_ref.unwrap_or_default(), event.unwrap_or_default())
    };
    let both = |full: &str, event: &str| (full.to_owned(), event.to_owned());
    let github = json!({"ref": "refs/heads/main", "event_name": "push"});
    assert_eq!(told(Provider::Github, github.clone()), both("refs/heads/main", "push"));
    assert_eq!(told(Provider::Other, github), both("", ""));
    let gitlab = json!({"ref": "v1", "ref_type": "tag", "pipeline_source": "push"});
    assert_eq!(told(Provider::Gitlab, gitlab), both("refs/tags/v1", "push"));
    let merge = json!({
        "ref": "topic", "ref_type": "branch", "ref_path": "refs/merge-requests/7/head",
        "pipeline_source": "merge_request_event"
    });
    assert_eq!(told(Provider::Gitlab, merge), both("refs/merge-requests/7/head", "merge_request_event"));
    let odd = json!({"ref": "refs/heads/main", "ref_type": "note", "pipeline_source": ["a"]});
    assert_eq!(told(Provider::Gitlab, odd), both("", "a"));
    let long = json!({"ref": format!("refs/heads/{}", "x".repeat(300)), "event_name": "push\n"});
    assert_eq!(told(Provider::Github, long), both("", ""));
}
