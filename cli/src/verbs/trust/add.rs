//! `farm trust add`. Names change hands, so what is trusted is told by ids; how to find them is said to whoever leaves them out.

use std::collections::HashMap;

use farm_proto::v1::{AddTrustRequest, ClaimValues, Trust};
use farm_types::{Invalid, Role};

use crate::config::Setup;
use crate::connect::Client;
use crate::error::{Error, Result};
use crate::output::Out;
use crate::output::text::harmless;
use crate::output::trusts::{conditions, ids, named};
use crate::verbs::of_flag;

/// Whose tokens.
#[derive(Debug, clap::Subcommand)]
pub enum Of {
    /// Jobs of GitHub Actions
    #[command(after_help = GITHUB_HELP)]
    Github(Github),
    /// Jobs of GitLab
    #[command(after_help = GITLAB_HELP)]
    Gitlab(Gitlab),
    /// Whatever has tokens of an OpenID Connect issuer
    #[command(after_help = OTHER_HELP)]
    Other(Other),
}

/// What all have.
#[derive(Debug, clap::Args)]
pub struct Common {
    /// What its jobs may do in the project: viewer, builder, publisher or admin
    #[arg(long, value_name = "ROLE")]
    role: String,

    /// What its tokens have to say besides; may be repeated, of one name any value will do
    #[arg(long = "claim", value_name = "NAME=VALUE")]
    claims: Vec<String>,

    /// Whom its tokens have to be made for [default: the farm's own address]
    #[arg(long, value_name = "AUDIENCE")]
    audience: Option<String>,
}

/// Conditions that GitHub and GitLab have in common.
#[derive(Debug, clap::Args)]
pub struct Conditions {
    /// Only on this ref; may be repeated, * stands for any characters
    #[arg(long = "ref", value_name = "REF")]
    refs: Vec<String>,

    /// Only jobs of this environment; may be repeated
    #[arg(long, value_name = "NAME")]
    environment: Vec<String>,
}

/// Arguments of `farm trust add github`.
#[derive(Debug, clap::Args)]
pub struct Github {
    /// OWNER/REPO, or OWNER/* for all of an owner's; only a name for you
    #[arg(value_name = "OWNER/REPO")]
    name: String,

    /// The repository's id
    #[arg(long, value_name = "NUMBER")]
    repository_id: Option<u64>,

    /// Its owner's id
    #[arg(long, value_name = "NUMBER")]
    owner_id: Option<u64>,

    #[command(flatten)]
    conditions: Conditions,

    /// Only what runs on this event; may be repeated [default: any but pull_request_target]
    #[arg(long = "event", value_name = "NAME")]
    events: Vec<String>,

    /// Of GitHub Enterprise Server: https://HOST/_services/token [default: that of github.com]
    #[arg(long, value_name = "URL")]
    issuer: Option<String>,

    #[command(flatten)]
    common: Common,
}

/// Arguments of `farm trust add gitlab`.
#[derive(Debug, clap::Args)]
pub struct Gitlab {
    /// GROUP/PROJECT, or GROUP/* for all of a group's own; only a name for you
    #[arg(value_name = "GROUP/PROJECT")]
    name: String,

    /// The project's id
    #[arg(long, value_name = "NUMBER")]
    project_id: Option<u64>,

    /// The id of the group, or of the user, that it belongs to
    #[arg(long, value_name = "NUMBER")]
    namespace_id: Option<u64>,

    #[command(flatten)]
    conditions: Conditions,

    /// Your GitLab's address [default: https://gitlab.com]
    #[arg(long, value_name = "URL")]
    issuer: Option<String>,

    #[command(flatten)]
    common: Common,
}

/// Arguments of `farm trust add other`.
#[derive(Debug, clap::Args)]
pub struct Other {
    /// The issuer's address, as its tokens have it (iss)
    #[arg(long, value_name = "URL")]
    issuer: String,

    /// What to call it [default: the issuer]
    #[arg(long, value_name = "TEXT")]
    name: Option<String>,

    #[command(flatten)]
    common: Common,
}

const GITHUB_HELP: &str = "\
Examples:
  farm trust add github acme/app --repository-id 74 --owner-id 65 --role builder
  farm trust add github acme/app --repository-id 74 --owner-id 65 --role publisher \\
    --ref 'refs/tags/v*' --environment release
  farm trust add github 'acme/*' --owner-id 65 --role viewer

A name may be given up and taken by somebody else, an id never. This prints both as flags:
  gh api repos/OWNER/REPO --jq '\"--repository-id \\(.id) --owner-id \\(.owner.id)\"'
In a workflow they are ${{ github.repository_id }} and ${{ github.repository_owner_id }}.";

const GITLAB_HELP: &str = "\
Examples:
  farm trust add gitlab acme/app --project-id 74 --namespace-id 65 --role builder
  farm trust add gitlab acme/app --project-id 74 --namespace-id 65 --role publisher \\
    --ref main --claim ref_protected=true --issuer https://gitlab.example

A name may be given up and taken by somebody else, an id never. The pages of the project and of its
group show them; in a job they are $CI_PROJECT_ID and $CI_PROJECT_NAMESPACE_ID.";

const OTHER_HELP: &str = "\
Examples:
  farm trust add other --issuer https://issuer.example --claim sub=robot-7 --role builder
  farm trust add other --issuer https://issuer.example --claim groups=builders \\
    --claim sub=robot-7 --claim sub=robot-8 --name robots --role viewer

All claims have to fit; choose such as the issuer never gives to somebody else.";

/// Adds a trust.
///
/// # Errors
/// What is to be trusted isn't told by ids, the farm refuses, or it can't be asked.
pub(crate) async fn run(of: Of, setup: &Setup) -> Result<()> {
    let request = match of {
        Of::Github(args) => github(args)?,
        Of::Gitlab(args) => gitlab(args)?,
        Of::Other(args) => other(args)?,
    };
    let client = Client::connect(&setup.address).await?;
    let added = client.trusts().add_trust(request).await.map_err(|e| client.error(&e))?.into_inner();
    let nothing = || Error::Farm(format!("the farm at {} added a trust and gave none back", client.url()));
    let trust = added.trust.ok_or_else(nothing)?;
    let mut out = Out::stdout();
    out.lines(told(&trust, &harmless(&added.project)));
    out.lines(needs(&trust, &harmless(&added.project), &harmless(client.url())));
    Ok(())
}

fn github(args: Github) -> Result<AddTrustRequest> {
    let is_group = args.name.ends_with("/*");
    let name = path(&args.name, "OWNER/REPO", 1)?;
    let owner = name.split('/').next().unwrap_or_default();
    let unknown = |flags: &str, line: String, workflow: &str| {
        Error::Usage(format!(
            "github {name}: a name may be given up and taken by somebody else, so it is told by ids: give {flags}. This \
             prints what to add:\n  {line}\nIn a workflow: {workflow}"
        ))
    };
    let mut claims = Claims::default();
    match (args.repository_id, args.owner_id) {
        (None, Some(owner)) if is_group => claims.add("repository_owner_id", owner.to_string()),
        (_, None) if is_group => {
            let line = format!("gh api users/{owner} --jq '\"--owner-id \\(.id)\"'");
            return Err(unknown("--owner-id", line, "${{ github.repository_owner_id }}"));
        }
        (Some(_), _) if is_group => {
            return Err(Error::Usage(format!(
                "--repository-id: {name} is about all repositories of an owner; leave it out, or name one: {owner}/REPO"
            )));
        }
        (Some(repository), Some(owner)) => {
            claims.add("repository_id", repository.to_string());
            claims.add("repository_owner_id", owner.to_string());
        }
        _ => {
            let line =
                format!("gh api repos/{name} --jq '\"--repository-id \\(.id) --owner-id \\(.owner.id)\"'");
            let workflow = "${{ github.repository_id }} and ${{ github.repository_owner_id }}";
            return Err(unknown("--repository-id and --owner-id", line, workflow));
        }
    }
    claims.all("event_name", args.events);
    claims.conditions(args.conditions);
    request("github", args.issuer, &name, claims, args.common)
}

fn gitlab(args: Gitlab) -> Result<AddTrustRequest> {
    let is_group = args.name.ends_with("/*");
    let name = path(&args.name, "GROUP/PROJECT", 20)?;
    let unknown = |flags: &str, pages: &str| {
        Error::Usage(format!(
            "gitlab {name}: a name may be given up and taken by somebody else, so it is told by ids: give {flags}. {pages}"
        ))
    };
    let mut claims = Claims::default();
    match (args.project_id, args.namespace_id) {
        (None, Some(group)) if is_group => claims.add("namespace_id", group.to_string()),
        (_, None) if is_group => {
            return Err(unknown(
                "--namespace-id",
                "The group's page shows it; in a job it is $CI_PROJECT_NAMESPACE_ID",
            ));
        }
        (Some(_), _) if is_group => {
            return Err(Error::Usage(format!(
                "--project-id: {name} is about all projects of a group; leave it out, or name one project"
            )));
        }
        (Some(project), Some(group)) => {
            claims.add("project_id", project.to_string());
            claims.add("namespace_id", group.to_string());
        }
        _ => {
            return Err(unknown(
                "--project-id and --namespace-id",
                "The pages of the project and of its group show them; in a job they are $CI_PROJECT_ID and \
                 $CI_PROJECT_NAMESPACE_ID",
            ));
        }
    }
    claims.conditions(args.conditions);
    request("gitlab", args.issuer, &name, claims, args.common)
}

fn other(args: Other) -> Result<AddTrustRequest> {
    if args.common.claims.is_empty() {
        return Err(Error::Usage(
            "--claim: say at least one; without any all whom the issuer knows would be trusted: --claim sub=WHO".to_owned(),
        ));
    }
    let name = args.name.unwrap_or_default();
    request("other", Some(args.issuer), &name, Claims::default(), args.common)
}

fn request(
    provider: &str,
    issuer: Option<String>,
    name: &str,
    mut claims: Claims,
    common: Common,
) -> Result<AddTrustRequest> {
    let role: Role = of_flag("--role", &common.role)?;
    for written in &common.claims {
        let cure = || Invalid::new("--claim", written, "write NAME=VALUE, for example ref_protected=true");
        let (claim, value) =
            written.split_once('=').filter(|(claim, _)| !claim.is_empty()).ok_or_else(cure)?;
        claims.add(claim, value.to_owned());
    }
    Ok(AddTrustRequest {
        provider: provider.to_owned(),
        issuer: issuer.unwrap_or_default(),
        audience: common.audience.unwrap_or_default(),
        name: name.to_owned(),
        claims: claims.0,
        role: role.to_string(),
    })
}

/// Of each claim the values that it may have.
#[derive(Debug, Default)]
struct Claims(HashMap<String, ClaimValues>);

impl Claims {
    fn add(&mut self, claim: &str, value: String) {
        self.0.entry(claim.to_owned()).or_default().values.push(value);
    }

    fn all(&mut self, claim: &str, values: Vec<String>) {
        values.into_iter().for_each(|value| self.add(claim, value));
    }

    fn conditions(&mut self, conditions: Conditions) {
        self.all("ref", conditions.refs);
        self.all("environment", conditions.environment);
    }
}

/// A name in parts with slashes between: two, or with subgroups up to `more` more.
fn path(name: &str, form: &str, more: usize) -> Result<String, Invalid> {
    let parts = name.split('/').count();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.*".contains(c);
    let is_one = (2..=1 + more).contains(&parts) && name.split('/').all(|part| !part.is_empty());
    if is_one && name.chars().all(|c| c == '/' || is_plain(c)) {
        return Ok(name.to_owned());
    }
    Err(Invalid::new(form, name, format!("write {form}, as its page's address has it behind the host")))
}

/// What is trusted now.
fn told(trust: &Trust, project: &str) -> Vec<String> {
    let known = match ids(trust).as_str() {
        "" => String::new(),
        ids => format!(" ({ids})"),
    };
    let only = match conditions(trust).as_str() {
        "" => String::new(),
        conditions => format!(", if its token says {conditions}"),
    };
    vec![format!("project {project} trusts {}{known} as {}{only}", named(trust), harmless(&trust.role))]
}

/// What a job of it needs; no secret is among it.
fn needs(trust: &Trust, project: &str, url: &str) -> Vec<String> {
    let audience = harmless(&trust.audience);
    let token = match trust.provider.as_str() {
        "github" => "permissions: { id-token: write }".to_owned(),
        "gitlab" => format!("id_tokens: {{ FARM_ID_TOKEN: {{ aud: \"{audience}\" }} }}"),
        _ => format!(
            "FARM_ID_TOKEN   a new token of {} for {audience}, for each command",
            harmless(&trust.issuer)
        ),
    };
    vec![
        "what a job of it needs, and no secret:".to_owned(),
        format!("  {token}"),
        format!("  FARM_URL={url} FARM_PROJECT={project}"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn common(claims: &[&str]) -> Common {
        let claims = claims.iter().map(|&claim| claim.to_owned()).collect();
        Common { role: "builder".to_owned(), claims, audience: None }
    }

    fn asked(
        name: &str,
        repository_id: Option<u64>,
        owner_id: Option<u64>,
        claims: &[&str],
    ) -> Result<AddTrustRequest> {
        let conditions = Conditions { refs: vec!["refs/heads/main".to_owned()], environment: Vec::new() };
        github(Github {
            name: name.to_owned(),
            repository_id,
            owner_id,
            conditions,
            events: Vec::new(),
            issuer: None,
            common: common(claims),
        })
    }

    #[test]
    fn a_repository_is_told_by_both_ids_and_an_owner_by_its_own() {
        let asked_for = asked("acme/app", Some(74), Some(65), &["ref=refs/tags/v*", "actor_id=12"]).unwrap();
        let values =
            |claim: &str| asked_for.claims.get(claim).map(|of| of.values.join(" ")).unwrap_or_default();
        assert_eq!(
            (values("repository_id"), values("repository_owner_id")),
            ("74".to_owned(), "65".to_owned())
        );
        assert_eq!(
            (values("ref"), values("actor_id")),
            ("refs/heads/main refs/tags/v*".to_owned(), "12".to_owned())
        );
        let group = asked("acme/*", None, Some(65), &[]).unwrap();
        assert!(
            !group.claims.contains_key("repository_id") && group.claims.contains_key("repository_owner_id")
        );
    }

    #[test]
    fn who_leaves_the_ids_out_is_told_how_to_find_them() {
        let said =
            |name: &str, repository, owner| asked(name, repository, owner, &[]).unwrap_err().to_string();
        for (repository, owner) in [(None, None), (Some(74), None), (None, Some(65))] {
            let said = said("acme/app", repository, owner);
            assert!(
                said.contains("gh api repos/acme/app --jq '\"--repository-id \\(.id) --owner-id"),
                "{said}"
            );
            assert!(said.contains("${{ github.repository_id }}"), "{said}");
        }
        assert!(said("acme/*", None, None).contains("gh api users/acme --jq"));
        assert!(said("acme/*", Some(74), Some(65)).contains("leave it out"));
        let gitlab = |name: &str, project_id, namespace_id| {
            let conditions = Conditions { refs: Vec::new(), environment: Vec::new() };
            let common = common(&[]);
            gitlab(Gitlab {
                name: name.to_owned(),
                project_id,
                namespace_id,
                conditions,
                issuer: None,
                common,
            })
        };
        assert!(gitlab("a/b/c", Some(1), None).unwrap_err().to_string().contains("$CI_PROJECT_NAMESPACE_ID"));
        assert!(gitlab("a/*", None, None).unwrap_err().to_string().contains("--namespace-id"));
        assert!(gitlab("a/b/c", Some(1), Some(2)).is_ok() && gitlab("a/*", None, Some(2)).is_ok());
    }

    #[test]
    fn a_name_or_a_claim_that_is_none_is_told_with_its_form() {
        for name in
            ["acme", "acme/", "/app", "acme/app/x", "acme/a b", "https://github.com/acme/app", "a/$(x)"]
        {
            let said = asked(name, Some(1), Some(1), &[]).unwrap_err().to_string();
            assert!(said.contains("write OWNER/REPO"), "{said}");
        }
        for claim in ["ref", "=x", ""] {
            let said = asked("a/b", Some(1), Some(1), &[claim]).unwrap_err().to_string();
            assert!(said.contains("write NAME=VALUE"), "{said}");
        }
        let none = Other { issuer: "https://i".to_owned(), name: None, common: common(&[]) };
        assert!(other(none).unwrap_err().to_string().contains("--claim sub=WHO"));
    }

    #[test]
    fn what_a_job_needs_is_told_with_what_is_trusted() {
        let mut trust = Trust {
            provider: "gitlab".to_owned(),
            name: "acme/app".to_owned(),
            role: "builder".to_owned(),
            audience: "https://farm.example".to_owned(),
            ..Default::default()
        };
        let values = |value: &str| ClaimValues { values: vec![value.to_owned()] };
        trust.claims.insert("project_id".to_owned(), values("74"));
        trust.claims.insert("ref".to_owned(), values("main"));
        assert_eq!(
            told(&trust, "web"),
            ["project web trusts gitlab acme/app (project_id 74) as builder, if its token says ref main"]
        );
        let said = needs(&trust, "web", "https://f");
        assert_eq!(said[1], "  id_tokens: { FARM_ID_TOKEN: { aud: \"https://farm.example\" } }");
        assert_eq!(said[2], "  FARM_URL=https://f FARM_PROJECT=web");
    }
}
