//! What a delivery, while it is processed, has its forge show at its commit: `farm/IMAGE` of each image that its rules want, or `farm` where
//! it comes to none. How builds end is told by [`super::statuses`].

use farm_rules::{Event, EventKind, Problems};
use farm_store::StoreError;
use farm_store::hooks::deliveries::{DeliveryState, End, Waiting};
use farm_store::hooks::statuses::{About, Detail, StatusState, WHOLE, Wanted, Whole};
use farm_store::machines::leader::Epoch;
use farm_types::{BuildId, Commit, ShortId};

use super::step::Begun;
use crate::shared::Shared;

/// The longest description, characters: GitHub takes no longer one.
const LONGEST: usize = 140;

/// The longest detail, bytes, and so many places in the rules it has at most.
const LONGEST_DETAIL: usize = 60_000;
const MOST_PLACES: usize = 50;

/// What a pass has found of a delivery.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// What it is about, once that is known.
    pub about: Option<About>,
    /// Its rules were read, and are in order.
    pub is_planned: bool,
    /// A fork's pull request.
    fork: Option<u64>,
    images: Vec<Wanted>,
    /// Its rules are the repository's file, and wrong.
    is_files: bool,
    /// What is wrong on which lines of the commit's own rules.
    places: Vec<(u32, String)>,
}

impl Told {
    /// It is about this commit.
    pub(super) fn at(&mut self, event: &Event, commit: Commit) {
        let branch = match &event.kind {
            EventKind::Push { branch: name }
            | EventKind::Tag { tag: name }
            | EventKind::Release { tag: name, .. } => Some(name.clone()),
            // A fork's branch is none of the repository's.
            EventKind::PullRequest { head, fork: false, .. } => Some(head.clone()),
            EventKind::PullRequest { .. } | EventKind::Schedule { .. } | EventKind::BaseImage { .. } => None,
        };
        if let EventKind::PullRequest { number, fork: true, .. } = &event.kind {
            self.fork = Some(*number);
        }
        let (git_ref, kind) = (event.git_ref.clone(), event.kind.as_str());
        self.about = Some(About { commit, git_ref, kind, branch });
    }

    /// An image has a build.
    pub(super) fn built(&mut self, image: &str, build: (BuildId, ShortId)) {
        self.image(image, (StatusState::Pending, "it is being built"), Some(build), None);
    }

    /// An image waits for somebody who approves it, by this build.
    pub(super) fn held(&mut self, image: &str, what: &str, by: &ShortId) {
        self.image(image, (StatusState::Pending, what), None, Some(by.clone()));
    }

    /// The rules are the repository's file, and wrong. What is proposed has those of its base, whose lines may be others.
    pub(super) fn wrong(&mut self, problems: &Problems) {
        self.is_files = true;
        if self.about.as_ref().is_some_and(|about| about.kind != "pull_request") {
            let place = |problem: &farm_rules::Problem| {
                Some((u32::try_from(problem.at.line).ok()?, problem.what.to_string()))
            };
            self.places = problems.iter().filter_map(place).take(MOST_PLACES).collect();
        }
    }

    /// An image has none.
    pub(super) fn unbuilt(&mut self, image: &str, begun: &Begun) {
        let (state, why) = match begun {
            Begun::Goes(what) => (StatusState::Pending, what),
            Begun::Ignored(why) => (StatusState::Cancelled, why),
            Begun::Failed(why) => (StatusState::Failure, why),
            Begun::Done { .. } | Begun::Later(_) | Begun::Anew(_) | Begun::Held(_) => return,
        };
        self.image(image, (state, why), None, None);
    }

    fn image(
        &mut self,
        image: &str,
        (state, why): (StatusState, &str),
        build: Option<(BuildId, ShortId)>,
        held: Option<ShortId>,
    ) {
        // Whoever likes to proposes a commit that others have made: what is said of that stands beside what these are told.
        let context = match self.fork {
            Some(number) => format!("{WHOLE}/{image} (pull request {number})"),
            None => format!("{WHOLE}/{image}"),
        };
        self.images.push(Wanted { context, state, description: line(why), build, held });
    }

    /// What the commit is to be shown as a whole: of a fork's nothing, as that is what stands at others' commits as well.
    fn whole<'a>(&self, red: Option<&'a (String, Detail)>) -> Whole<'a> {
        match red {
            _ if self.fork.is_some() => Whole::Open,
            Some((why, detail)) => Whole::Red(why, detail),
            None if self.is_planned => Whole::Fine,
            None => Whole::Open,
        }
    }

    /// Why it comes to nothing as a whole, in one line and in all. What fails is red in one place at least.
    fn red(&self, end: Option<&End>) -> Option<(String, Detail)> {
        let is_red = self.images.iter().any(|one| one.state == StatusState::Failure);
        end.filter(|end| end.state == DeliveryState::Failed && !is_red).map(|end| {
            // What the repository's file says its readers know; of the project's own rules, and its fetches, they are told one line.
            let mut text = if self.is_files { end.reason.clone() } else { line(&end.reason) };
            let most = (0..=LONGEST_DETAIL).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
            text.truncate(most);
            (line(&end.reason), Detail { text, places: self.places.clone() })
        })
    }
}

/// Notes what is to be shown; what was said to be pending before and comes to nothing is over at the delivery's end.
///
/// # Errors
/// Another coordinator leads, or the database can't be reached.
pub(super) async fn tell(
    shared: &Shared,
    epoch: Epoch,
    of: &Waiting,
    told: &Told,
    end: Option<&End>,
) -> Result<(), StoreError> {
    if !of.is_told {
        return Ok(());
    }
    let (red, mut is_new) = (told.red(end), false);
    let whole = told.whole(red.as_ref());
    let about = match (&told.about, &red) {
        // A late one says nothing of what another delivery has built already.
        (Some(about), Some(_)) if !told.is_planned && matches!(about.kind, "push" | "tag") => {
            let is_known = shared.loops.is_placed_by_another(of, &about.git_ref, &about.commit).await?;
            Some(about).filter(|_| !is_known)
        }
        (about, _) => about.as_ref(),
    };
    if let Some(about) = about.filter(|_| whole != Whole::Open || !told.images.is_empty()) {
        is_new = shared.loops.want_statuses(epoch, of, about, &told.images, whole).await?;
    }
    if let Some(end) = end {
        is_new |= shared.loops.leave_statuses(epoch, of, &line(&end.reason)).await?;
    }
    if is_new {
        shared.hints.told.notify_one();
    }
    Ok(())
}

/// A text in one short line: its first one, and how many more there are.
pub(super) fn line(text: &str) -> String {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let first: String = lines.next().unwrap_or_default().chars().filter(|c| !c.is_control()).collect();
    let more = match lines.count() {
        0 => String::new(),
        more => format!(" (and {more} more)"),
    };
    let room = LONGEST - more.len();
    if first.chars().count() <= room {
        return format!("{first}{more}");
    }
    let cut: String = first.chars().take(room - 1).collect();
    format!("{}…{more}", cut.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(state: DeliveryState, reason: &str) -> End {
        End { state, reason: reason.to_owned(), builds: Vec::new() }
    }

    #[test]
    fn a_description_is_one_line_that_every_forge_takes() {
        assert_eq!(line(".farm.yaml: 16:5: no\n 17:1: no\n\n 18:1: no"), ".farm.yaml: 16:5: no (and 2 more)");
        assert_eq!(line("\n a\u{1b}b \t\n"), "ab");
        assert_eq!(line(""), "");
        for long in ["é".repeat(500), format!("{}\nmore", "é".repeat(500))] {
            let cut = line(&long);
            assert!(cut.chars().count() == LONGEST && cut.contains('…'), "{cut}");
        }
        assert_eq!(line(&"x".repeat(140)), "x".repeat(140));
    }

    #[test]
    fn what_a_fork_proposes_is_shown_beside_what_its_commit_is_to_others() {
        let commit: Commit = "a".repeat(40).parse().unwrap();
        let no = ("no".to_owned(), Detail { text: "no".to_owned(), places: Vec::new() });
        for (fork, context, whole) in
            [(true, "farm/app (pull request 7)", Whole::Open), (false, "farm/app", Whole::Red("no", &no.1))]
        {
            let kind =
                EventKind::PullRequest { number: 7, base: "main".to_owned(), head: "mend".to_owned(), fork };
            let event = Event {
                kind,
                git_ref: "refs/pull/7/head".parse().unwrap(),
                commit: commit.clone(),
                default_branch: None,
                changed: None,
                message: String::new(),
            };
            let mut told = Told::default();
            told.at(&event, commit.clone());
            told.unbuilt("app", &Begun::Goes("waits".to_owned()));
            assert_eq!(told.images[0].context, context);
            assert_eq!(told.whole(Some(&no)), whole);
            assert_eq!(told.whole(None), Whole::Open);
        }
    }

    #[test]
    fn only_of_the_repositorys_own_file_all_is_said() {
        let failed = end(DeliveryState::Failed, "the rules of hook app: 2:1: no\n 3:1: token s3cr3t");
        let text = |told: &Told| told.red(Some(&failed)).map(|(_, detail)| detail.text);
        let mut told = Told::default();
        assert_eq!(text(&told).as_deref(), Some("the rules of hook app: 2:1: no (and 1 more)"));
        told.is_files = true;
        assert_eq!(text(&told).as_deref(), Some(failed.reason.as_str()));
    }

    #[test]
    fn what_fails_is_red_once_and_what_is_ignored_is_not_shown() {
        let mut told = Told::default();
        assert_eq!(told.red(Some(&end(DeliveryState::Ignored, "no file"))), None);
        let failed = end(DeliveryState::Failed, ".farm.yaml: 2:1: no");
        assert_eq!(told.red(Some(&failed)).map(|(why, _)| why).as_deref(), Some(".farm.yaml: 2:1: no"));
        told.unbuilt("app", &Begun::Failed("no Dockerfile".to_owned()));
        told.unbuilt("web", &Begun::Goes("waits for app".to_owned()));
        told.unbuilt("old", &Begun::Ignored("it has moved on".to_owned()));
        let shown: Vec<String> =
            told.images.iter().map(|one| format!("{} {}", one.context, one.state)).collect();
        assert_eq!(shown, ["farm/app failure", "farm/web pending", "farm/old cancelled"]);
        assert_eq!((told.red(Some(&failed)), told.red(None)), (None, None));
    }
}
