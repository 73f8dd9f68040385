//! Pages of lists (https://google.aip.dev/158): a token says where the next one begins.
//!
//! It is the last build of the page before, so that it stays right while builds come and go, with a check over what was asked
//! for: a token that was cut short, or is of another list, is told apart. It is no secret, and gives nobody any right.

use farm_types::state::BuildState;
use farm_types::{BuildId, Digest, Invalid, ProjectId};
use uuid::Uuid;

/// Hex digits of the build, and of the check.
const BUILD: usize = 32;
const CHECK: usize = 16;

/// The list that pages are of.
#[derive(Debug)]
pub struct List<'a> {
    /// Whose builds.
    pub project: ProjectId,
    /// In which states.
    pub states: &'a [BuildState],
}

impl List<'_> {
    /// The token of the page that begins after this build.
    pub fn token(&self, last: BuildId) -> String {
        format!("{}{}", last.as_uuid().simple(), self.check(last))
    }

    /// The build after which the page of this token begins; `None` of the empty one, which is the first page's.
    ///
    /// # Errors
    /// It is no token of this list.
    pub fn read(&self, token: &str) -> Result<Option<BuildId>, Invalid> {
        if token.is_empty() {
            return Ok(None);
        }
        let build = token.split_at_checked(BUILD).and_then(|(build, _)| Uuid::try_parse(build).ok());
        let build = build.map(BuildId::from).filter(|build| self.token(*build) == token);
        build.map(Some).ok_or_else(|| {
            let shown: String = token.chars().take(BUILD + CHECK).collect();
            let cure = "it is none of this list; take next_page_token of the page before, with the same states, or none \
                        for the first page";
            Invalid::new("page token", shown, cure)
        })
    }

    fn check(&self, last: BuildId) -> String {
        let mut states: Vec<&str> = self.states.iter().map(|state| state.as_str()).collect();
        states.sort_unstable();
        states.dedup();
        let list = format!("{} {} {}", self.project.as_uuid(), last.as_uuid(), states.join(" "));
        Digest::of(list.as_bytes()).hex().chars().take(CHECK).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_of_one_list_and_whole() {
        let project = ProjectId::from(Uuid::from_u128(1));
        let states = [BuildState::Failed, BuildState::Queued];
        let list = List { project, states: &states };
        let last = BuildId::generate();
        let token = list.token(last);
        assert_eq!(list.read(&token), Ok(Some(last)));
        assert_eq!(list.read(""), Ok(None));
        // The order in which states are named is none of the list's.
        let same = List { project, states: &[BuildState::Queued, BuildState::Failed, BuildState::Queued] };
        assert_eq!(same.read(&token), Ok(Some(last)));
        let others = [
            List { project, states: &[] },
            List { project: ProjectId::from(Uuid::from_u128(2)), states: &states },
        ];
        for other in others {
            assert!(other.read(&token).is_err(), "{other:?}");
        }
        let wrong =
            [&token[..40], "2", "é", &token.to_uppercase(), &format!("{token}0"), &"z".repeat(BUILD + CHECK)];
        for token in wrong {
            let error = list.read(token).unwrap_err().to_string();
            assert!(error.contains("page token") && error.contains("next_page_token"), "{error}");
        }
    }
}
