//! Asks forges which repository has the name of a hook's now, by the hook's token: what is fetched by a name may have become somebody
//! else's. Beside the loop that looks: a forge that hangs holds up nobody. Where there is no token nobody is asked.

use std::collections::HashMap;

use farm_hooks::Provider;
use farm_store::StoreError;
use farm_store::hooks::looks::Look;
use farm_types::HookId;
use tokio::task::JoinHandle;

use crate::forge::{Kind, Named as Name, Unsaid};
use crate::hooks::token::repository;
use crate::shared::Shared;

/// Whose a name is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Named {
    /// The hook's repository's, as far as anybody can say.
    Own,
    /// That of the repository that its forge knows by this.
    Another(String),
    /// The forge doesn't say it, and why.
    Unsaid(String),
}

/// The questions that are under way, one of each look.
#[derive(Debug, Default)]
pub(super) struct Names(HashMap<(HookId, i64), JoinHandle<Result<String, Unsaid>>>);

impl Names {
    /// Forgets what was asked for other looks.
    pub(super) fn keep(&mut self, looks: &[Look]) {
        self.0.retain(|key, asked| {
            let is_wanted = looks.iter().any(|look| (look.hook, look.number) == *key);
            if !is_wanted {
                asked.abort();
            }
            is_wanted
        });
    }

    /// Whose the name of a look's repository is; `None`: its forge is asked.
    ///
    /// # Errors
    /// The database can't be reached.
    pub(super) async fn of(&mut self, shared: &Shared, look: &Look) -> Result<Option<Named>, StoreError> {
        let key = (look.hook, look.number);
        if self.0.get(&key).is_some_and(|asked| !asked.is_finished()) {
            return Ok(None);
        }
        if let Some(asked) = self.0.remove(&key) {
            let said = asked.await.map_err(StoreError::corrupt)?;
            return Ok(Some(judged(said, look.repository_id.as_deref())));
        }
        let provider: Provider = look.provider.parse().map_err(StoreError::corrupt)?;
        if Kind::of(provider).is_none() {
            return Ok(Some(Named::Own));
        }
        let Some(token) = shared.loops.hook_token(look.project, look.hook).await? else {
            return Ok(Some(Named::Own));
        };
        let name = Name {
            provider,
            host: &look.host,
            api: look.api_url.as_deref(),
            full_name: &look.full_name,
            // An App is lent a token for this repository only; whoever has the name is asked for by that alone.
            id: look.repository_id.as_deref(),
        };
        let at = match repository(shared, (look.project, look.hook), name, &token) {
            Ok(at) => at,
            Err(why) => return Ok(Some(Named::Unsaid(why.to_string()))),
        };
        let forges = shared.forges.clone();
        self.0.insert(key, tokio::spawn(async move { Box::pin(forges.id_by_name(&at)).await }));
        Ok(None)
    }
}

fn judged(said: Result<String, Unsaid>, own: Option<&str>) -> Named {
    match said {
        Ok(id) if own == Some(id.as_str()) => Named::Own,
        Ok(id) => Named::Another(id),
        Err(why) => Named::Unsaid(why.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_the_hooks_only_if_the_forge_says_its_own_id() {
        assert_eq!(judged(Ok("42".to_owned()), Some("42")), Named::Own);
        assert_eq!(judged(Ok("43".to_owned()), Some("42")), Named::Another("43".to_owned()));
        assert_eq!(judged(Ok("43".to_owned()), None), Named::Another("43".to_owned()));
        let away = judged(Err(Unsaid::Away("no answer".to_owned())), Some("42"));
        assert_eq!(away, Named::Unsaid("no answer".to_owned()));
    }
}
