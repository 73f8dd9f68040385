use super::*;
use crate::Failure;

/// The documents' text, with the table of each chapter made anew.
fn documented(text: &str) -> String {
    let mut lines = text.lines();
    let mut made = String::new();
    while let Some(line) = lines.next() {
        made.push_str(line);
        made.push('\n');
        let heading = line.strip_prefix("## ");
        let Some(chapter) = Chapter::ALL.into_iter().find(|chapter| heading == Some(chapter.title())) else {
            continue;
        };
        made.push_str("\n| code | cause | means | do |\n|---|---|---|---|\n");
        for code in FailureCode::ALL {
            let (of, meanings) = code.documented().unwrap();
            for Meaning { cause, means, cure } in meanings.iter().filter(|_| of == chapter) {
                made.push_str(&format!("| `{code}` | {cause} | {means} | {cure} |\n"));
            }
        }
        // The empty line and the table that were there.
        let rest = lines.by_ref().skip_while(|line| line.is_empty()).find(|line| !line.starts_with('|'));
        made.extend(rest.map(|line| format!("{line}\n")));
    }
    made
}

/// `TRYCMD=overwrite` writes what is missing, as it does for transcripts.
#[test]
fn the_documents_list_every_code() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/failures.md");
    let text = std::fs::read_to_string(path).unwrap();
    let made = documented(&text);
    for chapter in Chapter::ALL {
        assert!(made.contains(&format!("\n## {}\n", chapter.title())), "{path} has no place for {chapter:?}");
    }
    if std::env::var_os("TRYCMD").is_some_and(|value| value == "overwrite") {
        std::fs::write(path, made).unwrap();
        return;
    }
    for (there, wanted) in text.lines().zip(made.lines()) {
        assert_eq!(there, wanted, "run it with TRYCMD=overwrite after a change on purpose");
    }
    assert_eq!(text, made);
}

#[test]
fn every_code_reads_back_and_has_one_meaning_for_each_cause() {
    for code in FailureCode::ALL {
        assert_eq!(code.as_str().parse::<FailureCode>().as_ref(), Ok(code));
        let (_, meanings) = code.documented().unwrap();
        for (i, meaning) in meanings.iter().enumerate() {
            assert!(meanings[..i].iter().all(|other| other.cause != meaning.cause), "{code}");
            let cells = [meaning.means, meaning.cure];
            assert!(cells.iter().all(|cell| !cell.is_empty() && !cell.contains(['|', '\n'])), "{code}");
        }
    }
}

#[test]
fn a_code_of_a_newer_farm_is_handed_on_as_it_came() {
    let text = r#"{"cause":"user","code":"moon_phase","message":"the moon is full"}"#;
    let failure: Failure = serde_json::from_str(text).unwrap();
    assert_eq!((failure.code.as_str(), failure.code.documented()), ("moon_phase", None));
    assert_eq!(serde_json::to_string(&failure).unwrap(), text);
    let known: FailureCode = serde_json::from_str("\"no_space\"").unwrap();
    assert_eq!(known, FailureCode::NoSpace);
}
