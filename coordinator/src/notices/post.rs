//! Calls a URL, and judges what it answers.

use std::time::Duration;

use chrono::{DateTime, Utc};
use farm_types::chain::in_short;
use farm_types::text::{first_line, harmless};
use percent_encoding::percent_decode_str;
use tokio::time::{Instant, timeout_at};

use super::address::Address;
use super::sent::{Answer, PATIENCE, Sent};
use crate::outbound::{Client, Failed, Method, Response, Url, body};

/// So much of an answer is read, bytes.
const MOST_BYTES: usize = 4096;
/// The longest word of a receiver that is told on, characters.
const LONGEST_SAID: usize = 120;
/// No receiver is waited for longer than this: a word too many of its would silence a notice unseen.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);
/// Parts of an address that are as long are kept out of what a receiver says, bytes.
const SHORTEST_SECRET: usize = 6;

/// Posts JSON with these headers, by which the receiver knows it again; without any it doesn't, and what may have come is not sent again
/// and again.
pub(crate) async fn post(
    client: &Client,
    address: &Address,
    headers: &[(&'static str, String)],
    text: String,
) -> Answer {
    let deadline = Instant::now() + PATIENCE;
    let mut request = client.request(Method::POST, &address.url).header("content-type", "application/json");
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    let (why, has_come) = match timeout_at(deadline, client.send_straight(request.body(text))).await {
        Ok(Ok(response)) => return answered(response, address, deadline).await,
        Ok(Err(Failed::Refused { refused, .. })) => {
            let why = format!(
                "the farm may not call {refused}; whoever runs it allows that by outbound.allow in the coordinator's configuration"
            );
            (why, false)
        }
        Ok(Err(Failed::Endless)) => ("it leads elsewhere".to_owned(), false),
        // Its own words have the URL in them.
        Ok(Err(Failed::Request(error))) => {
            let has_come = !error.is_connect() && !error.is_builder();
            (format!("it can't be reached: {}", in_short(&error.without_url())), has_come)
        }
        // Connections are given up earlier.
        Err(_) => (format!("it doesn't answer within {} s", PATIENCE.as_secs()), true),
    };
    Answer::wordless(match has_come && headers.is_empty() {
        true => Sent::Doubtful(why),
        false => Sent::Later(why, None),
    })
}

async fn answered(mut response: Response, address: &Address, deadline: Instant) -> Answer {
    let header = response.headers().get("retry-after").and_then(|value| value.to_str().ok());
    let wait = header.and_then(|text| retry_after(text, Utc::now()));
    let (code, status) = (response.status().as_u16(), response.status().to_string());
    // What the status says counts also where its text doesn't come.
    let read = body::read(&mut response, MOST_BYTES, deadline).await;
    let said = said(&String::from_utf8_lossy(&read.bytes), &address.url);
    let sent = judge(code, &status, wait);
    // Why something isn't taken has the status in it.
    let words = match (&sent, said.is_empty()) {
        (Sent::Taken, true) => status,
        (Sent::Taken, false) => format!("{status}: {said}"),
        _ => said,
    };
    Answer { sent, words }
}

/// One short line of what was answered. A receiver that repeats its own address, or a part of it, doesn't give that away.
fn said(text: &str, url: &str) -> String {
    let mut text = text.replace(url, "…");
    for secret in secrets(url) {
        text = without(&text, &secret);
    }
    harmless(&first_line(text.trim(), LONGEST_SAID))
}

/// What of a URL is as long as a secret, as it is written and as it is meant; the longest first.
fn secrets(url: &str) -> Vec<String> {
    let Ok(url) = url.parse::<Url>() else { return Vec::new() };
    let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    let written = url.path().split('/').chain(url.query().unwrap_or_default().split(['&', '=', ';']));
    let meant = url.query_pairs().flat_map(|(name, value)| [name.into_owned(), value.into_owned()]);
    let mut all: Vec<String> =
        written.flat_map(|part| [part.to_owned(), decoded(part)]).chain(meant).collect();
    all.retain(|part| part.len() >= SHORTEST_SECRET);
    all.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
    all.dedup();
    all
}

/// A text without another one, in whichever case that stands there. A JSON string writes `/` also as `\/`.
fn without(text: &str, secret: &str) -> String {
    let (text, secret) = (text.replace("\\/", "/"), secret.to_ascii_lowercase());
    let (mut rest, mut out) = (text.as_str(), String::new());
    // The case of ASCII's letters changes no length.
    while let Some(at) = rest.to_ascii_lowercase().find(&secret) {
        out.push_str(rest.get(..at).unwrap_or_default());
        out.push('…');
        rest = rest.get(at + secret.len()..).unwrap_or_default();
    }
    out + rest
}

fn judge(code: u16, status: &str, wait: Option<Duration>) -> Sent {
    let why = format!("it answers {status}");
    match code {
        200..=299 => Sent::Taken,
        300..=399 => Sent::Later(format!("{why} and leads elsewhere, which isn't followed"), wait),
        // Standard Webhooks: nobody wants it any more.
        410 => Sent::Never(why),
        // It is this one that it can't read; what comes after it is another one.
        400 | 413 | 415 | 422 => Sent::Doubtful(why),
        429 | 500..=599 => Sent::Later(why, wait),
        _ => Sent::Later(why, None),
    }
}

/// `Retry-After` (RFC 9110, 10.2.3): seconds, or a date.
fn retry_after(text: &str, now: DateTime<Utc>) -> Option<Duration> {
    let text = text.trim();
    let wait = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let at = DateTime::parse_from_rfc2822(text).ok()?;
            (at.with_timezone(&Utc) - now).to_std().unwrap_or_default()
        }
    };
    Some(wait.clamp(Duration::from_secs(1), LONGEST_WAIT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receiver_says_for_how_long_it_wants_to_hear_nothing() {
        let now: DateTime<Utc> = "2026-11-30T12:00:00Z".parse().unwrap();
        for (text, seconds) in [
            ("7", Some(7)),
            ("0", Some(1)),
            (" 120 ", Some(120)),
            ("18446744073709551615", Some(3600)),
            ("86400", Some(3600)),
            ("Mon, 30 Nov 2026 12:01:30 GMT", Some(90)),
            ("Mon, 30 Nov 2026 11:00:00 GMT", Some(1)),
            ("soon", None),
            ("-1", None),
            ("", None),
        ] {
            assert_eq!(retry_after(text, now), seconds.map(Duration::from_secs), "{text}");
        }
    }

    #[test]
    fn only_what_says_that_it_is_gone_is_not_tried_again() {
        let wait = Some(Duration::from_secs(9));
        assert_eq!(judge(204, "204 No Content", None), Sent::Taken);
        for (code, waits) in [(301, true), (307, true), (401, false), (404, false), (429, true), (503, true)]
        {
            let Sent::Later(why, after) = judge(code, &code.to_string(), wait) else { panic!("{code}") };
            assert!(why.contains(&code.to_string()) && after == wait.filter(|_| waits), "{why}");
        }
        assert_eq!(judge(422, "422 No", wait), Sent::Doubtful("it answers 422 No".to_owned()));
        assert_eq!(judge(410, "410 Gone", wait), Sent::Never("it answers 410 Gone".to_owned()));
    }

    #[test]
    fn what_a_receiver_answers_is_one_short_line_without_its_address() {
        let url = "https://hooks.example/services/s3cretpath/a%2Bb%2Bcd?token=s3cretvalue&x=%C3%BCnseen";
        for answer in [
            "no \u{1b}[2J route for /services/s3cretpath",
            "no route at https://hooks.example/services/s3cretpath/a%2Bb%2Bcd?token=s3cretvalue&x=%C3%BCnseen\nmore",
            r#"{"no route": "\/services\/s3cretpath\/a+b+cd"}"#,
            "no route for S3CRETPATH, a%2bb%2bcd",
            "no route where token is s3cretvalue and x is ünseen",
            "no route: ?token=s3cretvalue&amp;x=%C3%BCnseen",
        ] {
            let told = said(answer, url);
            let lower = told.to_ascii_lowercase();
            assert!(lower.contains("route") && !told.contains('\u{1b}'), "{told}");
            for part in ["s3cret", "a+b+cd", "a%2bb", "ünseen", "%c3%bcnseen"] {
                assert!(!lower.contains(part), "{part}: {told}");
            }
        }
        assert!(said(&"x".repeat(5000), url).chars().count() <= LONGEST_SAID + 2);
    }
}
