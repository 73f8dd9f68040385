//! Who calls, and how far what they have shown reaches.

use std::time::Instant;

use chrono::{DateTime, Utc};
use farm_core::people::secrets::Asker;
use farm_store::builds::record::BuildRecord;
use farm_store::builds::submitter::{Submitter, SubmittingJob};
use farm_store::machines::certificates::ShownWorker;
use farm_store::people::principals::JobClaims;
use farm_store::people::principals::{Membership, Origin, Shown};
use farm_types::{PrincipalId, PrincipalKind, ProjectId, Role, TokenId};

/// The kinds of callers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Whoever has the farm's own token file: may do everything, also work.
    Admin,
    /// Another coordinator of this farm.
    Coordinator,
    /// A worker, by a certificate of its own.
    Worker,
    /// A person or a service, by a token of theirs.
    Known(PrincipalKind),
}

impl Kind {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Coordinator => "coordinator",
            Self::Worker => "worker",
            Self::Known(kind) => kind.as_str(),
        }
    }
}

/// Who calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// The name, as records and logs show it.
    pub name: String,
    /// What kind of caller it is.
    pub kind: Kind,
    /// May do what an admin of the farm may.
    pub is_farm_admin: bool,
    /// Its projects and what it may do there, by name: what the token leaves of it.
    pub memberships: Vec<Membership>,
    /// Its row; `None` of farm's own.
    pub id: Option<PrincipalId>,
    /// The token's row.
    pub token: Option<TokenId>,
    /// The token's first characters; empty: the farm's own.
    pub hint: String,
    /// The only project in which the token counts.
    pub only: Option<ProjectId>,
    /// The most that the token gives.
    pub most: Option<Role>,
    /// When the token, or the certificate, ends.
    pub expires_at: Option<DateTime<Utc>>,
    /// The sign-in that the token comes of.
    pub sign_in: Option<Origin>,
    /// Of a CI system's job: what its token said.
    pub claims: Option<JobClaims>,
    /// What a worker's certificate says of it.
    pub worker: Option<WorkerIdentity>,
}

/// What the configuration says of those who sign in.
#[derive(Debug, Clone, Default)]
pub struct SignInRules {
    /// The one issuer of which sign-ins count.
    pub issuer: Option<String>,
    /// Whoever has signed in with one of these groups is an admin of the farm.
    pub admin_groups: Vec<String>,
}

/// What a worker's certificate says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerIdentity {
    /// As what it joined.
    pub shown: ShownWorker,
    /// When the certificate ends.
    pub ends: Instant,
}

impl Principal {
    /// One of farm's own.
    pub fn own(kind: Kind) -> Self {
        Self {
            name: kind.as_str().to_owned(),
            kind,
            is_farm_admin: kind == Kind::Admin,
            memberships: Vec::new(),
            id: None,
            token: None,
            hint: String::new(),
            only: None,
            most: None,
            expires_at: None,
            sign_in: None,
            claims: None,
            worker: None,
        }
    }

    /// Whom a worker's certificate shows, of which was asked at that moment.
    pub fn worker(shown: ShownWorker, asked: Instant) -> Self {
        let left = (shown.expires_at - shown.now).to_std().unwrap_or_default();
        Self {
            name: shown.name.clone(),
            expires_at: Some(shown.expires_at),
            worker: Some(WorkerIdentity { ends: asked + left, shown }),
            ..Self::own(Kind::Worker)
        }
    }

    /// Whom a token shows. A token with a scope gives no more than that, also to an admin of the farm.
    pub fn shown(shown: Shown, rules: &SignInRules) -> Self {
        let is_whole = shown.project.is_none() && shown.role.is_none();
        let within = |project: ProjectId| shown.project.is_none_or(|only| only == project);
        let most = |role: Role| shown.role.map_or(role, |most| role.min(most));
        let groups = shown.sign_in.as_ref().map_or(&[][..], |origin| origin.groups.as_slice());
        let is_admin =
            shown.principal.is_farm_admin || groups.iter().any(|group| rules.admin_groups.contains(group));
        let memberships = shown.memberships.into_iter().filter(|member| within(member.project));
        Self {
            name: shown.principal.name,
            kind: Kind::Known(shown.principal.kind),
            is_farm_admin: is_admin && is_whole,
            memberships: memberships.map(|member| Membership { role: most(member.role), ..member }).collect(),
            id: Some(shown.principal.id),
            token: Some(shown.token),
            hint: shown.hint,
            only: shown.project,
            most: shown.role,
            expires_at: shown.expires_at,
            sign_in: shown.sign_in,
            claims: shown.claims,
            worker: None,
        }
    }

    /// As what it asks for a project's secrets.
    pub fn asker(&self) -> Asker<'_> {
        match (&self.claims, self.kind) {
            (Some(JobClaims { full_ref, event }), _) => {
                Asker::Job { full: full_ref.as_deref(), event: event.as_deref() }
            }
            (None, Kind::Known(PrincipalKind::Subject)) => Asker::Forgotten,
            (None, _) => Asker::Own,
        }
    }

    /// As whom it submits a build.
    pub fn submitter(&self) -> Submitter {
        let is_job = self.kind == Kind::Known(PrincipalKind::Subject);
        let job = self.token.filter(|_| is_job).map(|token| {
            let JobClaims { full_ref, event } = self.claims.clone().unwrap_or_default();
            SubmittingJob { token, full_ref, event }
        });
        Submitter { principal: self.id, job }
    }

    /// Whether it has submitted this build. Of one that an older coordinator has accepted only the name is known, which for a job isn't
    /// enough.
    pub fn has_submitted(&self, record: &BuildRecord) -> bool {
        let own = self.submitter();
        let is_same = match &record.submitter {
            Some(submitter) => submitter.is(&own),
            None => own.job.is_none(),
        };
        is_same && record.created_by == self.name
    }

    /// What it may do in a project.
    pub fn role_in(&self, project: ProjectId) -> Option<Role> {
        if self.is_farm_admin {
            return Some(Role::Admin);
        }
        self.memberships.iter().find(|member| member.project == project).map(|member| member.role)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use farm_store::people::principals::Principal as Row;

    fn shown(project: Option<ProjectId>, role: Option<Role>, is_farm_admin: bool) -> (Shown, [ProjectId; 2]) {
        let projects = [ProjectId::generate(), ProjectId::generate()];
        let member = |place: usize, name: &str, role| Membership {
            project: projects[place],
            name: name.parse().unwrap(),
            role,
        };
        let shown = Shown {
            principal: Row {
                id: PrincipalId::generate(),
                name: "ada".into(),
                kind: PrincipalKind::Person,
                is_farm_admin,
            },
            memberships: vec![member(0, "web", Role::Admin), member(1, "api", Role::Viewer)],
            token: TokenId::generate(),
            hint: "farm_p_12345".into(),
            project,
            role,
            expires_at: None,
            revoked_at: None,
            is_used: true,
            sign_in: None,
            claims: None,
            now: Utc::now(),
        };
        (shown, projects)
    }

    fn told(shown: Shown) -> Principal {
        let rules = SignInRules {
            issuer: Some("https://sso.example".into()),
            admin_groups: vec!["ops".into(), "root".into()],
        };
        Principal::shown(shown, &rules)
    }

    #[test]
    fn who_signed_in_with_a_group_of_admins_is_one_by_that_token_without_a_scope() {
        let with = |groups: &[&str], role| {
            let (mut shown, _) = shown(None, role, false);
            let groups = groups.iter().map(|group| (*group).to_owned()).collect();
            shown.sign_in = Some(Origin { issuer: "https://sso.example".into(), groups });
            told(shown)
        };
        assert!(with(&["devs", "root"], None).is_farm_admin);
        assert!(!with(&["devs", "Root"], None).is_farm_admin && !with(&[], None).is_farm_admin);
        assert!(!with(&["root"], Some(Role::Admin)).is_farm_admin);
        assert!(!told(shown(None, None, false).0).is_farm_admin);
    }

    #[test]
    fn a_token_gives_what_its_holder_may_and_no_more_than_its_scope() {
        let (all, [web, api]) = shown(None, None, false);
        let all = told(all);
        assert_eq!((all.role_in(web), all.role_in(api)), (Some(Role::Admin), Some(Role::Viewer)));
        assert_eq!(all.role_in(ProjectId::generate()), None);
        let (builder, [web, api]) = shown(None, Some(Role::Builder), false);
        let builder = told(builder);
        assert_eq!((builder.role_in(web), builder.role_in(api)), (Some(Role::Builder), Some(Role::Viewer)));
        let (mut one, [web, api]) = shown(None, None, false);
        one.project = Some(api);
        let one = told(one);
        assert_eq!((one.role_in(web), one.role_in(api)), (None, Some(Role::Viewer)));
    }

    #[test]
    fn an_admin_of_the_farm_is_one_by_a_token_without_a_scope_only() {
        let (whole, _) = shown(None, None, true);
        assert_eq!(told(whole).role_in(ProjectId::generate()), Some(Role::Admin));
        let (less, [web, api]) = shown(None, Some(Role::Publisher), true);
        let less = told(less);
        assert!(!less.is_farm_admin);
        assert_eq!((less.role_in(web), less.role_in(api)), (Some(Role::Publisher), Some(Role::Viewer)));
        let (mut one, [web, _]) = shown(None, None, true);
        one.project = Some(web);
        let one = told(one);
        assert!(!one.is_farm_admin && one.role_in(ProjectId::generate()).is_none());
    }
}
