//! Signing in at the issuer of a farm's company: in a browser here ([`browser`]), or with a code that is entered in any ([`device`]).
//!
//! The farm asks the issuer; this command only opens a page, or shows a code, and brings the farm what came of it. What proves that
//! it was this command that asked (state, nonce, verifier, device code) is in its memory and nowhere else.

mod browser;
mod device;
mod listener;
mod open;

use std::io::IsTerminal as _;

use farm_client::Security;
use farm_proto::v1::sign_in_service_client::SignInServiceClient;
use farm_proto::v1::{GetSignInRequest, GetSignInResponse, SignInRequest, SignedIn, sign_in_request::By};
use tonic::{Code, Status};

use crate::again::through;
use crate::config::Address;
use crate::connect::stranger;
use crate::ctrl_c::CtrlC;
use crate::error::{Error, Result, status_in_short};
use crate::limits::Limited;
use crate::output::text::harmless;

/// In which way somebody signs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// In a browser on this machine.
    Browser,
    /// With a code that is entered in a browser on any machine.
    Device,
}

/// A farm at which people sign in.
pub struct Offer {
    farm: SignInServiceClient<Limited>,
    url: String,
    told: GetSignInResponse,
}

/// How people sign in at this farm; `None`: nobody does, also since it is an old one.
///
/// # Errors
/// It can't be asked, or can't ask its issuer.
pub(crate) async fn offered(address: &Address, security: &Security) -> Result<Option<Offer>> {
    let farm = stranger(address, security).await?;
    let asked = through(async || farm.clone().get_sign_in(GetSignInRequest {}).await).await;
    let told = match asked {
        Ok(told) => told,
        Err(status) if status.code() == Code::Unimplemented => return Ok(None),
        Err(status) => return Err(Error::from_status(&status, &address.url)),
    };
    let url = address.url.clone();
    Ok((!told.issuer.is_empty()).then_some(Offer { farm, url, told }))
}

impl Offer {
    /// Whose page it is.
    pub fn issuer(&self) -> &str {
        &self.told.issuer
    }

    /// Signs in, in this way or else as it can be done here. Answers the token, and whose it is.
    ///
    /// # Errors
    /// The issuer or the farm refuses, nobody has signed in in time, or Ctrl-C was pressed.
    pub async fn sign_in(&self, way: Option<Way>) -> Result<SignedIn> {
        let has_browser = !self.told.authorization_endpoint.is_empty();
        let way = match way {
            Some(Way::Device) if !self.told.device => {
                return Err(self.lacks("with a code on another device", "--browser"));
            }
            Some(Way::Browser) if !has_browser => return Err(self.lacks("in a browser", "--device")),
            Some(way) => way,
            None if !self.told.device => Way::Browser,
            None if has_browser && open::can_open() && std::io::stderr().is_terminal() => Way::Browser,
            None => Way::Device,
        };
        let mut ctrl_c = CtrlC::listen();
        tokio::select! {
            signed_in = self.go(way) => signed_in,
            // Nothing is kept yet; the issuer's page says for itself that it is of no use any more.
            () = ctrl_c.pressed() => Err(Error::Cancelled("nobody was signed in, and nothing was changed".to_owned())),
        }
    }

    async fn go(&self, way: Way) -> Result<SignedIn> {
        match way {
            Way::Browser => Box::pin(browser::sign_in(self)).await,
            Way::Device => Box::pin(device::sign_in(self)).await,
        }
    }

    fn lacks(&self, way: &str, other: &str) -> Error {
        Error::Farm(format!(
            "at the farm at {} nobody signs in {way}; try {other}, or have a token",
            harmless(&self.url)
        ))
    }

    fn request(&self, by: By) -> SignInRequest {
        SignInRequest { by: Some(by), machine: machine() }
    }

    /// What it means for whoever signs in that an answer, which may have been the token, hasn't come.
    fn lost(&self, status: &Status) -> Error {
        Error::Farm(format!(
            "the farm's answer to your sign-in didn't come ({}), and what the issuer gave counts once. Begin again: farm login {}; \
             if you were let in meanwhile, that ends by itself after about 15 min",
            status_in_short(status),
            self.url
        ))
    }

    /// What the farm's refusal means for whoever signs in.
    fn refused(&self, status: &Status) -> Error {
        let text = status.message();
        match status.code() {
            Code::Unauthenticated | Code::PermissionDenied | Code::FailedPrecondition => {
                Error::Farm(format!("the farm at {} does not let you in: {text}", self.url))
            }
            _ => Error::from_status(status, &self.url),
        }
    }
}

/// What this machine is called, for lists of tokens.
fn machine() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
}
