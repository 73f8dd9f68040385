//! Messages to Slack and Mattermost: `{"text": …}` with the marks of Slack's mrkdwn, which Mattermost takes as well.
//!
//! What comes from elsewhere stands as code: there nothing calls anybody, is a link, or is shown as a picture. `&`, `<` and `>` are escaped
//! as Slack says (api.slack.com/reference/surfaces/formatting, "Escaping text"), so that there is no `<!channel>`; what ends a code is
//! another sign; and behind an `@` stands one that nobody sees, for Mattermost's `@channel`.

use serde_json::json;

use super::said::{Head, Line, Said};

/// The longest text, characters: Slack cuts what is longer than 40,000, and nobody reads what is longer than this.
const LONGEST: usize = 4000;

/// What is sent.
pub fn body(said: &Said<'_>) -> String {
    json!({ "text": text(said) }).to_string()
}

fn text(said: &Said<'_>) -> String {
    let project = code(said.project);
    let mut lines = vec![match said.head() {
        Some(Head { name, verb, git_ref, commit }) => {
            let at = git_ref.map(|at| format!(" at {}", code(&at))).unwrap_or_default();
            let commit = commit.map(|commit| format!(" ({})", code(&commit))).unwrap_or_default();
            format!("{project}: {} *{verb}*{at}{commit}", code(&name))
        }
        None => format!("{project}:"),
    }];
    for line in said.lines() {
        let line = match line {
            Line::Own(text) => escaped(&text),
            Line::Foreign("", text) => code(&text),
            Line::Foreign(word, text) => format!("{word}: {}", code(&text)),
        };
        // A mark that is cut in two would be none.
        if lines.iter().map(|line| line.chars().count() + 1).sum::<usize>() + line.chars().count() > LONGEST {
            break;
        }
        lines.push(line);
    }
    // By the configuration's own address, a project's name and a build's id: nobody else has a say in it.
    lines.extend(said.page.iter().map(|page| format!("<{}|{}>", escaped(page), "the build's page")));
    lines.join("\n")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('@', "@\u{200b}")
}

/// A text of somebody's, which stays one.
fn code(text: &str) -> String {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let line = line.replace('`', "'");
    match line.trim() {
        "" => "-".to_owned(),
        line => format!("`{}`", escaped(line)),
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use farm_store::notices::hour::{Named, Summary};
    use farm_types::NoticeOn;

    use super::super::facts::{Build, Facts, Failed, Git, Hook};
    use super::super::said::What;
    use super::*;

    fn said(what: What) -> Said<'static> {
        let page = Some("https://farm.example/b/7f3k2m?project=web".to_owned());
        Said { what, project: "web", page, at: DateTime::UNIX_EPOCH }
    }

    #[test]
    fn nobody_is_called_by_what_a_repository_says() {
        let evil = "`<!channel> <!here|x> @channel @all <https://evil.example|click> ![](https://evil.example/x.png) &lt;\n*b*`";
        let facts = Facts {
            build: Some(Build { id: "7f3k2m".to_owned(), by: evil.to_owned(), ..Build::default() }),
            failure: Some(Failed {
                message: evil.to_owned(),
                step: Some(evil.to_owned()),
                ..Failed::default()
            }),
            git: Some(Git {
                full_ref: Some(format!("refs/heads/{evil}")),
                commit: Some("1f2e3d4c5b".to_owned()),
                ..Git::default()
            }),
            hook: Some(Hook { image: Some("app".to_owned()), ..Hook::default() }),
            ..Facts::default()
        };
        let text = text(&said(What::End(NoticeOn::Failure, Box::new(facts))));
        assert!(text.starts_with("`web`: `app` *failed* at `"), "{text}");
        assert!(text.contains("(`1f2e3d4`)\n"), "{text}");
        // The one link is the farm's own.
        assert_eq!(text.matches('<').count(), 1, "{text}");
        assert!(text.ends_with("\n<https://farm.example/b/7f3k2m?project=web|the build's page>"), "{text}");
        assert!(!text.contains("@channel") && !text.contains("@all"), "{text}");
        for line in text.lines() {
            // Outside of code there is nothing of it.
            let own: String = line.split('`').step_by(2).collect();
            assert!(!own.contains("evil") && !own.contains("channel"), "{line}");
            assert!(line.matches('`').count().is_multiple_of(2), "{line}");
        }
    }

    #[test]
    fn a_long_text_is_cut_between_its_lines_and_a_sample_and_a_summary_say_what_they_are() {
        let named = |n| Named { line: String::new(), is_own: true, text: format!("{}{n}", "x".repeat(900)) };
        let named = (0..20).map(named).collect();
        let counts = [("failure".to_owned(), 25), ("recovered".to_owned(), 2)].into();
        let long = text(&said(What::Summary(Summary { counts, named, unnamed: 7 })));
        assert!(
            long.chars().count() <= LONGEST + 100 && long.matches('`').count().is_multiple_of(2),
            "{long}"
        );
        assert!(long.contains("25 failure, 2 recovered"), "{long}");
        assert!(text(&said(What::Test)).contains("sample"));
    }
}
