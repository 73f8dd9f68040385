//! `--format`: what `--json` gives, put into a template of the user's.
//!
//! The template's language is minijinja's (that of Jinja2): `{{ id }}`, `{{ tags | join(",") }}`, `{% if failure %}…{% endif %}`,
//! `{{ platforms | tojson }}`. Names are those of the JSON.

use farm_types::Invalid;
use minijinja::{AutoEscape, Environment, UndefinedBehavior};
use serde::Serialize;

use super::Out;
use super::text::harmless;
use crate::error::Result;

/// Prints each object by the template, a line each.
///
/// # Errors
/// The template can't be read, or names what there is not.
pub fn print(out: &mut Out, template: &str, objects: impl IntoIterator<Item = impl Serialize>) -> Result<()> {
    for object in objects {
        out.line(&render(template, &object)?);
    }
    Ok(())
}

/// # Errors
/// As [`print`].
pub fn render(template: &str, object: &impl Serialize) -> Result<String, Invalid> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    // As a shell passes them on, between single quotes.
    let text = template.replace("\\t", "\t").replace("\\n", "\n");
    let value = serde_json::to_value(object).unwrap_or_default();
    let rendered = environment.render_str(&text, minijinja::value::Serde(&value)).map_err(|e| {
        let what = e.detail().map_or_else(|| e.kind().to_string(), ToOwned::to_owned);
        let names: Vec<&str> =
            value.as_object().into_iter().flat_map(serde_json::Map::keys).map(String::as_str).collect();
        let go = if template.contains("{{.") || template.contains("{{ .") {
            "names stand without a dot; "
        } else {
            ""
        };
        Invalid::new(
            "--format",
            template,
            format!("{what}; {go}write {{{{ NAME }}}} with a NAME of {}", names.join(", ")),
        )
    })?;
    Ok(rendered
        .lines()
        .map(|line| line.split('\t').map(harmless).collect::<Vec<_>>().join("\t"))
        .collect::<Vec<_>>()
        .join("\n"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_are_those_of_the_json() {
        let build =
            json!({"id": "7f3k2m", "tags": [{"reference": "r/a:1"}], "failure": null, "seconds": 2.1});
        let render = |template: &str| render(template, &build);
        assert_eq!(render("{{ id }} {{ seconds }}").unwrap(), "7f3k2m 2.1");
        assert_eq!(render("{{ id }}\\t{{ tags[0].reference }}").unwrap(), "7f3k2m\tr/a:1");
        assert_eq!(render("{{ tags | map(attribute='reference') | join(',') }}").unwrap(), "r/a:1");
        assert_eq!(render("{% if failure %}bad{% else %}good{% endif %}").unwrap(), "good");
        assert_eq!(render("{{ tags | tojson }}").unwrap(), "[{\"reference\": \"r/a:1\"}]");
        let error = |template: &str| render(template).unwrap_err().to_string();
        assert!(
            error("{{ ids }}").contains("with a NAME of failure, id, seconds, tags"),
            "{}",
            error("{{ ids }}")
        );
        assert!(error("{{.ID}}").contains("without a dot"), "{}", error("{{.ID}}"));
    }

    #[test]
    fn what_others_wrote_moves_no_cursor() {
        assert_eq!(render("{{ name }}", &json!({"name": "a\u{1b}[2Jb"})).unwrap(), "ab");
    }
}
