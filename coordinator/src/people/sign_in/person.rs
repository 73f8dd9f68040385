//! Whom an issuer's claims show.
//!
//! What decides who it is, is the subject alone: it is never given again, and nobody chooses it. A name is looked at once, for
//! somebody who is new.

use farm_types::{Invalid, PrincipalName};
use serde_json::Value;

use crate::people::oidc::claims::Claims;
use crate::people::oidc::refused::{Refused, shown};

/// The longest subject and the longest name of a group, bytes.
const LONGEST: usize = 255;
/// The most groups that are kept of one person, and how long all their names are together, bytes: each sign-in keeps them.
const MOST: usize = 1000;
const ALL: usize = 32 * 1024;

const EMAIL: &str = "email";
/// Whether the issuer has seen that its address is theirs.
pub const EMAIL_VERIFIED: &str = "email_verified";

/// Somebody whom the issuer knows.
#[derive(Debug, Clone)]
pub struct Person {
    /// By this (sub).
    pub subject: String,
    /// What they would be called here, or why by nothing that the issuer says.
    pub name: Result<PrincipalName, String>,
    /// Their groups, each once.
    pub groups: Vec<String>,
}

/// Whom the claims show.
///
/// # Errors
/// They don't say whom, in a form that can be kept.
pub fn person(said: &Claims, name_claim: &str, groups_claim: &str) -> Result<Person, Refused> {
    let subject = said.get("sub").and_then(Value::as_str).filter(|subject| is_plain(subject));
    let subject = subject.ok_or_else(|| {
        Refused::Token(format!(
            "the issuer's token doesn't say whom it is about (sub), in 1 to {LONGEST} bytes"
        ))
    })?;
    Ok(Person {
        subject: subject.to_owned(),
        name: name(said, name_claim),
        groups: groups(said.get(groups_claim)),
    })
}

fn is_plain(text: &str) -> bool {
    (1..=LONGEST).contains(&text.len()) && !text.chars().any(char::is_control)
}

/// The name, in small letters: names of people here have no others, and to most issuers capitals are the same.
fn name(said: &Claims, claim: &str) -> Result<PrincipalName, String> {
    let Some(value) = said.get(claim) else { return Err(format!("it says no {claim}")) };
    let Some(text) = value.as_str() else { return Err(format!("its {claim} is no text")) };
    // Core, section 5.1: anybody may have written anybody's there.
    if claim == EMAIL && said.get(EMAIL_VERIFIED) != Some(&Value::Bool(true)) {
        return Err(format!(
            "its email is {}, and it doesn't say that it has verified that (email_verified)",
            shown(text)
        ));
    }
    text.to_ascii_lowercase()
        .parse()
        .map_err(|e: Invalid| format!("its {claim} is {}: {}", shown(text), e.cure))
}

/// An array of texts, or one.
fn groups(value: Option<&Value>) -> Vec<String> {
    let all: Vec<&str> = match value {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let mut all: Vec<String> = all.into_iter().filter(|name| is_plain(name)).map(str::to_owned).collect();
    all.sort();
    all.dedup();
    all.truncate(MOST);
    let mut bytes = 0_usize;
    all.retain(|name| {
        bytes = bytes.saturating_add(name.len());
        bytes <= ALL
    });
    all
}

impl Person {
    /// What is said when their name is another's.
    pub fn taken(&self, issuer: &str) -> String {
        let name = self.name.as_ref().map(ToString::to_string).unwrap_or_default();
        format!(
            "{issuer} calls you {name}, and there is a person {name} here who isn't known to be you. If it is you, an admin of \
             the farm can say so: farm admin link {name} {subject}; if not, give you another name: farm admin link NAME {subject}",
            subject = self.flag()
        )
    }

    /// What is said when an admin has ended that they are this person.
    pub fn has_ended(&self, issuer: &str, name: &str) -> String {
        format!(
            "{issuer} has let you in, but an admin of this farm has ended that you are {name} here; an admin can let you in \
             again: farm admin link {name} {}",
            self.flag()
        )
    }

    /// What is said when they have none.
    pub fn nameless(&self, issuer: &str) -> String {
        let why = self.name.as_ref().err().cloned().unwrap_or_default();
        format!(
            "{issuer} has let you in, but gives no name that a person of this farm can have ({why}). An admin of the farm can \
             give you one: farm admin link NAME {}",
            self.flag()
        )
    }

    /// The subject, as an admin's command has it.
    fn flag(&self) -> String {
        let is_quotable = self.subject.chars().all(|c| c.is_ascii_graphic() && c != '\'');
        match is_quotable {
            true => format!("--subject '{}'", self.subject),
            false => format!("--subject {}", shown(&self.subject)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn told(said: Value) -> Result<Person, String> {
        person(said.as_object().unwrap(), "preferred_username", "groups").map_err(|why| why.to_string())
    }

    #[test]
    fn somebody_is_who_the_subject_says_and_is_called_by_the_claim_that_is_named() {
        let ada = told(
            json!({"sub": "7", "preferred_username": "Ada.L@Example.org", "groups": ["devs", "web", "devs"]}),
        );
        let ada = ada.unwrap();
        assert_eq!((ada.subject.as_str(), ada.name.unwrap().as_str()), ("7", "ada.l@example.org"));
        assert_eq!(ada.groups, ["devs", "web"]);
        assert_eq!(told(json!({"sub": "7", "groups": "devs"})).unwrap().groups, ["devs"]);
        let odd = json!({"sub": "7", "groups": ["", 7, null, "a\nb", "x".repeat(256), "ok"]});
        assert_eq!(told(odd).unwrap().groups, ["ok"]);
        assert!(told(json!({"sub": "7", "groups": {"devs": 1}})).unwrap().groups.is_empty());
    }

    #[test]
    fn an_email_is_a_name_only_if_the_issuer_has_verified_it() {
        let by_email = |said: Value| person(said.as_object().unwrap(), "email", "groups").unwrap().name;
        let right = json!({"sub": "7", "email": "ada@example.org", "email_verified": true});
        assert_eq!(by_email(right).unwrap().as_str(), "ada@example.org");
        for wrong in [json!(false), json!("true"), Value::Null] {
            let said = json!({"sub": "7", "email": "ada@example.org", "email_verified": wrong});
            assert!(by_email(said.clone()).unwrap_err().contains("(email_verified)"), "{said}");
        }
        assert!(by_email(json!({"sub": "7", "email": "ada@example.org"})).is_err());
    }

    #[test]
    fn not_more_of_groups_is_kept_than_fits() {
        let many: Vec<String> = (0..900).map(|n| format!("{n:0>100}")).collect();
        let kept = told(json!({"sub": "7", "groups": many})).unwrap().groups;
        assert_eq!(kept.len(), ALL / 100);
    }

    #[test]
    fn who_has_no_subject_is_nobody() {
        for wrong in [
            json!({}),
            json!({"sub": ""}),
            json!({"sub": 7}),
            json!({"sub": "a\nb"}),
            json!({"sub": "x".repeat(256)}),
        ] {
            assert!(told(wrong.clone()).unwrap_err().contains("(sub)"), "{wrong}");
        }
    }

    #[test]
    fn a_name_that_nobody_here_can_have_is_told_with_the_cure() {
        for (name, part) in [
            (json!("Ada Lovelace"), "its preferred_username is \"Ada Lovelace\": write 1 to 64"),
            (json!("admin"), "farm's own"),
            (json!("wéb"), "write 1 to 64"),
            (json!("web/ci"), "write 1 to 64"),
            (json!(7), "is no text"),
        ] {
            let person = told(json!({"sub": "auth0|7", "preferred_username": name})).unwrap();
            let said = person.nameless("https://sso.example");
            assert!(
                said.contains(part) && said.ends_with("farm admin link NAME --subject 'auth0|7'"),
                "{said}"
            );
        }
        let person = told(json!({"sub": "it's 7"})).unwrap();
        let said = person.nameless("https://sso.example");
        assert!(
            said.contains("says no preferred_username") && said.ends_with("--subject \"it's 7\""),
            "{said}"
        );
        let said =
            told(json!({"sub": "7", "preferred_username": "ada"})).unwrap().taken("https://sso.example");
        assert!(said.contains("farm admin link ada --subject '7'"), "{said}");
    }
}
