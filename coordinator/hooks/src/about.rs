//! Whether a delivery is about its hook's repository.

use crate::delivery::{Delivery, Outcome, Repository};
use crate::provider::Provider;

/// Which repository a hook is for.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'a> {
    pub provider: Provider,
    /// By which its forge knows it for good; `None`: no delivery has said it yet.
    pub id: Option<&'a str>,
    /// `OWNER/REPO`.
    pub full_name: &'a str,
    /// `HOST[:PORT]`.
    pub host: &'a str,
}

/// What a delivery is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum About {
    /// The hook's repository.
    Own,
    /// A repository of the hook's host and name, whose id isn't known yet: from now on it is the hook's.
    First(String),
    /// Another one, in words.
    Other(String),
    /// The hook's, which has another name now, or another one, which has its name: whoever fetches by the name fetches what isn't the
    /// hook's.
    Strayed(String),
}

/// What a delivery is about. Of a registry's only images of the hook's repository stay in it.
///
/// A name may be given to another repository later, an id isn't: once it is known it alone counts. Until then name and host have to
/// be the hook's, and the first delivery that is signed by its secret decides.
pub fn about(expected: Expected<'_>, delivery: &mut Delivery) -> About {
    let Expected { provider, id, full_name, host } = expected;
    if provider.is_registry() {
        if let Outcome::Images(images) = &mut delivery.outcome {
            let first = images.first().map_or_else(String::new, |image| image.repository.clone());
            images.retain(|image| image.repository == full_name);
            if images.is_empty() {
                return About::Other(format!("it is about {first}, and the hook is for {full_name}"));
            }
        }
        return About::Own;
    }
    let Some(found) = &delivery.repository else {
        return match delivery.outcome {
            // Of an organisation's hook, which is one for several repositories.
            Outcome::Ping => About::Own,
            _ => About::Other("it says of no repository that it is about that".to_owned()),
        };
    };
    match id {
        // Whoever takes a name that was given up would be fetched by it.
        Some(id) if id == found.id && !is_called(found, full_name, host) => About::Strayed(format!(
            "repository {id} is called {} at {} now, and the hook fetches {full_name} at {host}; make the hook anew: farm hook rm, farm hook \
             add",
            found.full_name, found.host
        )),
        Some(id) if id == found.id => About::Own,
        Some(id) => {
            let why = format!(
                "it is about repository {} ({}), and the hook is for {id} ({full_name})",
                found.id, found.full_name
            );
            // An organisation's hook tells of all that it has.
            if is_called(found, full_name, host) { About::Strayed(why) } else { About::Other(why) }
        }
        None if found.full_name.eq_ignore_ascii_case(full_name) && found.host.eq_ignore_ascii_case(host) => {
            About::First(found.id.clone())
        }
        None => About::Other(format!(
            "it is about {} at {}, and the hook is for {full_name} at {host}",
            found.full_name, found.host
        )),
    }
}

/// Whether a repository has this name still, as far as the sender says it.
fn is_called(found: &Repository, full_name: &str, host: &str) -> bool {
    found.full_name.eq_ignore_ascii_case(full_name)
        && (found.host.is_empty() || found.host.eq_ignore_ascii_case(host))
}
