//! With a code that is entered in a browser on any machine (RFC 8628).

use std::time::Duration;

use farm_proto::v1::sign_in_request::By;
use farm_proto::v1::sign_in_response::Came;
use farm_proto::v1::{BeginDeviceSignInRequest, BeginDeviceSignInResponse, DeviceSignIn, SignedIn};
use tokio::time::Instant;
use tonic::{Code, Status};

use super::Offer;
use crate::again::{is_lost, once, through};
use crate::error::{Error, Result};
use crate::output::Out;
use crate::output::text::harmless;

/// So many times one after the other the farm may say that it can't ask the issuer; and is asked more slowly then.
const AWAY: u32 = 2;
const SLOWER: Duration = Duration::from_secs(5);

/// Shows a code, and waits until somebody has entered it.
pub(crate) async fn sign_in(offer: &Offer) -> Result<SignedIn> {
    let begun = through(async || offer.farm.clone().begin_device_sign_in(BeginDeviceSignInRequest {}).await);
    let code = begun.await.map_err(|status| offer.refused(&status))?;
    Out::stderr().lines(shown(offer.issuer(), &code));
    let end = Instant::now() + Duration::from_secs(code.lives_seconds.into());
    let mut pause = Duration::from_secs(code.interval_seconds.max(1).into());
    let mut away = 0;
    // An answer that hasn't come: it may have been that nobody has entered the code yet, or the token.
    let mut lost: Option<Status> = None;
    loop {
        tokio::time::sleep_until(end.min(Instant::now() + pause)).await;
        if Instant::now() >= end {
            if let Some(lost) = lost {
                return Err(offer.lost(&lost));
            }
            return Err(Error::Farm(format!(
                "nobody has entered the code {} in time; begin again",
                harmless(&code.user_code)
            )));
        }
        let by = By::Device(DeviceSignIn { device_code: code.device_code.clone() });
        let request = offer.request(by);
        let came = match once(async || offer.farm.clone().sign_in(request.clone()).await).await {
            Ok(answer) => answer.came,
            // The code still counts if it was entered by nobody until then; else the next answer says that it counts no more. It is
            // asked for more slowly, as a farm that doesn't answer has enough to do (RFC 8628, section 3.5).
            Err(status) if is_lost(&status) => {
                pause += SLOWER;
                lost = Some(status);
                continue;
            }
            // The farm can't say it just now, and the code may still count.
            Err(status) if status.code() == Code::Unavailable && away < AWAY => {
                away += 1;
                pause += SLOWER;
                continue;
            }
            Err(status) => {
                let is_told = matches!(status.code(), Code::PermissionDenied | Code::FailedPrecondition);
                return Err(match lost.filter(|_| !is_told) {
                    Some(lost) => offer.lost(&lost),
                    None => offer.refused(&status),
                });
            }
        };
        away = 0;
        lost = None;
        match came {
            Some(Came::SignedIn(signed_in)) => return Ok(signed_in),
            Some(Came::Pending(pending)) => pause += Duration::from_secs(pending.more_seconds.into()),
            None => return Err(Error::Farm(format!("the farm at {} answers nothing", offer.url))),
        }
    }
}

fn shown(issuer: &str, code: &BeginDeviceSignInResponse) -> Vec<String> {
    let mut lines = vec![
        format!("To sign in at {}, open in any browser", harmless(issuer)),
        format!("  {}", harmless(&code.verification_uri)),
        format!("and enter the code  {}", harmless(&code.user_code)),
    ];
    if !code.verification_uri_complete.is_empty() {
        lines.push(format!("or open  {}", harmless(&code.verification_uri_complete)));
    }
    let minutes = code.lives_seconds.div_ceil(60);
    lines
        .push(format!("Enter no code that somebody else has sent you. Waiting, for {minutes} min at most …"));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_to_open_and_to_enter_is_told_and_the_secret_isn_t() {
        let mut code = BeginDeviceSignInResponse {
            device_code: "s3cret".into(),
            user_code: "WDJB-MJHT\u{1b}[2J".into(),
            verification_uri: "https://sso.example/device".into(),
            lives_seconds: 601,
            ..Default::default()
        };
        let lines = shown("https://sso.example", &code);
        assert_eq!(lines[1], "  https://sso.example/device");
        assert!(
            lines[2].starts_with("and enter the code  WDJB-MJHT") && !lines[2].contains('\u{1b}'),
            "{lines:?}"
        );
        assert!(lines[3].contains("for 11 min at most"), "{lines:?}");
        code.verification_uri_complete = "https://sso.example/device?code=WDJB-MJHT".into();
        let lines = shown("https://sso.example", &code);
        assert_eq!(lines[3], "or open  https://sso.example/device?code=WDJB-MJHT");
        assert!(!lines.join("\n").contains("s3cret"));
    }
}
