//! What is done before the build is submitted: the farm is found, the source read and uploaded.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use farm_dockerfile::Sources;
use farm_proto::v1::{Build, GetFarmRequest, GetProjectSettingsRequest};
use farm_source::Source;
use farm_types::Platform;
use farm_types::snapshot::{ROOT_CONTEXT, ROOT_DOCKERFILE, named_root};
use tonic::Code;

use super::now_ms;
use super::plan::Plan;
use crate::calls::through;
use crate::config::Address;
use crate::connect::Client;
use crate::error::{Error, Result};
use crate::fetch::{self, Done, Ended, Fetching, fetch};
use crate::output::display::Display;
use crate::output::live::EVERY;
use crate::output::text::{bytes, harmless};
use crate::source;
use crate::upload::{Sending, Uploaded, upload};

/// What takes no longer needs no line of its own.
const MOMENT: Duration = Duration::from_millis(300);

/// Who chose the platforms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Chosen {
    /// Whoever submits.
    Here,
    /// The project's settings.
    ByProject,
    /// The farm: all that it has native workers for.
    Native,
}

/// What is there before the build is submitted.
pub(super) struct Brought {
    pub(super) client: Client,
    pub(super) source: Arc<Source>,
    pub(super) uploaded: Uploaded,
    pub(super) platforms: Vec<Platform>,
    /// Who chose the platforms.
    pub(super) chosen: Chosen,
    /// What of the contexts was read; `None`: all.
    pub(super) meant: Option<Sources>,
    /// What was fetched, by the roots that it is now.
    pub(super) fetched: BTreeMap<String, Done>,
}

/// How bringing ended.
pub(super) enum Bringing {
    Brought(Box<Brought>),
    /// A source could not be fetched: the fetch, and what was said of it.
    Unfetched(Box<Build>, Vec<String>),
}

/// How far it is.
#[derive(Default)]
pub(super) struct Progress {
    pub(super) sending: Arc<Sending>,
    pub(super) fetching: Fetching,
    /// There since the farm was found.
    client: OnceLock<Client>,
}

impl Progress {
    /// Has the fetches end that are under way.
    pub(super) async fn cancel(&self) {
        if let Some(client) = self.client.get() {
            self.fetching.cancel(client).await;
        }
    }
}

/// Finds the farm, has fetched what is to be, reads the source and uploads it.
pub(super) async fn bring(plan: &Plan, address: &Address, progress: &Progress) -> Result<Bringing> {
    // The farm is looked for while the source is read; where it isn't, the source doesn't matter.
    let finding = async {
        let client = Client::connect(address).await?;
        let _ = progress.client.set(client.clone());
        if !plan.platforms.is_empty() {
            return Ok((client, plan.platforms.clone(), Chosen::Here));
        }
        let (platforms, chosen) = by_default(&client).await?;
        plan.check_form(&platforms)?;
        Ok((client, platforms, chosen))
    };
    let is_temporary = plan.temporary.is_some();
    let (client, platforms, chosen, source, meant) = if !plan.fetches.is_empty() {
        let (client, platforms, chosen) = finding.await?;
        let fetched = match fetch_all(plan, &client, &progress.fetching).await? {
            Ok(fetched) => fetched,
            Err((build, said)) => return Ok(Bringing::Unfetched(build, said)),
        };
        let (source, uploaded) = join(plan, &client, &fetched, &progress.sending).await?;
        let brought = Brought { client, source, uploaded, platforms, chosen, meant: None, fetched };
        return Ok(Bringing::Brought(Box::new(brought)));
    } else if plan.platforms.is_empty() {
        // What is meant may depend on the platforms.
        let (client, platforms, chosen) = finding.await?;
        let meant = plan.meant(&platforms)?;
        let source = source::read(&plan.location, is_temporary, meant.as_ref()).await?;
        (client, platforms, chosen, source, meant)
    } else {
        let meant = plan.meant(&plan.platforms)?;
        let reading = source::read(&plan.location, is_temporary, meant.as_ref());
        let ((client, platforms, chosen), source) = tokio::try_join!(finding, reading)?;
        (client, platforms, chosen, source, meant)
    };
    let (source, uploaded) =
        source::send(&client, source, &plan.location, (is_temporary, meant.as_ref()), &progress.sending)
            .await?;
    let fetched = BTreeMap::new();
    let brought = Brought { uploaded, client, source, platforms, chosen, meant, fetched };
    Ok(Bringing::Brought(Box::new(brought)))
}

/// A fetch that has brought nothing, and what was said of it.
type Unfetched = (Box<Build>, Vec<String>);

/// Has all fetched that the plan names, one after the other.
async fn fetch_all(
    plan: &Plan,
    client: &Client,
    fetching: &Fetching,
) -> Result<std::result::Result<BTreeMap<String, Done>, Unfetched>> {
    let mut fetched = BTreeMap::new();
    for (root, spec) in &plan.fetches {
        let key = fetch::key(&plan.idempotency_key, root);
        match fetch(client, spec, &key, fetching).await? {
            Ended::Fetched(done) => drop(fetched.insert(root.clone(), *done)),
            Ended::Not(build, said) => return Ok(Err((build, said))),
        }
    }
    Ok(Ok(fetched))
}

/// Joins what was fetched and what lies here to one source, and uploads what the farm lacks of it.
async fn join(
    plan: &Plan,
    client: &Client,
    fetched: &BTreeMap<String, Done>,
    sending: &Arc<Sending>,
) -> Result<(Arc<Source>, Uploaded)> {
    if let Some(Done { id, fetched }) = fetched.get(ROOT_CONTEXT) {
        let dockerfile = fetch::file(client, id, ROOT_DOCKERFILE, &fetched.dockerfile).await?;
        std::fs::write(&plan.location.dockerfile, dockerfile).map_err(|error| {
            let why = farm_types::chain::io_in_short(&error);
            Error::Usage(format!("the fetched Dockerfile can't be written to a temporary folder ({why})"))
        })?;
    }
    let here = source::read(&plan.location, plan.temporary.is_some(), None).await?;
    let mut source = Arc::unwrap_or_clone(here);
    for (root, Done { fetched, .. }) in fetched {
        let both = |name: &str| fetched.roots.get(name).map(|root| (root.tree, root.content));
        if root == ROOT_CONTEXT {
            // The stand-in's only file is the Dockerfile.
            source.files = source.files.saturating_sub(1);
            source.roots.extend(both(ROOT_DOCKERFILE).map(|known| (ROOT_DOCKERFILE.to_owned(), known)));
        }
        source.files += usize::try_from(fetched.files).unwrap_or_default();
        source.roots.extend(both(ROOT_CONTEXT).map(|known| (root.clone(), known)));
    }
    let source = Arc::new(source);
    let uploaded = upload(client, &source, tokio::time::sleep, sending).await?;
    Ok((source, uploaded))
}

/// The roots of which a part was read, and of what, as a build names them.
pub(super) fn partial(meant: &Sources) -> BTreeMap<String, Vec<String>> {
    let named = meant.named.iter().map(|(name, selection)| (named_root(name), selection));
    let all = named.chain([(ROOT_CONTEXT.to_owned(), &meant.context)]);
    all.filter_map(|(root, selection)| Some((root, selection.texts()?))).collect()
}

/// The platforms of a build that names none: the project's, or those for which the farm has native workers.
///
/// # Errors
/// There are none, or the farm can't be asked.
pub(super) async fn by_default(client: &Client) -> Result<(Vec<Platform>, Chosen)> {
    let settings = async {
        let request = GetProjectSettingsRequest { used: false };
        match through(async || client.projects().get_project_settings(request).await).await {
            Ok(settings) => Ok(settings.default_platforms),
            // One from before projects had any.
            Err(status) if status.code() == Code::Unimplemented => Ok(Vec::new()),
            Err(status) => Err(client.error(&status)),
        }
    };
    let about = async {
        let asked = through(async || client.farm().get_farm(GetFarmRequest {}).await).await;
        asked.map_err(|status| client.error(&status))
    };
    let (said, about) = tokio::try_join!(settings, about)?;
    if said.is_empty() {
        return Ok((native(&about.native_platforms)?, Chosen::Native));
    }
    let said = said.iter().map(|platform| platform.parse()).collect::<Result<_, farm_types::Invalid>>()?;
    Ok((said, Chosen::ByProject))
}

/// The platforms for which the farm has native workers.
///
/// # Errors
/// There are none.
pub(super) fn native(platforms: &[String]) -> Result<Vec<Platform>> {
    if platforms.is_empty() {
        return Err(Error::Usage(
            "no --platform was given, and the farm has no native worker now to choose from; name platforms, for example \
             --platform linux/amd64 (`farm workers` lists what there is)"
                .to_owned(),
        ));
    }
    Ok(platforms.iter().map(|platform| platform.parse()).collect::<Result<_, farm_types::Invalid>>()?)
}

/// Shows that the source is read and sent, once that takes longer than a moment; where nothing is drawn, what a fetch waits for, each
/// once. Never ends.
pub(super) async fn look_on(display: &mut Display, context: &str, progress: &Progress) {
    tokio::time::sleep(MOMENT).await;
    let mut said = String::new();
    while !display.is_live() {
        if let Some(waits) = progress.fetching.waits() {
            // Counting down isn't news.
            let words: String = waits.chars().filter(|c| !c.is_ascii_digit()).collect();
            if words != said {
                display.line(&waits);
                said = words;
            }
        }
        tokio::time::sleep(MOMENT).await;
    }
    loop {
        let text = match (progress.fetching.does(), progress.sending.bytes()) {
            (Some(does), _) => does,
            (None, None) => format!("reading {context}"),
            (None, Some((sent, total))) => {
                format!("sending {}  {} of {}", harmless(context), bytes(sent), bytes(total))
            }
        };
        display.prepare(Some(&text));
        display.draw(now_ms());
        tokio::time::sleep(EVERY).await;
    }
}
