//! What workers call of `MachineService`, of the FAKE coordinator: whoever asks gets a certificate, unless the script says
//! otherwise. Nothing is checked.

use farm_proto::v1;
use farm_proto::v1::machine_service_server::MachineService;
use tonic::{Request, Response, Status};

use super::Fake;

/// The certificate that a call's connection has shown; empty: none.
pub fn shown<T>(request: &Request<T>) -> Vec<u8> {
    let chain = request.peer_certs();
    chain.and_then(|chain| chain.first().map(|der| der.to_vec())).unwrap_or_default()
}

impl Fake {
    fn certify(&self, public_key: &[u8]) -> Option<v1::Certificate> {
        let times = self.with(|script| script.times);
        Some(self.authority.as_ref().unwrap().certificate("w1", public_key, times))
    }
}

#[tonic::async_trait]
impl MachineService for Fake {
    async fn join_farm(
        &self,
        request: Request<v1::JoinFarmRequest>,
    ) -> Result<Response<v1::JoinFarmResponse>, Status> {
        assert!(request.metadata().get("authorization").is_none());
        let request = request.into_inner();
        let public_key = request.public_key.clone();
        let coordinators = self.with(|script| {
            let is_nameless = request.name.is_empty();
            script.joins.push(request);
            if script.needs_name && is_nameless {
                return Err(Status::invalid_argument("the worker needs a name; give --name"));
            }
            script.refuse_join.clone().map_or(Ok(script.coordinators.clone()), Err)
        })?;
        Ok(Response::new(v1::JoinFarmResponse {
            certificate: self.certify(&public_key),
            machine: "m1".to_owned(),
            pool: "default".to_owned(),
            trust: "trusted".to_owned(),
            platforms: vec!["linux/amd64".to_owned()],
            slots: 4,
            coordinators,
        }))
    }

    async fn renew_certificate(
        &self,
        request: Request<v1::RenewCertificateRequest>,
    ) -> Result<Response<v1::RenewCertificateResponse>, Status> {
        let shown = shown(&request);
        self.with(|script| {
            script.renewals.push(shown);
            script.refuse_renewal.clone().map_or(Ok(()), Err)
        })?;
        let certificate = self.certify(&request.into_inner().public_key);
        Ok(Response::new(v1::RenewCertificateResponse { certificate }))
    }

    async fn invite_worker(
        &self,
        _: Request<v1::InviteWorkerRequest>,
    ) -> Result<Response<v1::InviteWorkerResponse>, Status> {
        Err(Status::unimplemented("no worker calls this"))
    }

    async fn list_invitations(
        &self,
        _: Request<v1::ListInvitationsRequest>,
    ) -> Result<Response<v1::ListInvitationsResponse>, Status> {
        Err(Status::unimplemented("no worker calls this"))
    }

    async fn withdraw_invitation(
        &self,
        _: Request<v1::WithdrawInvitationRequest>,
    ) -> Result<Response<v1::WithdrawInvitationResponse>, Status> {
        Err(Status::unimplemented("no worker calls this"))
    }

    async fn revoke_workers(
        &self,
        _: Request<v1::RevokeWorkersRequest>,
    ) -> Result<Response<v1::RevokeWorkersResponse>, Status> {
        Err(Status::unimplemented("no worker calls this"))
    }
}
