//! The build that an address names, as far as it is there for whoever asks.

use farm_proto::v1;
use farm_store::StoreError;
use farm_store::builds::record::BuildRecord;
use farm_types::{ProjectId, ProjectName};

use super::problem::Problem;
use super::route::Place;
use super::templates::{Choice, Who};
use super::visitor::{Visitor, may};
use crate::hooks::approving::Named;
use crate::people::Member;
use crate::people::rights::Action;
use crate::shared::Shared;
use crate::shown::hidden::Hidden;
use crate::shown::present;

/// What a visitor is shown of a build.
pub struct Found {
    pub record: BuildRecord,
    /// Without what is hidden from them.
    pub build: v1::Build,
    pub hidden: Hidden,
}

/// A build, or several of its name.
pub enum Search {
    One(Box<Found>),
    /// One in each of these projects.
    Several(Vec<ProjectName>),
}

/// Which of several builds of one name is meant; each has an address.
pub fn choice(place: &Place, projects: Vec<ProjectName>, address: impl Fn(&Place) -> String) -> Choice {
    let one = |project: ProjectName| {
        let at = Place { id: place.id.clone(), project: Some(project.clone()) };
        (project.to_string(), address(&at))
    };
    Choice { id: place.id.to_string(), projects: projects.into_iter().map(one).collect() }
}

impl Found {
    /// The build, as it is named to what approves.
    pub fn named<'a>(&self, place: &'a Place) -> Named<'a> {
        Named { project: self.record.project, build: self.record.id, id: &place.id }
    }
}

/// Whose page it is, as its head says it.
pub fn who(visitor: &Visitor) -> Who {
    Who {
        name: visitor.caller.principal.name.clone(),
        guard: visitor.session.as_ref().map(|session| session.guard()).unwrap_or_default(),
    }
}

/// The build of this place, as this visitor sees it: what isn't for them isn't there.
///
/// # Errors
/// There is none, or the database doesn't answer.
pub(crate) async fn find(shared: &Shared, visitor: &Visitor, place: &Place) -> Result<Search, Problem> {
    let principal = &visitor.caller.principal;
    let may_see = |project: ProjectId| may(principal, Action::ReadBuilds, project);
    let own: Vec<ProjectId> =
        principal.memberships.iter().map(|member| member.project).filter(|id| may_see(*id)).collect();
    let within = (!principal.is_farm_admin).then_some(own.as_slice());
    let mut projects = shared.store.projects_with_build(&place.id, within).await?;
    if let Some(named) = &place.project {
        projects.retain(|(_, name)| name == named);
    }
    let (project, name) = match projects.as_slice() {
        [] => return Err(Problem::no_build()),
        [(project, name)] => (*project, name.clone()),
        several => return Ok(Search::Several(several.iter().map(|(_, name)| name.clone()).collect())),
    };
    let record = match shared.store.build(project, &place.id).await {
        // Removed at this moment.
        Err(StoreError::NotFound(_)) => return Err(Problem::no_build()),
        other => other?,
    };
    let mut caller = visitor.caller.clone();
    caller.project = Some((project, name.clone()));
    let member = Member { name: principal.name.clone(), project, project_name: name, caller };
    let hidden = Hidden::of(shared, &member, &record).await?;
    let build = present::build(&record, &hidden);
    Ok(Search::One(Box::new(Found { record, build, hidden })))
}
