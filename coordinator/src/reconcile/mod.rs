//! What the leader does: loops that look at the database and bring it one step further.
//!
//! Each loop is a one-pass function inside look-and-wait; a pass that fails is tried again, and any pass
//! may be cut off anywhere: the next one finds what is left. A loop that panics ends the process.
//!
//! Rooms by what a loop is about: [`builds`] and [`sources`] (what is old goes), [`work`] (scheduling, and what is
//! overdue), [`publish`], [`logs`] (sealing), [`machines`] (who leads, who is set aside)
//! [`people`] (sealing what was done), [`hooks`] (what was delivered), [`notices`] (who is told)
//! and [`keys`] (what was sealed by an old key).

pub mod builds;
mod busy;
pub mod hooks;
pub mod keys;
pub mod logs;
pub mod machines;
pub mod notices;
pub mod people;
pub mod publish;
mod put_off;
mod sources;
pub mod work;

use farm_core::work::plan::Settling;
use farm_store::machines::leader::Epoch;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What a leader works under.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Lead {
    /// The number of this leadership. Each write of the leader names it, and is refused when another leads.
    pub epoch: Epoch,
    /// After an outage: until when silence doesn't count.
    pub settling: Option<Settling>,
}

/// Waits until this coordinator leads; `None` when nobody will tell any more.
pub(crate) async fn leading(lead: &mut watch::Receiver<Option<Lead>>) -> Option<Lead> {
    lead.wait_for(Option::is_some).await.ok().and_then(|lead| *lead)
}

/// Waits for the next tick and for the leadership; `None` at the shutdown, or when nobody will tell any more.
pub(crate) async fn turn(
    tick: &mut tokio::time::Interval,
    lead: &mut watch::Receiver<Option<Lead>>,
    shutdown: &CancellationToken,
) -> Option<Lead> {
    let next = async {
        tick.tick().await;
        leading(lead).await
    };
    tokio::select! {
        biased;
        () = shutdown.cancelled() => None,
        lead = next => lead,
    }
}
