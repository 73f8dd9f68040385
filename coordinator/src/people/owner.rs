//! As whom the farm does what somebody has asked it to do again and again, while they aren't there.
//!
//! Invariant: they may no more by that than when they asked, and no more than they may now. What counts is their own membership: a
//! sign-in's groups and a job's token are gone by then.

use std::sync::Arc;

use farm_store::people::principals::Membership;
use farm_types::{PrincipalId, PrincipalKind, ProjectId, ProjectName, Role};

use super::principal::{Kind, Principal};
use super::{Caller, Member};

/// Whoever has asked.
#[derive(Debug, Clone, Copy)]
pub struct Owner<'a> {
    /// What it is known by.
    pub id: PrincipalId,
    /// Its name.
    pub name: &'a str,
    /// What it is.
    pub kind: PrincipalKind,
    /// What it may do in the project now; `None`: nothing.
    pub role: Option<Role>,
}

/// Them as a member of the project, if they may still submit there; `None` is whoever has the farm's token file. Where they may not: why.
///
/// # Errors
/// They aren't in the project any more, or may no more than look at it.
pub fn acting(
    (project, name): (ProjectId, &ProjectName),
    owner: Option<Owner<'_>>,
    most: Role,
) -> Result<Member, String> {
    let principal = match owner {
        None => Principal::own(Kind::Admin),
        Some(owner) => {
            let who = owner.name;
            let role = owner.role.ok_or_else(|| format!("{who} is in project {name} no more"))?.min(most);
            if role < Role::Builder {
                return Err(format!(
                    "{who} is {role} of project {name} now, and to submit builds needs builder"
                ));
            }
            Principal {
                name: who.to_owned(),
                memberships: vec![Membership { project, name: name.clone(), role }],
                id: Some(owner.id),
                only: Some(project),
                ..Principal::own(Kind::Known(owner.kind))
            }
        }
    };
    Ok(Member {
        name: principal.name.clone(),
        project,
        project_name: name.clone(),
        caller: Caller {
            principal: Arc::new(principal),
            project: Some((project, name.clone())),
            address: None,
            is_encrypted: true,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_may_more_than_when_they_asked_nor_more_than_now() {
        let (project, name): (_, ProjectName) = (ProjectId::generate(), "web".parse().unwrap());
        let ada =
            |role| Owner { id: PrincipalId::generate(), name: "ada", kind: PrincipalKind::Person, role };
        let role = |now: Option<Role>, then: Role| {
            let member = acting((project, &name), Some(ada(now)), then)?;
            Ok::<_, String>(member.caller.principal.role_in(project).unwrap())
        };
        assert_eq!(role(Some(Role::Admin), Role::Builder), Ok(Role::Builder));
        assert_eq!(role(Some(Role::Publisher), Role::Admin), Ok(Role::Publisher));
        assert!(role(None, Role::Admin).unwrap_err().contains("ada is in project web no more"));
        assert!(role(Some(Role::Viewer), Role::Admin).unwrap_err().contains("is viewer of project web now"));
        let member = acting((project, &name), Some(ada(Some(Role::Builder))), Role::Admin).unwrap();
        assert_eq!(member.caller.principal.role_in(ProjectId::generate()), None);
        assert!(acting((project, &name), None, Role::Admin).unwrap().caller.principal.is_farm_admin);
    }
}
