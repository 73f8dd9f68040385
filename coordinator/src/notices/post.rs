//! Calls a URL, and judges what it answers.

use std::time::Duration;

use chrono::{DateTime, Utc};
use farm_types::chain::in_short;
use farm_types::text::{first_line, harmless};
use tokio::time::{Instant, timeout_at};

use super::address::Address;
use super::sent::{PATIENCE, Sent};
use crate::outbound::{Client, Failed, Method, Url, body};

/// So much of an answer is read, bytes.
const MOST_BYTES: usize = 4096;
/// The longest word of a receiver that is told on, characters.
const LONGEST_SAID: usize = 120;
/// No receiver is waited for longer than this.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 3600);

/// Posts JSON with these headers.
pub async fn post(
    client: &Client,
    address: &Address,
    headers: &[(&'static str, String)],
    text: String,
) -> Sent {
    let deadline = Instant::now() + PATIENCE;
    let mut request = client.request(Method::POST, &address.url).header("content-type", "application/json");
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    let mut response = match timeout_at(deadline, client.send_straight(request.body(text))).await {
        Ok(Ok(response)) => response,
        Ok(Err(Failed::Refused { refused, .. })) => {
            let why = format!(
                "the farm may not call {refused}; whoever runs it allows that by outbound.allow in the coordinator's configuration"
            );
            return Sent::Later(why, None);
        }
        Ok(Err(Failed::Endless)) => return Sent::Later("it leads elsewhere".to_owned(), None),
        // Its own words have the URL in them.
        Ok(Err(Failed::Request(error))) => {
            return Sent::Later(format!("it can't be reached: {}", in_short(&error.without_url())), None);
        }
        Err(_) => return Sent::Later(format!("it doesn't answer within {} s", PATIENCE.as_secs()), None),
    };
    let header = response.headers().get("retry-after").and_then(|value| value.to_str().ok());
    let wait = header.and_then(|text| retry_after(text, Utc::now()));
    let status = response.status().as_u16();
    // What the status says counts also where its text doesn't come.
    let read = body::read(&mut response, MOST_BYTES, deadline).await;
    judge(status, wait, &said(&String::from_utf8_lossy(&read.bytes), &address.url))
}

/// One short line of what was answered; a receiver that repeats its own address doesn't give that away.
fn said(text: &str, url: &str) -> String {
    let path = url.parse::<Url>().map(|url| url.path().to_owned()).unwrap_or_default();
    let mut text = text.replace(url, "…");
    if path.len() > 1 {
        text = text.replace(&path, "…");
    }
    harmless(&first_line(text.trim(), LONGEST_SAID))
}

fn judge(status: u16, wait: Option<Duration>, said: &str) -> Sent {
    let words = if said.is_empty() { format!("{status}") } else { format!("{status}: {said}") };
    match status {
        200..=299 => Sent::Taken(words),
        300..=399 => {
            Sent::Later(format!("it answers {status} and leads elsewhere, which isn't followed"), wait)
        }
        // Standard Webhooks: nobody wants it any more.
        410 => Sent::Never(format!("it answers {words}")),
        429 | 500..=599 => Sent::Later(format!("it answers {words}"), wait),
        _ => Sent::Later(format!("it answers {words}"), None),
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
            ("18446744073709551615", Some(86_400)),
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
        assert_eq!(judge(204, None, ""), Sent::Taken("204".to_owned()));
        for (status, waits) in
            [(301, true), (307, true), (400, false), (401, false), (404, false), (429, true), (503, true)]
        {
            let Sent::Later(why, after) = judge(status, wait, "no") else { panic!("{status}") };
            assert!(why.contains(&status.to_string()) && after == wait.filter(|_| waits), "{why}");
        }
        assert!(matches!(judge(410, None, "gone"), Sent::Never(why) if why.contains("gone")));
    }

    #[test]
    fn what_a_receiver_answers_is_one_short_line_without_its_address() {
        let url = "https://hooks.example/services/s3cret";
        let told = said(&format!("no \u{1b}[2J route for /services/s3cret at {url}\nmore"), url);
        assert!(told.contains("route") && !told.contains("s3cret") && !told.contains('\u{1b}'), "{told}");
        assert!(said(&"x".repeat(5000), url).chars().count() <= LONGEST_SAID + 2);
    }
}
