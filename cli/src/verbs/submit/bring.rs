//! What is done before the build is submitted: the farm is found, the source read and uploaded.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use farm_dockerfile::Sources;
use farm_proto::v1::{GetFarmRequest, GetProjectSettingsRequest};
use farm_types::Platform;
use farm_types::snapshot::{ROOT_CONTEXT, named_root};
use tonic::Code;

use super::now_ms;
use super::plan::Plan;
use crate::calls::through;
use crate::config::Address;
use crate::connect::Client;
use crate::context::Source;
use crate::error::{Error, Result};
use crate::output::display::Display;
use crate::output::live::EVERY;
use crate::output::text::{bytes, harmless};
use crate::source;
use crate::upload::{Sending, Uploaded};

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
}

/// Finds the farm, reads the source and uploads it.
pub(super) async fn bring(plan: &Plan, address: &Address, sending: &Arc<Sending>) -> Result<Brought> {
    // The farm is looked for while the source is read; where it isn't, the source doesn't matter.
    let finding = async {
        let client = Client::connect(address).await?;
        if !plan.platforms.is_empty() {
            return Ok((client, plan.platforms.clone(), Chosen::Here));
        }
        let (platforms, chosen) = by_default(&client).await?;
        let single = plan.single_platform.check(platforms.len(), plan.provenance);
        single.map_err(|mut e| {
            "--single-platform".clone_into(&mut e.thing);
            e
        })?;
        Ok((client, platforms, chosen))
    };
    let is_temporary = plan.temporary.is_some();
    let (client, platforms, chosen, source, meant) = if plan.platforms.is_empty() {
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
        source::send(&client, source, &plan.location, (is_temporary, meant.as_ref()), sending).await?;
    Ok(Brought { uploaded, client, source, platforms, chosen, meant })
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

/// Shows that the source is read and sent, once that takes longer than a moment. Never ends.
pub(super) async fn look_on(display: &mut Display, context: &str, sending: &Sending) {
    if !display.is_live() {
        std::future::pending::<()>().await;
    }
    tokio::time::sleep(MOMENT).await;
    loop {
        let text = match sending.bytes() {
            None => format!("reading {context}"),
            Some((sent, total)) => {
                format!("sending {}  {} of {}", harmless(context), bytes(sent), bytes(total))
            }
        };
        display.prepare(Some(&text));
        display.draw(now_ms());
        tokio::time::sleep(EVERY).await;
    }
}
