//! Check runs of a GitHub App: each made once, whatever is cut off between asking for it and hearing of it. And what it is lent for clones.

use std::sync::Arc;

use secrecy::SecretString;

use super::Forges;
use super::answers::{Unasked, Unsaid};
use super::ask::{Answer, At};
use super::github::app::{self, App, Key, Scope};
use super::github::checks::{self, Found, Run, Stage};
use super::judge::{Verdict, judge};
use super::repository::{Access, Repository};

/// What is known of a check run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Before {
    /// By which GitHub knows it; `None`: nobody has heard that it was made.
    pub id: Option<i64>,
    pub tried: Tried,
}

/// Whether GitHub was asked to show something of which nobody has heard that it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tried {
    No,
    /// What is to be shown now.
    This,
    /// Something else.
    Another,
}

/// What became of a check run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Checked {
    /// It is shown, by the run of this id.
    Shown(i64),
    /// The run is over already, which nobody had heard: another has to begin.
    Over,
    /// It isn't shown, as far as anybody knows.
    Not(Verdict),
}

impl Forges {
    /// Where an App is installed for a repository, if that will do: looked for, unless it is said.
    ///
    /// # Errors
    /// It won't do, or GitHub can't be asked.
    pub async fn installed(
        &self,
        at: &At,
        (name, key): (&str, Key),
        installation: Option<i64>,
    ) -> Result<Arc<App>, Unsaid> {
        let answer = self.0.ask_as(&key, name, app::find(at, installation)).await.map_err(Unsaid::from)?;
        let (id, installation) = app::found(at, installation, &answer)
            .map_err(|why| why.map_or_else(Unsaid::Away, Unsaid::Unfit))?;
        let app = App { name: name.to_owned(), id, installation, key };
        self.0.ask_anew(&app, at);
        Ok(Arc::new(app))
    }

    /// A token by which the repository can be cloned, and nothing else be done. `None`: nobody says now whether the App would be lent one, which it
    /// never was.
    ///
    /// # Errors
    /// The App isn't lent one; or it was before, and GitHub can't be asked.
    pub async fn lend_clone(&self, app: &App, at: &At) -> Result<Option<SecretString>, Unsaid> {
        self.0.lend_clone(app, at).await
    }

    /// Shows a check run. `now` and `strikes` as for [`Forges::show`].
    ///
    /// Cancelled, it may have been shown; the next one finds it, if it says that it was tried.
    pub async fn show_check(
        &self,
        repository: &Repository,
        run: &Run,
        before: Before,
        (now, strikes): (i64, u32),
    ) -> Checked {
        let at = &repository.at;
        let Access::App(app) = &repository.access else {
            return Checked::Not(Verdict::Never("check runs are made by Apps only".to_owned()));
        };
        let judged = |answer: Result<Answer, Unasked>| match answer {
            Ok(answer) => match judge(&answer, now, strikes) {
                Verdict::Done => Ok(answer),
                verdict => Err(Checked::Not(verdict)),
            },
            Err(unasked) => Err(Checked::Not(unasked.verdict(now, strikes))),
        };
        let known = match before.tried {
            Tried::No => before.id,
            Tried::This | Tried::Another => {
                let look = match before.id {
                    Some(id) => checks::look(at, id),
                    None => checks::list(at, app.id, run),
                };
                let answer = match judged(self.0.ask(repository, Scope::Checks, look).await) {
                    Ok(answer) => answer,
                    // Nothing is written by looking.
                    Err(Checked::Not(Verdict::Lost(why))) => return Checked::Not(Verdict::Again(why)),
                    Err(not) => return not,
                };
                let found = match checks::found(&answer, run) {
                    Ok(found) => found,
                    Err(why) => return Checked::Not(Verdict::Again(why.to_owned())),
                };
                match found {
                    Some(Found { id, is_over: true }) => {
                        let is_this = before.tried == Tried::This && matches!(run.stage, Stage::Over(_));
                        return if is_this { Checked::Shown(id) } else { Checked::Over };
                    }
                    Some(Found { id, .. }) => Some(id),
                    None => before.id,
                }
            }
        };
        let ask = match known {
            Some(id) => checks::change(at, id, run),
            None => checks::create(at, run),
        };
        match judged(self.0.ask(repository, Scope::Checks, ask).await) {
            Ok(answer) => match checks::made(&answer).or(known) {
                Some(id) => Checked::Shown(id),
                None => Checked::Not(Verdict::Again("the forge doesn't say what it has made".to_owned())),
            },
            Err(not) => not,
        }
    }
}
