//! Pull requests of forks: what waits for an approval, what approves it, and what ends both; and that no machine that is trusted gets
//! what they propose.

use std::time::Duration;

use farm_core::work::plan::{Limits, plan};
use farm_store::builds::submit::NewBuild;
use farm_store::hooks::approvals::{Approval, Head, UNAPPROVED};
use farm_store::hooks::builds::{OfDelivery, Part};
use farm_store::hooks::deliveries::{DeliveryState, End, Waiting};
use farm_store::hooks::forks::{MOST, Most, Proposal, Stands, scope};
use farm_store::hooks::registered::NewHook;
use farm_store::hooks::secrets::SealedSecret;
use farm_store::hooks::statuses::{About, StatusState, Wanted, Whole};
use farm_store::{StoreError, default_project};
use farm_types::{BuildId, TrustClass};

use crate::fixture::{LEASE, PUBLISH, World, tester, world};
use crate::hooks::{hook, keep, secret};
use crate::joining::{connect, join, patched};
use crate::retrying::retry_of;
use crate::statuses::token;

const DAY: Duration = Duration::from_secs(24 * 3600);

struct Told {
    world: World,
    app: NewHook,
    key: SealedSecret,
}

async fn told() -> Told {
    let (world, key) = (world().await, secret());
    let app = hook("app", &key);
    world.store.add_hook(&tester(), &app).await.unwrap();
    Told { world, app, key }
}

/// The head of pull request 7, at a commit of which each digit is this one.
fn head(digit: char) -> Proposal {
    Proposal {
        number: 7,
        commit: digit.to_string().repeat(40).parse().unwrap(),
        base: "main".to_owned(),
        head: "mend".to_owned(),
        head_repository: "43".to_owned(),
        head_name: "eve/app".to_owned(),
        is_fork: true,
        is_open: true,
        opener: ("9".to_owned(), "eve".to_owned()),
        at: None,
    }
}

impl Told {
    /// A delivery of this id comes and tells this of the pull request.
    async fn comes(&self, id: &str, proposal: &Proposal) -> Waiting {
        keep(&self.world, &self.app, &self.key, id, id.as_bytes()).await;
        let waiting = self.due().await;
        let one = waiting.into_iter().find(|one| one.id == id).unwrap();
        self.world.store.see_proposal(self.world.epoch, &one, proposal).await.unwrap();
        one
    }

    async fn due(&self) -> Vec<Waiting> {
        self.world.store.waiting_deliveries(1000).await.unwrap()
    }

    async fn due_ids(&self) -> Vec<String> {
        self.due().await.into_iter().map(|one| one.id).collect()
    }

    /// The same, and it is held.
    async fn held(&self, id: &str, proposal: &Proposal) -> Waiting {
        let one = self.comes(id, proposal).await;
        assert_eq!(self.note(&one, proposal).await, None);
        let git_ref = format!("refs/pull/{}/head", proposal.number).parse().unwrap();
        assert!(self.world.store.line_up(self.world.epoch, &one, &git_ref).await.unwrap());
        self.hold(&one, proposal).await;
        one
    }

    async fn note(&self, one: &Waiting, proposal: &Proposal) -> Option<String> {
        self.world.store.note_fork(self.world.epoch, one, proposal, MOST).await.unwrap()
    }

    async fn hold(&self, one: &Waiting, proposal: &Proposal) {
        let images = ["app".to_owned()];
        self.world.store.hold(self.world.epoch, one, proposal, (&images, "waits")).await.unwrap();
    }

    async fn stands(&self, one: &Waiting, proposal: &Proposal) -> Stands {
        self.world.store.stands(self.world.epoch, one, proposal).await.unwrap()
    }

    fn shown<'a>(&self, of: &'a Proposal) -> Approval<'a> {
        let head = Head::Shown { commit: &of.commit, base: &of.base, repository: &of.head_repository };
        Approval { project: default_project(), hook: self.app.id, number: of.number, head }
    }

    async fn approve(&self, of: &Proposal) -> Result<bool, String> {
        self.given(&self.shown(of)).await
    }

    async fn given(&self, approval: &Approval<'_>) -> Result<bool, String> {
        match self.world.store.approve(&tester(), approval).await {
            Ok(approved) => Ok(approved.is_again),
            Err(StoreError::Conflict(why)) => Err(why),
            Err(error) => panic!("{error}"),
        }
    }

    /// An image of a delivery is submitted.
    async fn submit(&self, one: &Waiting, image: &str) -> Result<BuildId, StoreError> {
        let of = OfDelivery {
            hook: one.hook,
            delivery: one.id.clone(),
            run: one.run,
            part: Part::Image,
            image: image.to_owned(),
            git_ref: "refs/pull/7/head".parse().unwrap(),
            order_key: None,
        };
        let key = format!("{} {} {} {image}", one.hook, one.id, one.run);
        let new = NewBuild {
            of: Some(of),
            fork: Some(scope(one.hook, 7)),
            ..self.world.new_build(&key, "linux/amd64", &[])
        };
        self.world.store.submit(&new).await.map(|submitted| submitted.id)
    }

    async fn over(&self, one: &Waiting) {
        let end = End { state: DeliveryState::Ignored, reason: String::new(), builds: Vec::new() };
        self.world.store.end_delivery(self.world.epoch, one, &end).await.unwrap();
    }
}

fn is_approved(stands: &Stands) -> bool {
    matches!(stands, Stands::Approved { by, .. } if by == "test")
}

#[tokio::test]
async fn what_waits_for_an_approval_is_in_nobodys_way_and_goes_on_by_one_for_that_head_alone() {
    let told = told().await;
    let (store, a) = (&told.world.store, head('a'));
    let one = told.held("1", &a).await;
    assert_eq!(told.due_ids().await, [""; 0]);
    assert_eq!(store.hook_called(&told.app.address, 10).await.unwrap().unwrap().waiting, 0);
    // Another one about the same ref may look where that is.
    let git_ref = "refs/pull/7/head".parse().unwrap();
    let push = told.comes("push", &Proposal { number: 8, ..head('c') }).await;
    assert!(store.line_up(told.world.epoch, &push, &git_ref).await.unwrap());
    told.over(&push).await;

    // Only what was shown is approved, of that place and for that branch.
    let moved = told.approve(&head('b')).await.unwrap_err();
    assert!(moved.contains("aaaaaaa") && moved.contains("bbbbbbb"), "{moved}");
    let elsewhere = Proposal { base: "release".to_owned(), ..a.clone() };
    assert!(told.approve(&elsewhere).await.unwrap_err().contains("main"));
    assert!(told.approve(&Proposal { head_repository: "44".to_owned(), ..a.clone() }).await.is_err());
    assert!(
        told.approve(&Proposal { number: 9, ..a.clone() }).await.unwrap_err().contains("no pull request 9")
    );
    assert_eq!(told.stands(&one, &a).await, Stands::Open);
    assert_eq!(told.approve(&a).await, Ok(false));
    assert_eq!(told.approve(&a).await, Ok(true), "it was approved already");
    assert_eq!(told.due_ids().await, ["1"]);
    assert!(is_approved(&told.stands(&one, &a).await));
    // One that comes to be held meanwhile isn't.
    told.hold(&one, &a).await;
    assert_eq!(told.due_ids().await, ["1"]);

    // The next head has to be approved by itself, also if it is the same one that comes back; and of the one before nothing is begun.
    let two = told.held("2", &head('b')).await;
    assert!(matches!(told.stands(&one, &a).await, Stands::Over(why) if why.contains("moved on")));
    assert!(matches!(told.submit(&one, "app").await, Err(StoreError::Stale(UNAPPROVED))));
    assert_eq!(told.stands(&two, &head('b')).await, Stands::Open);
    let three = told.held("3", &a).await;
    assert!(matches!(told.stands(&two, &head('b')).await, Stands::Over(why) if why.contains("moved on")));
    assert_eq!(told.stands(&three, &a).await, Stands::Open);
    assert!(told.due_ids().await.contains(&"2".to_owned()), "it is looked at, and ends");
    let deeds = told.world.database.psql(
        "SELECT principal || ' ' || subject || ' ' || (detail ->> 'pull_request') || ' ' || (detail ->> 'base') FROM audit
         WHERE action = 'fork.approve'",
    );
    assert_eq!(deeds, "test app 7 main");
}

#[tokio::test]
async fn a_closed_pull_request_a_day_without_use_and_a_fortnight_without_an_approval_end_it() {
    let told = told().await;
    let a = head('a');
    let one = told.held("1", &a).await;
    told.approve(&a).await.unwrap();
    let closed = Proposal { is_open: false, ..a.clone() };
    let end = told.comes("close", &closed).await;
    assert!(matches!(told.stands(&one, &a).await, Stands::Over(why) if why.contains("closed")));
    assert!(told.approve(&a).await.unwrap_err().contains("closed"));
    assert!(told.due_ids().await.contains(&"1".to_owned()));
    // What comes late of it opens nothing.
    assert!(!told.world.store.see_proposal(told.world.epoch, &one, &a).await.unwrap());
    for one in [&one, &end] {
        told.over(one).await;
    }
    // Opened again, nothing of it is approved.
    let two = told.held("2", &a).await;
    assert_eq!(told.stands(&two, &a).await, Stands::Open);
    assert_eq!(told.approve(&a).await, Ok(false));
    told.world.pass("25 hours");
    assert_eq!(told.stands(&two, &a).await, Stands::Open, "it wasn't used for a day");
    assert_eq!(told.approve(&a).await, Ok(false));
    let Stands::Approved { is_stale, .. } = told.stands(&two, &a).await else { panic!() };
    assert!(is_stale, "its rules may not be kept any more");

    // Redelivered, it goes on by what counts then, and not by what it has gone on by.
    told.over(&two).await;
    told.world.store.redeliver(&tester(), default_project(), "app", "2").await.unwrap();
    let again = told.due().await.into_iter().find(|one| one.id == "2").unwrap();
    assert_eq!(told.note(&again, &a).await, None);
    assert!(is_approved(&told.stands(&again, &a).await), "that head is approved, and open");
    told.over(&again).await;

    let b = head('b');
    let three = told.held("3", &b).await;
    told.world.pass("13 days");
    assert_eq!(told.due_ids().await, [""; 0]);
    told.world.pass("25 hours");
    assert_eq!(told.due_ids().await, ["3"]);
    assert!(matches!(told.stands(&three, &b).await, Stands::Over(why) if why.contains("14 days")));
    told.over(&three).await;
    told.world.pass("60 days");
    told.world.store.remove_deliveries(told.world.epoch, DAY, 100).await.unwrap();
    let left = told.world.database.psql(
        "SELECT (SELECT count(*) FROM pull_requests) + (SELECT count(*) FROM fork_approvals) + (SELECT count(*) FROM fork_deliveries)",
    );
    assert_eq!(left, "0");
}

#[tokio::test]
async fn an_approval_is_used_by_what_is_submitted_and_that_goes_on_whatever_becomes_of_it() {
    let mut told = told().await;
    let a = head('a');
    let one = told.held("1", &a).await;
    assert!(matches!(told.submit(&one, "app").await, Err(StoreError::Stale(UNAPPROVED))));
    told.approve(&a).await.unwrap();
    assert!(matches!(told.stands(&one, &a).await, Stands::Approved { is_begun: false, .. }));
    told.submit(&one, "app").await.unwrap();
    told.world.pass("25 hours");
    told.comes("close", &Proposal { is_open: false, ..a.clone() }).await;
    assert!(matches!(told.stands(&one, &a).await, Stands::Approved { is_begun: true, .. }));
    let begun = async |told: &Told| told.world.store.begun_for_forks(default_project()).await.unwrap();
    let before = begun(&told).await;
    assert_eq!((before.lately, before.running, before.slots), (0, 1, 1));
    told.submit(&one, "web").await.unwrap();

    // What another hook of the project begins counts with it.
    let key = secret();
    let other = NewHook { full_name: "acme/other".to_owned(), ..hook("other", &key) };
    told.world.store.add_hook(&tester(), &other).await.unwrap();
    (told.app, told.key) = (other, key);
    let two = told.held("2", &a).await;
    told.approve(&a).await.unwrap();
    told.submit(&two, "app").await.unwrap();
    let after = begun(&told).await;
    assert_eq!((after.lately, after.before, after.running, after.slots), (2, 2, 3, 3));
    told.world.pass("90 seconds");
    let later = begun(&told).await;
    assert_eq!((later.lately, later.before, later.running), (0, 2, 3));
}

#[tokio::test]
async fn the_forges_clock_says_what_is_newest_and_another_branch_ends_what_was_approved() {
    let told = told().await;
    let at = |seconds| chrono::DateTime::from_timestamp(seconds, 0);
    let (a, b) = (Proposal { at: at(1000), ..head('a') }, Proposal { at: at(2000), ..head('b') });
    // What was so before comes late.
    let two = told.held("2", &b).await;
    let one = told.comes("1", &a).await;
    assert_eq!(told.note(&one, &a).await, None);
    assert!(matches!(told.stands(&one, &a).await, Stands::Over(why) if why.contains("bbbbbbb")));
    assert_eq!(told.stands(&two, &b).await, Stands::Open);
    assert_eq!(told.approve(&b).await, Ok(false));
    assert!(is_approved(&told.stands(&two, &b).await));

    // The same head, for another branch.
    let moved = Proposal { base: "release".to_owned(), at: at(2500), ..b.clone() };
    let three = told.held("3", &moved).await;
    assert!(matches!(told.stands(&two, &b).await, Stands::Over(why) if why.contains("later delivery")));
    assert_eq!(told.stands(&three, &moved).await, Stands::Open);
    assert!(told.approve(&b).await.unwrap_err().contains("release"));
    assert_eq!(told.approve(&moved).await, Ok(false));

    // Of two about the same head the later one goes on, unless the other one is wanted once more.
    let four = told.held("4", &Proposal { at: at(2600), ..moved.clone() }).await;
    assert!(matches!(told.stands(&three, &moved).await, Stands::Over(why) if why.contains("later delivery")));
    assert!(is_approved(&told.stands(&four, &moved).await));
    told.over(&three).await;
    told.world.store.redeliver(&tester(), default_project(), "app", "3").await.unwrap();
    let again = told.due().await.into_iter().find(|one| one.id == "3").unwrap();
    assert!(!told.world.store.see_proposal(told.world.epoch, &again, &moved).await.unwrap());
    assert_eq!(told.note(&again, &moved).await, None);
    assert!(is_approved(&told.stands(&again, &moved).await));
    assert!(matches!(
        told.world.store.stands(told.world.epoch, &three, &moved).await,
        Err(StoreError::Stale(_))
    ));
}

#[tokio::test]
async fn what_nobody_has_approved_is_shown_as_pending_and_never_as_gone_wrong() {
    let told = told().await;
    let (store, epoch, a) = (&told.world.store, told.world.epoch, head('a'));
    store.set_hook_token(&tester(), default_project(), "app", told.app.id, &token()).await.unwrap();
    let one = told.held("1", &a).await;
    let git_ref = "refs/pull/7/head".parse().unwrap();
    let about = About { commit: a.commit.clone(), git_ref, kind: "pull_request", branch: None };
    let context = "farm/app (pull request 7)";
    let wanted = |state| {
        [Wanted {
            context: context.to_owned(),
            state,
            description: "waits".to_owned(),
            build: None,
            held: None,
        }]
    };
    let shown =
        || told.world.database.psql("SELECT string_agg(state || ' ' || description, ', ') FROM statuses");
    let pending = wanted(StatusState::Pending);
    assert!(store.want_statuses(epoch, &one, &about, &pending, Whole::Open).await.unwrap());
    store.leave_statuses(epoch, &one, "it was closed").await.unwrap();
    assert_eq!(shown(), "pending it was closed");
    let held = || told.world.database.psql("SELECT coalesce(held, 'none') FROM statuses");
    assert_eq!(held(), "", "nobody can approve it any more");
    told.approve(&a).await.unwrap();
    told.submit(&one, "web").await.unwrap();
    store.leave_statuses(epoch, &one, "it has moved on").await.unwrap();
    assert_eq!((shown().as_str(), held().as_str()), ("cancelled it has moved on", "none"));
}

#[tokio::test]
async fn one_account_and_one_hook_have_only_so_many_that_wait() {
    let told = told().await;
    let most = Most { of_hook: 3, of_opener: 2 };
    let by = |number, account: &str| Proposal {
        number,
        opener: (account.to_owned(), account.to_owned()),
        ..head('a')
    };
    let mut refused = Vec::new();
    for (number, account) in [(1, "eve"), (2, "eve"), (3, "eve"), (4, "bob"), (5, "ada")] {
        let proposal = by(number, account);
        let one = told.comes(&number.to_string(), &proposal).await;
        let why = told.world.store.note_fork(told.world.epoch, &one, &proposal, most).await.unwrap();
        // What is noted already is counted once.
        assert_eq!(told.world.store.note_fork(told.world.epoch, &one, &proposal, most).await.unwrap(), why);
        refused.extend(why.map(|why| (number, why)));
    }
    let [(3, own), (5, all)] = &refused[..] else { panic!("{refused:?}") };
    assert!(own.contains("2 pull requests of eve wait already"), "{own}");
    assert!(all.contains("3 pull requests of forks wait already"), "{all}");
    // They are counted apart from all else that waits.
    assert_eq!(told.world.store.hook_called(&told.app.address, 10).await.unwrap().unwrap().waiting, 0);
}

#[tokio::test]
async fn a_comment_approves_what_its_author_can_have_seen() {
    let told = told().await;
    let at = |seconds| chrono::DateTime::from_timestamp(seconds, 0);
    let a = Proposal { at: at(1000), ..head('a') };
    let one = told.held("1", &a).await;
    let now = told.world.store.now().await.unwrap();
    let comment = |begins, sequence, at| {
        let received_at = now + Duration::from_secs(600);
        Approval { head: Head::Commented { begins, base: None, sequence, at, received_at }, ..told.shown(&a) }
    };
    let (before, after) = (one.sequence - 1, one.sequence + 1);
    let soon = Head::Commented {
        begins: None,
        base: None,
        sequence: after,
        at: at(2000),
        received_at: now + Duration::from_secs(60),
    };
    for (what, approval, words) in [
        ("what was delivered before the head", comment(None, before, at(2000)), "moved on since"),
        ("what was written before the head", comment(None, after, at(999)), "moved on since"),
        ("what was written in the same second", comment(None, after, at(1000)), "moved on since"),
        ("what was written a moment after it", comment(None, after, at(1119)), "within the 2 minutes"),
        ("what came a moment after it", Approval { head: soon, ..told.shown(&a) }, "within the 2 minutes"),
        ("of which nobody says when it was written", comment(None, after, None), "doesn't say when"),
        ("another commit", comment(Some("bbbbbbb"), after, at(2000)), "aaaaaaa"),
        (
            "what names it in full, and came before it",
            comment(Some(a.commit.as_str()), before, at(2000)),
            "moved on",
        ),
        (
            "what only begins like it, and may be another",
            comment(Some("aaaaaaa"), before, at(2000)),
            "moved on since",
        ),
    ] {
        let why = told.given(&approval).await.expect_err(what);
        assert!(why.contains(words), "{what}: {why}");
    }
    assert_eq!(told.stands(&one, &a).await, Stands::Open);
    // Who names the whole commit means that one, whenever it was written.
    assert_eq!(told.given(&comment(Some(a.commit.as_str()), after, at(999))).await, Ok(false));
    let b = Proposal { at: at(3000), ..head('b') };
    told.comes("2", &b).await;
    assert!(told.given(&comment(Some("bbbbbbb"), after + 100, at(3119))).await.is_err());
    assert_eq!(told.given(&comment(None, after + 100, at(3120))).await, Ok(false));
    let own = Proposal { number: 8, is_fork: false, ..head('c') };
    told.comes("3", &own).await;
    let why = told.given(&told.shown(&own)).await.unwrap_err();
    assert!(why.contains("isn't a fork's"), "{why}");
}

#[tokio::test]
async fn a_head_that_is_named_in_full_is_approved_for_the_branch_that_its_author_can_have_seen() {
    let told = told().await;
    let (store, a) = (&told.world.store, head('a'));
    let one = told.held("1", &a).await;
    let comment = async |of: &Proposal, base: Option<&str>, sequence: i64, later: u64| {
        let begins = Some(of.commit.as_str());
        let received_at = store.now().await.unwrap() + Duration::from_secs(later);
        let head = Head::Commented { begins, base, sequence, at: None, received_at };
        let said = store.may_be_approved(&Approval { head, ..told.shown(of) }).await;
        said.map(drop).map_err(|error| error.to_string())
    };
    let after = one.sequence + 1;
    // It was opened a moment ago, and may have been for another branch when it was looked at.
    let hasty = comment(&a, None, after, 0).await.unwrap_err();
    assert!(hasty.contains("within the 2 minutes"), "{hasty}");
    assert!(hasty.ends_with(&format!("/farm approve {} main", a.commit)), "it says what helps: {hasty}");
    assert_eq!(comment(&a, Some("main"), after, 0).await, Ok(()));
    assert_eq!(comment(&a, None, after, 121).await, Ok(()));
    let other = comment(&a, Some("release"), after, 121).await.unwrap_err();
    assert!(other.contains("is to go to main"), "{other}");
    told.world.pass("3 minutes");

    // A head of a moment ago may be named.
    let b = head('b');
    let two = told.comes("2", &b).await;
    assert_eq!(comment(&b, None, two.sequence + 1, 0).await, Ok(()));
    // The same one, for another branch: by whichever coordinator that was written.
    let moved = Proposal { base: "release".to_owned(), ..b.clone() };
    let three = told.comes("3", &moved).await;
    let after = three.sequence + 1;
    assert!(comment(&moved, None, after, 0).await.unwrap_err().contains("is to go to another branch"));
    assert!(comment(&moved, Some("main"), after, 0).await.unwrap_err().contains("is to go to release"));
    assert!(comment(&moved, Some("main"), two.sequence + 1, 0).await.is_err());
    told.world.pass("3 minutes");
    assert_eq!(comment(&moved, None, after, 0).await, Ok(()));
    told.world.database.psql("UPDATE pull_requests SET head_repository = '44'");
    assert!(comment(&moved, None, after, 0).await.is_err());
    told.world.pass("3 minutes");
    assert_eq!(comment(&moved, None, after, 0).await, Ok(()));

    // What was written before it was closed approves nothing of what was opened again, however long it has waited.
    told.comes("4", &Proposal { is_open: false, ..moved.clone() }).await;
    told.comes("5", &moved).await;
    told.world.pass("3 minutes");
    for base in [None, Some("release")] {
        let late = comment(&moved, base, after, 0).await.unwrap_err();
        assert!(late.contains("moved on since"), "{late}");
    }
}

#[tokio::test]
async fn an_approval_beside_an_older_coordinator_is_for_later() {
    let told = told().await;
    let (store, a) = (&told.world.store, head('a'));
    told.held("1", &a).await;
    told.world.database.psql(
        "INSERT INTO coordinators (id, address, runs_schema) VALUES (gen_random_uuid(), 'http://old', 54)",
    );
    let beside = store.approve(&tester(), &told.shown(&a)).await.unwrap_err();
    assert!(matches!(&beside, StoreError::Older(why) if why.contains("http://old")), "{beside}");
    told.world.database.psql("DELETE FROM coordinators WHERE address = 'http://old'");
    assert_eq!(told.approve(&a).await, Ok(false));
}

#[tokio::test]
async fn people_find_what_is_held_by_the_fetch_of_its_rules() {
    let told = told().await;
    let (store, a) = (&told.world.store, head('a'));
    let one = told.comes("1", &a).await;
    assert_eq!(told.note(&one, &a).await, None);
    let of = OfDelivery {
        hook: told.app.id,
        delivery: "1".to_owned(),
        run: 0,
        part: Part::Rules,
        image: String::new(),
        git_ref: "refs/pull/7/head".parse().unwrap(),
        order_key: None,
    };
    let fetch = NewBuild { of: Some(of), ..told.world.new_build("rules", "linux/amd64", &[]) };
    let fetch = store.submit(&fetch).await.unwrap().id;
    let waits = async |build: BuildId| store.waits_for_approval(default_project(), build).await.unwrap();
    assert!(!waits(fetch).await.unwrap().is_held());
    told.hold(&one, &a).await;
    let shown = waits(fetch).await.unwrap();
    assert!(shown.is_held());
    assert_eq!((shown.number, shown.images, shown.opener.1.as_str()), (7, vec!["app".to_owned()], "eve"));
    assert_eq!((shown.commit, shown.head_repository.1.as_str()), (a.commit.clone(), "eve/app"));
    told.approve(&a).await.unwrap();
    let shown = waits(fetch).await.unwrap();
    assert_eq!((shown.is_held(), shown.approved.unwrap().0), (false, "test".to_owned()));
    told.comes("2", &head('b')).await;
    let shown = waits(fetch).await.unwrap();
    assert_eq!((shown.is_held(), shown.approved, shown.newest), (false, None, head('b').commit));
    told.over(&one).await;
    assert_eq!(waits(fetch).await.unwrap().over, "it is done");
    let other = told.world.submit("other", "linux/amd64", &[]).await;
    assert_eq!(waits(other.id).await, None);
}

#[tokio::test]
async fn what_a_fork_proposes_is_leased_to_machines_that_are_not_trusted_and_stays_so() {
    let mut world = world().await;
    world.store = world.store.with_patched_engines(patched("docker 0"));
    let store = &world.store;
    let proposed = |key: &str, tags: &[&str]| NewBuild {
        fork: Some(scope(farm_types::HookId::generate(), 7)),
        ..world.new_build(key, "linux/amd64", tags)
    };
    // Nothing that it could be given or do is taken with it.
    let refused = store.submit(&proposed("tagged", &["r.example/app:1"])).await.unwrap_err();
    assert!(matches!(&refused, StoreError::Conflict(why) if why.contains("neither published")), "{refused}");
    let mut granted = proposed("granted", &[]);
    granted.spec.run.network = "host".parse().unwrap();
    assert!(matches!(store.submit(&granted).await, Err(StoreError::Conflict(_))));
    // Older coordinators would give it to anybody.
    let older =
        "INSERT INTO coordinators (id, address, runs_schema) VALUES (gen_random_uuid(), 'http://old', 54)";
    world.database.psql(older);
    let beside = store.submit(&proposed("first", &[])).await.unwrap_err();
    assert!(matches!(&beside, StoreError::Older(why) if why.contains("http://old")), "{beside}");
    world.database.psql("DELETE FROM coordinators WHERE address = 'http://old'");
    let build = store.submit(&proposed("first", &[])).await.unwrap();
    assert_eq!(world.database.psql("SELECT oldest FROM schema_compat"), "55");

    let trusted = connect(&world, "trusted", join(&world, "trusted", TrustClass::Trusted).await).await;
    let why = |state: &_, now| format!("{:?}", plan(state, Limits::default(), now));
    let now = store.now().await.unwrap();
    let decided = why(&store.schedule_state(64, &[]).await.unwrap(), now);
    assert!(decided.contains("Untrusted {"), "{decided}");
    let lease = async |build, worker| {
        let planned = world.assignment(build, 0, worker).await;
        store.lease(world.epoch, planned, LEASE).await
    };
    assert!(matches!(lease(build, trusted).await, Err(StoreError::Stale(_))));
    let fork = connect(&world, "fork", join(&world, "fork", TrustClass::Untrusted).await).await;
    let decided = why(&store.schedule_state(64, &[]).await.unwrap(), now);
    assert!(decided.contains(&format!("{fork:?}")), "{decided}");
    let attempt = lease(build, fork).await.unwrap();
    let offered = store.offered_via(world.coordinator).await.unwrap();
    let offered = offered.iter().find(|one| one.attempt == attempt).unwrap();
    assert!(offered.fork.as_ref().unwrap().ends_with("/7") && !offered.staged, "{offered:?}");
    let classes = world.database.psql("SELECT queue_class FROM jobs");
    assert!(classes.ends_with(" trust=untrusted"), "{classes}");

    // So does what it is retried as, by whomever.
    let second = store.submit(&proposed("second", &[])).await.unwrap();
    store.cancel(&tester(), default_project(), second.id, PUBLISH).await.unwrap();
    let again = store.retry(&retry_of(second, "again", false), PUBLISH).await.unwrap();
    assert!(matches!(lease(again, trusted).await, Err(StoreError::Stale(_))));
    let forks = world
        .database
        .psql("SELECT count(DISTINCT fork) || ' ' || count(fork) || ' ' || count(*) FROM executions");
    assert_eq!(forks, "2 3 3");
    let all_alike = world.database.psql("SELECT count(DISTINCT queue_class) FROM jobs");
    assert_eq!(all_alike, "1");
}
