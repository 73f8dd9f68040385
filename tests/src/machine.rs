//! Machines that join a farm: what `farm-worker join` does, without its files, for simulated workers.

use farm_proto::v1;
use farm_proto::v1::machine_service_client::MachineServiceClient;
use rcgen::{KeyPair, PublicKeyData as _};
use tonic::Status;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use crate::client::{Bearer, Client};
use crate::farm::Farm;

/// A worker's key, and the certificate that it has for it.
pub struct Machine {
    pub name: String,
    pub key: KeyPair,
    /// Its own first, PEM.
    pub chain: String,
    /// How long it is good, milliseconds.
    pub lives_ms: u64,
    pub renew_ms: u64,
}

/// A join token.
pub async fn invite(
    farm: &Farm,
    request: v1::InviteWorkerRequest,
) -> Result<v1::InviteWorkerResponse, Status> {
    Ok(Client::connect(farm).await.machines.invite_worker(request).await?.into_inner())
}

/// Joins with this token, at the first coordinator.
pub async fn join(farm: &Farm, token: &str, name: &str) -> Result<Machine, Status> {
    join_with(farm, token, name, KeyPair::generate().unwrap()).await
}

/// Joins with this token and key, at the first coordinator.
pub async fn join_with(farm: &Farm, token: &str, name: &str, key: KeyPair) -> Result<Machine, Status> {
    let request = v1::JoinFarmRequest {
        token: token.to_owned(),
        name: name.to_owned(),
        public_key: key.der_bytes().to_vec().into(),
    };
    let channel = endpoint(farm, 0, None).connect().await.unwrap();
    let joined = MachineServiceClient::new(channel).join_farm(request).await?.into_inner();
    Ok(Machine::of(key, joined.certificate.unwrap()))
}

/// A machine that was invited and has joined.
pub async fn machine(farm: &Farm, name: &str) -> Machine {
    let request = v1::InviteWorkerRequest { name: name.to_owned(), ..Default::default() };
    let token = invite(farm, request).await.unwrap().token;
    join(farm, &token, name).await.unwrap()
}

impl Machine {
    pub fn of(key: KeyPair, certificate: v1::Certificate) -> Machine {
        let chain = certificate.chain.iter().map(|der| farm_pem(der)).collect();
        Machine {
            name: certificate.name,
            key,
            chain,
            lives_ms: certificate.lives_ms,
            renew_ms: certificate.renew_ms,
        }
    }

    /// A connection that shows the certificate, to a coordinator (from 0).
    pub async fn channel(&self, farm: &Farm, place: usize) -> Channel {
        endpoint(farm, place, Some(self)).connect().await.unwrap()
    }

    /// All services, by the certificate.
    pub async fn client(&self, farm: &Farm) -> Client {
        Client::over(self.channel(farm, 0).await, Bearer::default())
    }

    /// Another certificate for another key.
    pub async fn renew(&self, farm: &Farm) -> Result<Machine, Status> {
        let key = KeyPair::generate().unwrap();
        let request = v1::RenewCertificateRequest { public_key: key.der_bytes().to_vec().into() };
        let answer = self.client(farm).await.machines.renew_certificate(request).await?;
        Ok(Machine::of(key, answer.into_inner().certificate.unwrap()))
    }
}

/// A coordinator's address with TLS, which it speaks on loopback beside plaintext.
pub fn endpoint(farm: &Farm, place: usize, machine: Option<&Machine>) -> Endpoint {
    let url = farm.url_of(place).replace("http://", "https://");
    let ca = Certificate::from_pem(std::fs::read(farm.own_ca()).unwrap());
    let mut tls = ClientTlsConfig::new().ca_certificate(ca);
    if let Some(machine) = machine {
        tls = tls.identity(Identity::from_pem(&machine.chain, machine.key.serialize_pem()));
    }
    Endpoint::new(url).unwrap().tls_config(tls).unwrap()
}

fn farm_pem(der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
}
