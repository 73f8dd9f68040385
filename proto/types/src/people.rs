//! Who uses a farm: principals and their roles in projects.

use std::fmt;
use std::str::FromStr;

use crate::error::Invalid;
use crate::suggest::nearest;

/// What a member of a project may do there; each role may do what those before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Sees builds, their logs and images.
    Viewer,
    /// Submits, cancels and retries builds.
    Builder,
    /// Moves protected tags.
    Publisher,
    /// Gives roles and tokens, and changes the project's settings.
    Admin,
}

impl Role {
    /// All, the least first.
    pub const ALL: [Self; 4] = [Self::Viewer, Self::Builder, Self::Publisher, Self::Admin];

    /// The word for it, everywhere.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Builder => "builder",
            Self::Publisher => "publisher",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        Self::ALL.into_iter().find(|role| role.as_str() == text).ok_or_else(|| {
            let words = Self::ALL.map(Self::as_str);
            let meant = nearest(text, words).map(|near| format!("did you mean {near}? ")).unwrap_or_default();
            Invalid::new("role", text, format!("{meant}there are {}", words.join(", ")))
        })
    }
}

/// What kind of caller a principal is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PrincipalKind {
    /// A human being.
    Person,
    /// A program that has a token of its own.
    Service,
    /// What an issuer's token has shown, such as a job of GitHub Actions.
    Subject,
    /// A webhook: what follows from what a forge sends is done as it.
    Hook,
}

impl PrincipalKind {
    /// All.
    pub const ALL: [Self; 4] = [Self::Person, Self::Service, Self::Subject, Self::Hook];

    /// The word for it, everywhere.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Person => "person",
            Self::Service => "service",
            Self::Subject => "subject",
            Self::Hook => "hook",
        }
    }
}

impl fmt::Display for PrincipalKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for PrincipalKind {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let kind = Self::ALL.into_iter().find(|kind| kind.as_str() == text);
        kind.ok_or_else(|| {
            Invalid::new("kind", text, "a principal is a person, a service, a subject or a hook")
        })
    }
}

macro_rules! name_newtype {
    ($($(#[$doc:meta])* $name:ident, $field:literal, $is_valid:ident, $cure:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// The name as it is shown and kept.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = Invalid;

            fn from_str(text: &str) -> Result<Self, Invalid> {
                if $is_valid(text) {
                    return Ok(Self(text.to_owned()));
                }
                Err(Invalid::new($field, text, $cure))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )*};
}

name_newtype! {
    /// The name of a project.
    ProjectName, "project", is_project_name,
        "write 1 to 40 small letters, digits and single dashes, a letter or digit at both ends";
    /// The name of a person or a service, as records and logs show it.
    PrincipalName, "name", is_principal_name,
        "write 1 to 64 small letters, digits and any of . _ - @ +, a letter or digit at both ends, \
         and not a name of farm's own (admin, coordinator, worker)";
}

/// What farm calls principals of its own: nobody else may look like them in a log.
const OWN: [&str; 3] = ["admin", "coordinator", "worker"];

fn is_project_name(text: &str) -> bool {
    is_name(text, 40, "-") && !text.contains("--")
}

fn is_principal_name(text: &str) -> bool {
    is_name(text, 64, "._-@+") && !OWN.contains(&text)
}

fn is_name(text: &str, longest: usize, between: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    (1..=longest).contains(&text.len())
        && text.chars().all(|c| is_plain(c) || between.contains(c))
        && text.starts_with(is_plain)
        && text.ends_with(is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_role_may_more_than_the_one_before_and_is_read_by_its_word() {
        assert!(Role::ALL.windows(2).all(|pair| pair[0] < pair[1]));
        for role in Role::ALL {
            assert_eq!(role.to_string().parse(), Ok(role));
        }
        let error = "bulider".parse::<Role>().unwrap_err().to_string();
        assert!(error.contains("did you mean builder?") && error.contains("publisher"), "{error}");
        for kind in PrincipalKind::ALL {
            assert_eq!(kind.to_string().parse(), Ok(kind));
        }
    }

    #[test]
    fn names_are_plain_and_nobody_takes_one_of_farms_own() {
        for name in ["web", "a", "web-2", &"a".repeat(40)] {
            assert_eq!(name.parse::<ProjectName>().unwrap().as_str(), name);
        }
        for name in ["", "Web", "web_2", "-web", "web-", "a--b", "a b", "wéb", "a/b", &"a".repeat(41)] {
            assert!(name.parse::<ProjectName>().is_err(), "{name}");
        }
        for name in ["ada", "ada.l@example.org", "ci+web", "7"] {
            assert_eq!(name.parse::<PrincipalName>().unwrap().as_str(), name);
        }
        for name in ["", "admin", "coordinator", "worker", "Ada", "ada\n", "ada ", "@ada", "a\u{202e}b"] {
            assert!(name.parse::<PrincipalName>().is_err(), "{name}");
        }
    }
}
