//! Who may use what a project keeps for some, as flags say it: secrets, and signing keys.

use farm_proto::v1::{SecretEvents, SecretRefs};
use farm_types::{EventName, Invalid, RefPattern, Role};

use super::of_flag;

/// Who may use it; what isn't said stays as it is.
#[derive(Debug, Default, clap::Args)]
pub(super) struct Who {
    /// The least role that uses it: builder, publisher or admin [default of a new one: builder]
    #[arg(long, value_name = "ROLE")]
    pub(super) role: Option<String>,

    /// Only jobs of CI systems that build this ref, in full, like refs/heads/main or 'refs/tags/v*'; may be given several times; none
    /// for any
    #[arg(long = "ref", value_name = "REF|none")]
    pub(super) refs: Vec<String>,

    /// Only jobs that were begun by this event, in their system's word (push, schedule, …), and people by manual; may be given several
    /// times; none for any
    #[arg(long = "event", value_name = "EVENT|none")]
    pub(super) events: Vec<String>,
}

/// The same, for the farm.
#[derive(Debug, PartialEq)]
pub(super) struct Said {
    pub(super) role: Option<String>,
    pub(super) refs: Option<SecretRefs>,
    pub(super) events: Option<SecretEvents>,
}

impl Said {
    /// Whether it says nothing.
    pub(super) fn is_nothing(&self) -> bool {
        (&self.role, &self.refs, &self.events) == (&None, &None, &None)
    }
}

impl Who {
    /// What it says.
    ///
    /// # Errors
    /// A word that can't be.
    pub(super) fn said(&self) -> Result<Said, Invalid> {
        let role: Option<Role> = self.role.as_deref().map(|role| of_flag("--role", role)).transpose()?;
        if role == Some(Role::Viewer) {
            let cure = "a viewer submits no builds; there are builder, publisher and admin";
            return Err(Invalid::new("--role", "viewer", cure));
        }
        let refs = several::<RefPattern>("--ref", &self.refs)?;
        let events = several::<EventName>("--event", &self.events)?;
        Ok(Said {
            role: role.map(|role| role.to_string()),
            refs: refs.map(|patterns| SecretRefs { patterns }),
            events: events.map(|names| SecretEvents { names }),
        })
    }
}

/// What a flag that may be given several times says; `None`: nothing.
fn several<T>(flag: &str, all: &[String]) -> Result<Option<Vec<String>>, Invalid>
where
    T: std::str::FromStr<Err = Invalid> + ToString,
{
    match all {
        [] => Ok(None),
        [one] if one == "none" => Ok(Some(Vec::new())),
        all if all.iter().any(|one| one == "none") => {
            Err(Invalid::new(flag, "none", "it takes all away, and stands alone"))
        }
        all => {
            all.iter().map(|one| Ok(of_flag::<T>(flag, one)?.to_string())).collect::<Result<_, _>>().map(Some)
        }
    }
}
