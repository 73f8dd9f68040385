//! `farm audit --verify`: what the chain proves.

use std::path::Path;

use farm_proto::v1::{OutsideHead, VerifyAuditRequest, VerifyAuditResponse};

use super::at;
use crate::calls::through;
use crate::config::Setup;
use crate::connect::Client;
use crate::error::{Error, Exit, Result};
use crate::output::Out;
use crate::output::json;
use crate::output::people::VerifiedJson;
use crate::output::text::harmless;

/// The farm looks for so many at once. The newest proves most, so those are the ones that are brought.
const HEADS: usize = 10_000;

pub(super) async fn run(
    mut heads: Vec<String>,
    file: Option<&Path>,
    as_json: bool,
    setup: &Setup,
) -> Result<Exit> {
    for head in &heads {
        if !is_head(head) {
            return Err(Error::Usage(format!(
                "--head {head}: a head is 64 hex digits, as `audit sealed` in the log has it"
            )));
        }
    }
    let mut left = 0;
    if let Some(path) = file {
        let shown = path.display();
        let text =
            std::fs::read_to_string(path).map_err(|e| Error::Usage(format!("--heads {shown}: {e}")))?;
        let mut found = in_file(&text).map_err(|line| {
            Error::Usage(format!("--heads {shown}: line {line} ends with no head of 64 hex digits"))
        })?;
        if found.is_empty() {
            return Err(Error::Usage(format!("--heads {shown}: there is no head in it")));
        }
        left = (found.len() + heads.len()).saturating_sub(HEADS).min(found.len());
        heads.extend(found.split_off(left));
    }
    let client = Client::connect(&setup.address).await?;
    let request = VerifyAuditRequest { heads };
    let asked = through(async || client.audit().verify_audit(request.clone()).await).await;
    let found = asked.map_err(|status| client.error(&status))?;
    let mut out = Out::stdout();
    if as_json {
        out.line(&json::text(&VerifiedJson::new(&found)));
    } else {
        out.lines(words(&found));
        if left > 0 {
            out.line(&format!(
                "the {left} oldest heads of the file were not looked for: later ones prove more"
            ));
        }
    }
    Ok(if is_good(&found) { Exit::Done } else { Exit::Of(1) })
}

fn is_head(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// The last word of each line that isn't empty; or which line has none.
fn in_file(text: &str) -> std::result::Result<Vec<String>, usize> {
    let mut heads = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        match line.split_whitespace().next_back() {
            None => {}
            Some(head) if is_head(head) => heads.push(head.to_owned()),
            Some(_) => return Err(number),
        }
    }
    Ok(heads)
}

/// Nothing is broken, and each head is there with all before it.
fn is_good(found: &VerifyAuditResponse) -> bool {
    found.broken.is_empty() && found.outside.iter().all(|head| head.found && head.whole)
}

/// What was found, in words.
fn words(found: &VerifyAuditResponse) -> Vec<String> {
    let mut lines = Vec::new();
    if found.removed > 0 {
        lines.push(format!(
            "{} rows that were sealed until {} are older than the farm keeps them; their seals are still there",
            found.removed,
            at(found.removed_until_ms)
        ));
    }
    if found.head.is_empty() {
        lines.push("nothing is sealed yet".to_owned());
    } else {
        let (rows, seals) = (found.rows, found.seals);
        let all =
            format!("{rows} rows in {seals} seals, from row {} to row {}", found.first_id, found.last_id);
        lines.push(match found.broken.len() {
            _ if seals == 0 => "no rows are left under the seals".to_owned(),
            0 => format!("{all}: each seal holds what it held"),
            _ => format!("{all}: NOT what was sealed"),
        });
        lines.extend(found.broken.iter().map(|broken| {
            let what = if broken.link {
                "doesn't go on from the seal before it: seals were removed, put in or changed"
            } else {
                "isn't what was sealed: rows were changed, removed or put in"
            };
            format!(
                "rows {} to {}, sealed {}: this {what}",
                broken.first_id,
                broken.last_id,
                at(broken.sealed_ms)
            )
        }));
    }
    if found.unsealed > 0 {
        lines.push(format!("{} newer rows are in no seal yet", found.unsealed));
    }
    if !found.head.is_empty() {
        lines.push(format!("head {}", harmless(&found.head)));
        lines.extend(proven(found));
    }
    lines
}

/// From which outside head on anything is proven.
fn proven(found: &VerifyAuditResponse) -> Vec<String> {
    let mut lines: Vec<String> = found
        .outside
        .iter()
        .filter(|head| !head.found)
        .map(|head| {
            format!(
                "head {} is NOT in the chain: what it was made of was changed or removed",
                harmless(&head.head)
            )
        })
        .collect();
    let broken = found.outside.iter().filter(|head| head.found && !head.whole);
    lines.extend(broken.map(|head| {
        format!("head {} is in the chain, but what is before it is NOT what was sealed", harmless(&head.head))
    }));
    let whole = || found.outside.iter().filter(|head| head.found && head.whole);
    let by_time = |head: &&OutsideHead| (head.sealed_ms, head.last_id);
    match (whole().min_by_key(by_time), whole().max_by_key(by_time)) {
        (Some(first), Some(last)) => {
            lines.push(format!(
                "{} of {} heads from outside are in the chain with all before them: rows up to {} are as they were on {}, rows \
                 up to {} as they were on {}",
                whole().count(),
                found.outside.len(),
                first.last_id,
                at(first.sealed_ms),
                last.last_id,
                at(last.sealed_ms)
            ));
            if last.rows_after + found.unsealed > 0 {
                lines.push(format!(
                    "the {} rows after that are proven by nothing outside",
                    last.rows_after + found.unsealed
                ));
            }
        }
        _ if found.outside.is_empty() => lines.push(
            "this proves nothing against whoever can write the database: bring heads that were kept elsewhere, with --heads \
             FILE or --head HEX"
                .to_owned(),
        ),
        _ => lines.push("nothing outside proves any of the rows".to_owned()),
    }
    lines
}

#[cfg(test)]
mod tests {
    use farm_proto::v1::BrokenSeal;

    use super::*;

    #[test]
    fn heads_are_the_last_words_of_lines() {
        let (a, b) = ("a".repeat(64), "0".repeat(64));
        assert_eq!(in_file(&format!("2026-11-28T10:00:00.000Z 7 {a}\n\n{b}\n")), Ok(vec![a.clone(), b]));
        assert_eq!(in_file(&format!("{a}\nx {}\n", a.to_uppercase())), Err(2));
        assert_eq!(in_file(""), Ok(vec![]));
    }

    #[test]
    fn it_is_said_from_which_head_on_anything_is_proven() {
        let outside = |head: &str, last_id, found, whole, rows_after| OutsideHead {
            head: head.repeat(64),
            found,
            last_id,
            sealed_ms: last_id * 1000,
            whole,
            rows_after,
        };
        let mut found = VerifyAuditResponse {
            rows: 10,
            seals: 4,
            first_id: 1,
            last_id: 10,
            head: "f".repeat(64),
            ..Default::default()
        };
        let said = words(&found).join("\n");
        assert!(is_good(&found) && said.contains("proves nothing against whoever"), "{said}");
        found.outside = vec![outside("a", 3, true, true, 7), outside("b", 8, true, true, 2)];
        let said = words(&found).join("\n");
        assert!(is_good(&found), "{said}");
        assert!(
            said.contains(
                "rows up to 3 are as they were on 1970-01-01T00:00:03Z, rows up to 8 as they were on"
            ),
            "{said}"
        );
        assert!(said.contains("the 2 rows after that are proven by nothing outside"), "{said}");
        found.outside.push(outside("c", 0, false, false, 0));
        let said = words(&found).join("\n");
        assert!(!is_good(&found) && said.contains(&format!("head {} is NOT", "c".repeat(64))), "{said}");
        found.outside = vec![outside("b", 8, true, false, 2)];
        found.broken = vec![BrokenSeal { first_id: 4, last_id: 5, sealed_ms: 5000, link: false }];
        let said = words(&found).join("\n");
        assert!(
            !is_good(&found) && said.contains("rows 4 to 5, sealed 1970-01-01T00:00:05Z: this isn't what"),
            "{said}"
        );
        assert!(said.contains("nothing outside proves any"), "{said}");
    }
}
