//! The pages' templates. What is put into one is escaped; a name that isn't there is a bug, which a test finds by rendering each.

use std::sync::LazyLock;

use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, UndefinedBehavior};
use serde::Serialize;

use super::view::BuildView;

/// The style of all pages, which stands in each.
pub const STYLE: &str = include_str!("templates/style.css");

static PAGES: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut pages = Environment::new();
    pages.set_undefined_behavior(UndefinedBehavior::Strict);
    pages.set_auto_escape_callback(|_| AutoEscape::Html);
    for (name, source) in [
        ("frame", include_str!("templates/frame.html")),
        ("build", include_str!("templates/build.html")),
        ("sign_in", include_str!("templates/sign_in.html")),
        ("home", include_str!("templates/home.html")),
        ("choose", include_str!("templates/choose.html")),
        ("problem", include_str!("templates/problem.html")),
    ] {
        // A line that ends with a block ends nothing in the page. They last as long as the process.
        let source: &'static str = Box::leak(source.replace("%}\n", "%}").into_boxed_str());
        if let Err(error) = pages.add_template(name, source) {
            tracing::error!(name, %error, "a template can't be read: a bug");
        }
    }
    pages
});

/// What stands around every page.
#[derive(Debug, Clone, Default, Serialize)]
struct Frame<'a> {
    title: &'a str,
    style: &'static str,
    /// Loaded anew after so many seconds; 0: not.
    refresh: u32,
    who: Option<&'a Who>,
    /// HTML.
    body: String,
}

/// Whose page it is.
#[derive(Debug, Clone, Serialize)]
pub struct Who {
    pub name: String,
    /// What stands in their forms; empty: they have no session that could be ended.
    pub guard: String,
}

/// The form to sign in by.
#[derive(Debug, Clone, Serialize)]
pub struct SignIn {
    pub guard: String,
    /// Where somebody goes on to.
    pub next: String,
    /// Where people sign in instead, if they can: what it is called.
    pub issuer: Option<String>,
    /// The address that leads there.
    pub to_issuer: String,
    /// What went wrong so far; empty: nothing.
    pub trouble: String,
}

/// What can't be shown.
#[derive(Debug, Clone, Serialize)]
pub struct Told {
    pub thing: String,
    pub cure: String,
}

/// Builds of one id in several projects.
#[derive(Debug, Clone, Serialize)]
pub struct Choice {
    pub id: String,
    /// Each project with the address of its build.
    pub projects: Vec<(String, String)>,
}

#[derive(Serialize)]
struct Nothing {}

/// A build's page.
pub fn build(view: &BuildView, who: &Who) -> String {
    let title = format!("{} {} {}", view.state.mark, view.id, view.state.word);
    framed("build", view, &title, view.refresh, Some(who))
}

/// Asks who somebody is.
pub fn sign_in(form: &SignIn) -> String {
    framed("sign_in", form, "Sign in", 0, None)
}

/// The page that is shown where none is named.
pub fn home(who: &Who) -> String {
    framed("home", &Nothing {}, "farm", 0, Some(who))
}

/// Which of several builds is meant.
pub fn choose(choice: &Choice, who: &Who) -> String {
    framed("choose", choice, &choice.id, 0, Some(who))
}

/// What can't be shown.
pub fn problem(told: &Told) -> String {
    framed("problem", told, &told.thing, 0, None)
}

fn framed(name: &str, page: &impl Serialize, title: &str, refresh: u32, who: Option<&Who>) -> String {
    let body = render(name, page);
    render("frame", &Frame { title, style: STYLE, refresh, who, body })
}

fn render(name: &str, page: &impl Serialize) -> String {
    let rendered = PAGES.get_template(name).and_then(|template| template.render(Serde(page)));
    rendered.unwrap_or_else(|error| {
        tracing::error!(name, %error, "a template can't be filled: a bug");
        "<p>Something is wrong with the farm; its coordinator's log says what.</p>".to_owned()
    })
}

#[cfg(test)]
#[path = "templates_tests.rs"]
mod tests;
