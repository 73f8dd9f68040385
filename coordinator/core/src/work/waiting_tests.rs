use farm_types::Entitlement;

use super::*;

fn arm64() -> Wanted {
    Wanted::Platform("linux/arm64".parse().unwrap())
}

fn w1(reason: Reason) -> Vec<SetAside> {
    vec![SetAside { name: "w1".to_owned(), reason }]
}

/// Each reason as it is stored, with what an owner may do about it.
fn examples() -> Vec<(Waiting, &'static str, &'static str)> {
    let programs = Wanted::Programs(vec!["linux/amd64".parse().unwrap()]);
    let nobody = |wanted, emulated_refused, aside| Waiting::NoWorker { wanted, emulated_refused, aside };
    vec![
        (
            Waiting::Slots { support: RunMode::Native, used: 4, total: 4 },
            r#"{"for":"slots","support":"native","used":4,"total":4}"#,
            "nothing, or another worker; it has a place in the queue",
        ),
        (
            Waiting::Quota { used: 3, total: 3 },
            r#"{"for":"quota","used":3,"total":3}"#,
            "nothing, or let an admin of the farm raise it: `farm project set`; `farm project show` has the numbers",
        ),
        (
            Waiting::Fetches { used: 4, total: 4 },
            r#"{"for":"fetches","used":4,"total":4}"#,
            "nothing, or git on another worker's machine",
        ),
        (Waiting::Backoff, r#"{"for":"backoff"}"#, "nothing"),
        (Waiting::Cleaning, r#"{"for":"cleaning"}"#, "nothing; it takes minutes at most"),
        (
            Waiting::Unreadable,
            r#"{"for":"unreadable"}"#,
            "tell whoever runs the farm; the coordinator's log names the row",
        ),
        (Waiting::Source, r#"{"for":"source"}"#, "keep `farm submit` running, or submit it again"),
        (
            nobody(programs, false, vec![]),
            r#"{"for":"no_worker","wanted":{"programs":["linux/amd64"]},"emulated_refused":false}"#,
            "start a worker for it; `farm workers` shows which are there",
        ),
        (
            nobody(arm64(), true, vec![]),
            r#"{"for":"no_worker","wanted":{"platform":"linux/arm64"},"emulated_refused":true}"#,
            "start a native worker, or submit with another `--emulation`",
        ),
        (
            Waiting::Ungranted { wanted: arm64(), entitlements: [Entitlement::NetworkHost].into() },
            r#"{"for":"ungranted","wanted":{"platform":"linux/arm64"},"entitlements":["network.host"]}"#,
            "let whoever runs the worker's machine allow it ([worker.md](worker.md#entitlements)), or submit without `--allow`",
        ),
        (
            Waiting::Untrusted { aside: vec![] },
            r#"{"for":"untrusted"}"#,
            "let whoever runs the farm bring in a machine for it ([untrusted.md](../guide/untrusted.md))",
        ),
        (
            Waiting::Forbidden { entitlements: Entitlement::ALL.into() },
            r#"{"for":"forbidden","entitlements":["network.host","security.insecure"]}"#,
            "ask an admin of the farm, or cancel it",
        ),
        (
            nobody(Wanted::Git, false, vec![]),
            r#"{"for":"no_worker","wanted":"git","emulated_refused":false}"#,
            "install git there, and start the worker again: it looks for git when it starts",
        ),
        (
            nobody(Wanted::Archives, false, vec![]),
            r#"{"for":"no_worker","wanted":"archives","emulated_refused":false}"#,
            "update one, or wait for a trusted one",
        ),
        (
            nobody(Wanted::Gates(Box::new("linux/arm64".parse().unwrap())), false, vec![]),
            r#"{"for":"no_worker","wanted":{"gates":"linux/arm64"},"emulated_refused":false}"#,
            "update one, or submit without `--gate`",
        ),
        (
            nobody(Wanted::Any, false, w1(Reason::Drained)),
            r#"{"for":"no_worker","wanted":"any","emulated_refused":false,"aside":[{"name":"w1","reason":"drained"}]}"#,
            "resume one of those that are named",
        ),
        (
            nobody(
                Wanted::Any,
                false,
                w1(Reason::EngineTooOld("its engine (docker 28.5.2) is too old".to_owned())),
            ),
            r#"{"for":"no_worker","wanted":"any","emulated_refused":false,"aside":[{"name":"w1","reason":{"engine_too_old":"its engine (docker 28.5.2) is too old"}}]}"#,
            "update that engine, or let whoever runs the farm list it ([coordinator.md](coordinator.md#engines-of-machines-that-arent-trusted)); the sentence \
             has the line",
        ),
        (
            nobody(Wanted::Any, false, w1(Reason::Unfenced)),
            r#"{"for":"no_worker","wanted":"any","emulated_refused":false,"aside":[{"name":"w1","reason":"unfenced"}]}"#,
            "fence that engine off, as [untrusted.md](../guide/untrusted.md#the-network) has it, or wait for a trusted worker",
        ),
        (
            Waiting::Silent { wanted: arm64(), aside: vec![] },
            r#"{"for":"silent","wanted":{"platform":"linux/arm64"}}"#,
            "look at the worker if it doesn't come back",
        ),
        (
            Waiting::Silent { wanted: arm64(), aside: w1(Reason::Withdrawn("its disk is full".to_owned())) },
            r#"{"for":"silent","wanted":{"platform":"linux/arm64"},"aside":[{"name":"w1","reason":{"withdrawn":"its disk is full"}}]}"#,
            "mend what it says",
        ),
        (
            Waiting::Probation {
                wanted: arm64(),
                aside: w1(Reason::Probation("it failed 3 jobs".to_owned())),
            },
            r#"{"for":"probation","wanted":{"platform":"linux/arm64"},"aside":[{"name":"w1","reason":{"probation":"it failed 3 jobs"}}]}"#,
            "look at the worker; it gets the job anyhow when that has waited for long",
        ),
    ]
}

#[test]
fn a_reason_is_stored_in_the_same_form_for_ever() {
    for (waiting, stored, _) in examples() {
        assert_eq!(serde_json::to_string(&waiting).unwrap(), stored);
        assert_eq!(serde_json::from_str::<Waiting>(stored).unwrap(), waiting);
    }
    // Of a newer coordinator.
    assert!(serde_json::from_str::<Waiting>(r#"{"for":"the_moon"}"#).is_err());
}

/// `TRYCMD=overwrite` writes what is missing, as it does for transcripts.
#[test]
fn the_documents_list_every_reason() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/waiting.md");
    let text = std::fs::read_to_string(path).unwrap();
    let head = "| `waiting` says, for example | do |\n|---|---|\n";
    let (before, _) = text.split_once(head).unwrap();
    let mut made = format!("{before}{head}");
    for (waiting, _, cure) in examples() {
        made.push_str(&format!("| {} | {cure} |\n", waiting.words()));
    }
    if std::env::var_os("TRYCMD").is_some_and(|value| value == "overwrite") {
        std::fs::write(path, made).unwrap();
        return;
    }
    assert_eq!(text, made, "run it with TRYCMD=overwrite after a change on purpose");
}

#[test]
fn what_keeps_each_worker_from_the_job_is_said() {
    let aside = |name: &str, reason| SetAside { name: name.to_owned(), reason };
    let aside = vec![
        aside("w1", Reason::Drained),
        aside("w2", Reason::Quarantined("it did not stop".to_owned())),
        aside("w3", Reason::Withdrawn("its disk is full".to_owned())),
        aside("w4", Reason::Drained),
    ];
    let nobody = Waiting::NoWorker { wanted: arm64(), emulated_refused: false, aside };
    assert_eq!(
        nobody.words(),
        "no worker for linux/arm64 takes jobs now: w1, w4 are drained; `farm workers resume w1 w4` takes that \
         back; w2 is quarantined: it did not stop; w3 has withdrawn: its disk is full"
    );
    let aside = w1(Reason::Probation("it failed 3 jobs".to_owned()));
    let probation = Waiting::Probation { wanted: arm64(), aside };
    assert_eq!(
        probation.words(),
        "a trial build for linux/arm64 to succeed: w1 is on probation: it failed 3 jobs"
    );
}
