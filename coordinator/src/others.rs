//! The other coordinators of the farm, to be asked something. Who they are, [`crate::peers`] finds out.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use farm_client::Bearer;
use farm_proto::v1::peer_service_client::PeerServiceClient;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use uuid::Uuid;

/// How they are called.
pub type Client = PeerServiceClient<InterceptedService<Channel, Bearer>>;

/// The other coordinators, as far as they are known now: each by its id and address.
#[derive(Debug, Default)]
pub struct Others(Mutex<HashMap<(Uuid, String), Client>>);

impl Others {
    /// Clients of all of them. Their calls may last: only that a connection comes about has a limit, and keep-alive ends a dead one.
    pub fn clients(&self) -> Vec<Client> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Forgets those that aren't there any more.
    pub fn keep(&self, there: &HashSet<(Uuid, String)>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|peer, _| there.contains(peer));
    }

    /// Adds one.
    pub fn add(&self, peer: (Uuid, String), client: Client) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(peer, client);
    }
}
