use proptest::prelude::*;

use super::*;

fn commit(n: u32) -> Commit {
    format!("{n:040x}").parse().unwrap()
}

fn name(n: usize) -> RefName {
    [("heads", "main"), ("heads", "work"), ("tags", "v1")]
        .map(|(folder, name)| format!("refs/{folder}/{name}").parse::<RefName>().unwrap())[n]
        .clone()
}

fn refs(at: &[(usize, u32)]) -> Refs {
    Refs::bounded(at.iter().map(|(n, at)| (name(*n), commit(*at))), Some("main".to_owned()), false)
}

fn head(placed: Option<u32>, listed: Option<u32>) -> Head {
    Head { sequence: 1, placed: placed.map(commit), listed: listed.map(commit), is_gone: false }
}

fn seen(heads: &[(usize, Head)]) -> Seen {
    let heads = heads.iter().map(|(n, head)| (name(*n), head.clone())).collect();
    Seen { heads, after: 5, ..Seen::default() }
}

fn moved(seen: &Seen, found: &Refs) -> Vec<RefName> {
    match missed(seen, found) {
        Found::Refs(missed) => missed.moved.into_keys().collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_move_without_its_delivery_is_missed_and_what_is_on_its_way_is_not() {
    let known = seen(&[(0, head(Some(1), None)), (1, head(None, Some(2)))]);
    assert_eq!(moved(&known, &refs(&[(0, 1), (1, 2)])), []);
    assert_eq!(moved(&known, &refs(&[(0, 3), (1, 2), (2, 9)])), [name(0), name(2)]);
    let read = Seen { after: 0, ..known.clone() };
    assert_eq!(
        moved(&read, &refs(&[(0, 3), (1, 2), (2, 9)])),
        [name(2)],
        "refs of deliveries since then are left"
    );
    let waits = Seen { waiting: [name(0)].into(), ..known.clone() };
    assert_eq!(moved(&waits, &refs(&[(0, 3), (1, 2)])), []);
    let unread = Seen { has_unread: true, ..known.clone() };
    assert_eq!(missed(&unread, &refs(&[(0, 3), (1, 2)])), Found::Later);
    assert_eq!(moved(&unread, &refs(&[(0, 1), (1, 2)])), []);
    // It went back to where it was before, and nobody told: what the look before it had found counts no more.
    assert_eq!(
        moved(&seen(&[(0, head(Some(2), None)), (1, head(Some(7), None))]), &refs(&[(0, 1), (1, 7)])),
        [name(0)]
    );
}

#[test]
fn the_first_look_only_notes_and_one_at_another_repository_takes_nothing() {
    let first = Seen { is_first: true, ..Seen::default() };
    let Found::Refs(noted) = missed(&first, &refs(&[(0, 1), (2, 4)])) else { panic!() };
    assert_eq!((noted.moved.len(), noted.noted.len()), (0, 2));
    let known = seen(&[(0, head(Some(1), Some(1)))]);
    assert_eq!(missed(&known, &refs(&[(0, 8), (1, 9)])), Found::Strange);
    assert_eq!(missed(&known, &refs(&[])), Found::Strange, "nor does an empty list say that all is gone");
    let with_history = Refs { has_expected: true, ..refs(&[(0, 8)]) };
    assert_eq!(moved(&known, &with_history), [name(0)]);
}

#[test]
fn what_is_gone_is_noted_and_isnt_built_when_it_comes_back() {
    let known = seen(&[(0, head(Some(1), Some(1))), (2, head(Some(4), Some(4)))]);
    let Found::Refs(without) = missed(&known, &refs(&[(0, 1)])) else { panic!() };
    assert_eq!((without.gone, without.moved.len()), ([name(2)].into(), 0));
    let gone = Head { is_gone: true, ..head(Some(4), Some(4)) };
    let Found::Refs(back) =
        missed(&seen(&[(0, head(Some(1), Some(1))), (2, gone)]), &refs(&[(0, 1), (2, 4)]))
    else {
        panic!()
    };
    assert_eq!((back.moved.len(), back.noted.len()), (0, 1));
    let cut = Refs { is_cut: true, ..refs(&[(0, 1)]) };
    let Found::Refs(cut) = missed(&known, &cut) else { panic!() };
    assert!(cut.gone.is_empty());
}

#[test]
fn what_comes_into_a_list_that_was_cut_is_only_noted_and_what_is_missing_before_its_end_is_gone() {
    let known = seen(&[(0, head(Some(1), Some(1))), (1, head(None, Some(2)))]);
    let cut = |at: &[(usize, u32)]| Refs { is_cut: true, ..refs(at) };
    // A branch of before is gone, and a tag that was there all the time has its place.
    let Found::Refs(first) = missed(&known, &cut(&[(0, 1), (1, 2)])) else { panic!() };
    assert_eq!((first.listed_to.clone(), first.gone.len()), (Some(name(1)), 0));
    let known = Seen { listed_to: first.listed_to, ..known };
    let Found::Refs(slid) = missed(&known, &cut(&[(0, 1), (2, 9)])) else { panic!() };
    assert_eq!((slid.moved.len(), slid.gone, slid.listed_to), (0, [name(1)].into(), Some(name(2))));
    assert_eq!(slid.noted, [(name(2), commit(9))].into());
    // Before the end moves are seen as ever.
    assert_eq!(moved(&known, &cut(&[(0, 1), (1, 3), (2, 9)])), [name(1)]);
}

#[test]
fn a_branch_that_was_renamed_is_none_of_another_repository() {
    let known = seen(&[(0, head(Some(1), Some(1)))]);
    assert_eq!(moved(&known, &refs(&[(1, 1)])), [name(1)]);
}

/// What may happen, in any order.
#[derive(Debug, Clone, Copy)]
enum Op {
    /// A ref moves to a new commit, and its delivery comes at once, waits on its way, or is lost.
    Push(usize, Fate),
    /// A ref goes back to the commit before, without a word.
    Back(usize),
    /// The delivery that is longest on its way comes.
    Come,
    /// The delivery in front, or another one, is processed; it may fail for good.
    Process(usize, bool),
    Begin,
    End,
}

#[derive(Debug, Clone, Copy)]
enum Fate {
    Comes,
    Late,
    Lost,
}

#[derive(Debug, Clone)]
struct Delivery {
    sequence: i64,
    name: RefName,
    commit: Commit,
    /// The farm has made it.
    is_own: bool,
}

/// A forge, and the farm as far as it matters here.
#[derive(Debug, Default)]
struct World {
    commits: u32,
    at: BTreeMap<RefName, Vec<Commit>>,
    under_way: Vec<(RefName, Commit)>,
    waiting: Vec<Delivery>,
    sequence: i64,
    heads: BTreeMap<RefName, Head>,
    /// The look that goes on: after which delivery, and what it has seen.
    look: Option<(i64, Refs)>,
    has_looked: bool,
    built: Vec<(RefName, Commit)>,
    failed: Vec<(RefName, Commit)>,
}

impl World {
    fn keep(&mut self, name: RefName, commit: Commit, is_own: bool) {
        self.sequence += 1;
        self.waiting.push(Delivery { sequence: self.sequence, name, commit, is_own });
    }

    fn now(&self) -> Refs {
        let at = self.at.iter().filter_map(|(name, at)| Some((name.clone(), at.last()?.clone())));
        // As whoever asks with a commit of before would hear.
        Refs { has_expected: true, ..Refs::bounded(at, None, true) }
    }

    /// As `coordinator/src/reconcile/hooks`: it is noted, gets a place if its ref is there, and is built, or fails after that.
    fn process(&mut self, n: usize, fails: bool) {
        if self.waiting.is_empty() {
            return;
        }
        let done = self.waiting.remove(n % self.waiting.len());
        let head = self.heads.entry(done.name.clone()).or_default();
        head.sequence = head.sequence.max(done.sequence);
        if self.at[&done.name].last() != Some(&done.commit) {
            // Nothing was made of where a look has found it.
            if done.is_own {
                head.listed = None;
            }
            return;
        }
        if done.is_own && head.placed.as_ref() == Some(&done.commit) {
            return;
        }
        (head.placed, head.listed) = (Some(done.commit.clone()), None);
        let pair = (done.name, done.commit);
        if fails {
            return self.failed.push(pair);
        }
        self.built.push(pair);
    }

    fn end(&mut self) {
        let Some((after, found)) = self.look.take() else { return };
        let seen = Seen {
            heads: self.heads.clone(),
            after,
            waiting: self.waiting.iter().map(|one| one.name.clone()).collect(),
            has_unread: false,
            is_first: !self.has_looked,
            listed_to: None,
        };
        let Found::Refs(missed) = missed(&seen, &found) else { return };
        self.has_looked = true;
        for (name, commit) in missed.noted {
            let head = self.heads.entry(name).or_default();
            (head.listed, head.is_gone) = (Some(commit), false);
        }
        for name in missed.gone {
            self.heads.entry(name).or_default().is_gone = true;
        }
        for (name, commit) in missed.moved {
            self.keep(name, commit, true);
        }
    }

    fn op(&mut self, op: Op) {
        match op {
            Op::Push(n, fate) => {
                self.commits += 1;
                let (name, commit) = (name(n), commit(self.commits));
                self.at.entry(name.clone()).or_default().push(commit.clone());
                match fate {
                    Fate::Comes => self.keep(name, commit, false),
                    Fate::Late => self.under_way.push((name, commit)),
                    Fate::Lost => {}
                }
            }
            Op::Back(n) => {
                if let Some(at) = self.at.get_mut(&name(n)).filter(|at| at.len() > 1) {
                    let before = at[at.len() - 2].clone();
                    at.push(before);
                }
            }
            Op::Come => {
                if !self.under_way.is_empty() {
                    let (name, commit) = self.under_way.remove(0);
                    self.keep(name, commit, false);
                }
            }
            Op::Process(n, fails) => self.process(n, fails),
            Op::Begin => {
                let marker = self.heads.values().map(|head| head.sequence).max().unwrap_or(0);
                let marker = self.waiting.iter().map(|one| one.sequence).fold(marker, i64::max);
                self.look = Some((marker, self.now()));
            }
            Op::End => self.end(),
        }
    }

    fn look(&mut self) {
        self.op(Op::Begin);
        self.op(Op::End);
        while !self.waiting.is_empty() {
            self.process(0, false);
        }
    }
}

fn op() -> impl Strategy<Value = Op> {
    let fate = prop_oneof![Just(Fate::Comes), Just(Fate::Late), Just(Fate::Lost)];
    prop_oneof![
        4 => (0..3_usize, fate).prop_map(|(n, fate)| Op::Push(n, fate)),
        1 => (0..3_usize).prop_map(Op::Back),
        2 => Just(Op::Come),
        4 => (0..4_usize, prop::bool::weighted(0.1)).prop_map(|(n, fails)| Op::Process(n, fails)),
        2 => Just(Op::Begin),
        2 => Just(Op::End),
    ]
}

/// Does all of it, and then what comes of itself: late deliveries, and looks.
fn still_after(ops: Vec<Op>) -> World {
    // The hook's first look has been.
    let mut world = World { has_looked: true, ..World::default() };
    for op in ops {
        world.op(op);
    }
    world.end();
    while !world.under_way.is_empty() {
        world.op(Op::Come);
    }
    while !world.waiting.is_empty() {
        world.process(0, false);
    }
    world.look();
    world.look();
    world
}

#[test]
fn a_ref_that_was_found_left_and_goes_back_without_a_word_is_built() {
    let (late, next) = (Op::Push(2, Fate::Late), Op::Process(0, false));
    let world = still_after(vec![late, Op::Begin, late, Op::End, next, Op::Come, next, Op::Back(2)]);
    assert_eq!(world.built, [(name(2), commit(1))]);
}

proptest! {
    /// Whatever was lost, late or failed: what refs are at in the end was built, or has failed where people see it; and once all is still,
    /// looks make nothing up any more.
    #[test]
    fn what_a_ref_is_at_in_the_end_is_built(ops in prop::collection::vec(op(), 0..60)) {
        let mut world = still_after(ops);
        for (name, at) in &world.at {
            let pair = (name.clone(), at.last().unwrap().clone());
            prop_assert!(world.built.contains(&pair) || world.failed.contains(&pair), "{pair:?} is lost: {world:#?}");
            prop_assert_eq!(world.heads[name].placed.as_ref(), at.last(), "{} isn't built last", name);
        }
        let built = world.built.len();
        world.look();
        prop_assert_eq!(world.built.len(), built, "a look at what hasn't moved builds something");
    }
}
