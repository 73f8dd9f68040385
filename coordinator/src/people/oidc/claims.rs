//! What a token says, whoever has issued it: its times, whom it is for, and what tells it from all others.
//!
//! OpenID Connect Core 1.0, sections 2 and 3.1.3.7; JWT, RFC 7519, section 4.1.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use farm_types::Digest;
use serde_json::{Map, Value};

use super::refused::{Refused, shown, span};

/// What a verified token says.
pub type Claims = Map<String, Value>;

/// Clocks may differ by so much, seconds.
pub const LEEWAY: i64 = 60;
/// A token that is good for longer is no token of a job, seconds. It would have to be remembered for as long.
const LONGEST_LIFE: i64 = 7 * 86_400;
/// The longest name that a token may have of its own, bytes.
const LONGEST_JTI: usize = 255;

/// Until when the token counts, if it counts now.
///
/// # Errors
/// It doesn't yet, or not any more; or says nothing that makes sense.
pub fn ends(claims: &Claims, now: DateTime<Utc>) -> Result<DateTime<Utc>, Refused> {
    let at = |name: &str| seconds(claims, name);
    let needed = |name: &str| {
        at(name)?.ok_or_else(|| {
            Refused::Token(format!("the token has no {name}, so nobody can say when it counts"))
        })
    };
    let clocks =
        format!("the farm's clock ({}) or the issuer's is wrong", now.format("%Y-%m-%d %H:%M:%S UTC"));
    let second = now.timestamp();
    let (iat, exp) = (needed("iat")?, needed("exp")?);
    for (name, from) in [("iat", Some(iat)), ("nbf", at("nbf")?)] {
        if let Some(ahead) = from.map(|from| from - second).filter(|ahead| *ahead > LEEWAY) {
            return Err(Refused::Token(format!(
                "the token's {name} is {} in the future: {clocks}",
                span(ahead)
            )));
        }
    }
    let past = second - exp;
    if past >= LEEWAY {
        return Err(Refused::Token(format!(
            "the token has ended {} ago (exp); get a new one and use it at once. If it is new, {clocks}",
            span(past)
        )));
    }
    if exp - iat > LONGEST_LIFE {
        return Err(Refused::Token(format!(
            "the token is good for {} (exp); farm takes none for more than {}",
            span(exp - iat),
            span(LONGEST_LIFE)
        )));
    }
    now.checked_add_signed(TimeDelta::seconds(exp - second))
        .ok_or_else(|| Refused::Token("the token's exp is no time".to_owned()))
}

/// A time, in whole seconds; a fraction is allowed (RFC 7519, section 2, NumericDate).
fn seconds(claims: &Claims, name: &str) -> Result<Option<i64>, Refused> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    let whole = || Duration::try_from_secs_f64(value.as_f64()?).ok()?.as_secs().try_into().ok();
    // Far enough from the ends of the range that differences stay in it.
    let found = value.as_i64().or_else(whole).filter(|seconds| (0..1 << 40).contains(seconds));
    found.map(Some).ok_or_else(|| Refused::Token(format!("the token's {name} is no time in seconds")))
}

/// Whether it was made for this audience. One that was made for several has to say that it was given to this one (`azp`):
/// else any of the others could show it here.
pub fn is_for(claims: &Claims, audience: &str) -> bool {
    match claims.get("aud") {
        Some(Value::String(only)) => only == audience,
        Some(Value::Array(several)) => {
            let is_given = || claims.get("azp").and_then(Value::as_str) == Some(audience);
            several.iter().any(|one| one.as_str() == Some(audience)) && (several.len() == 1 || is_given())
        }
        _ => false,
    }
}

/// Whom it was made for, as messages say it.
pub fn audience(claims: &Claims) -> String {
    match claims.get("aud") {
        None => "nobody".to_owned(),
        Some(Value::String(only)) => shown(only),
        Some(other) => shown(&other.to_string()),
    }
}

/// What tells this token from all others of its issuer: its `jti`, or else the digest of what is `signed`.
///
/// # Errors
/// Its `jti` is no text, or too long a one.
pub fn identity(claims: &Claims, signed: &str) -> Result<String, Refused> {
    match claims.get("jti") {
        None => Ok(Digest::of(signed.as_bytes()).to_string()),
        Some(Value::String(jti)) if (1..=LONGEST_JTI).contains(&jti.len()) && !jti.contains('\0') => {
            Ok(format!("jti:{jti}"))
        }
        Some(_) => Err(Refused::Token(format!("the token's jti is no text of 1 to {LONGEST_JTI} bytes"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000, 0).unwrap()
    }

    fn claims(value: Value) -> Claims {
        value.as_object().unwrap().clone()
    }

    /// What is said to a token of which these times are so many seconds from now.
    fn judged(iat: i64, nbf: Option<i64>, exp: i64) -> Result<i64, String> {
        let now = now();
        let mut said = json!({"iat": now.timestamp() + iat, "exp": now.timestamp() + exp});
        if let Some(nbf) = nbf {
            said["nbf"] = json!(now.timestamp() + nbf);
        }
        let ends = ends(&claims(said), now).map_err(|why| why.to_string())?;
        Ok((ends - now).num_seconds())
    }

    #[test]
    fn a_token_counts_from_when_it_was_made_until_it_ends_give_or_take_a_minute() {
        assert_eq!(judged(0, None, 300), Ok(300));
        assert_eq!(judged(60, Some(60), 300), Ok(300));
        assert_eq!(judged(-300, Some(-300), -59), Ok(-59));
        for (iat, nbf, exp, why) in [
            (61, None, 300, "iat is 61 s in the future"),
            (0, Some(61), 300, "nbf is 61 s in the future"),
            (-300, None, -60, "has ended 60 s ago"),
            (0, None, 8 * 86_400, "good for 8 days"),
        ] {
            let said = judged(iat, nbf, exp).unwrap_err();
            assert!(said.contains(why), "{said}");
        }
    }

    #[test]
    fn a_clock_that_is_off_by_an_hour_is_told_as_such() {
        let behind = judged(3590, Some(3590), 3890).unwrap_err();
        assert!(
            behind.contains("iat is 59 min in the future: the farm's clock (2027-01-15 08:00:00 UTC)"),
            "{behind}"
        );
        let ahead = judged(-3600, None, -3300).unwrap_err();
        assert!(ahead.contains("55 min ago") && ahead.contains("If it is new, the farm's clock"), "{ahead}");
    }

    #[test]
    fn times_that_are_none_are_refused_and_fractions_are_cut() {
        let now = now();
        let said = |value: Value| ends(&claims(value), now).map_err(|why| why.to_string());
        let exp = now.timestamp() + 10;
        let part = said(json!({"iat": 1_800_000_000.9, "exp": exp})).unwrap();
        assert_eq!((part - now).num_seconds(), 10);
        for (wrong, name) in [
            (json!({"exp": exp}), "no iat"),
            (json!({"iat": 0}), "no exp"),
            (json!({"iat": "0", "exp": exp}), "iat is no time"),
            (json!({"iat": 0, "exp": -1}), "exp is no time"),
            (json!({"iat": 0, "exp": i64::MAX}), "exp is no time"),
            (json!({"iat": 0, "exp": u64::MAX}), "exp is no time"),
            (json!({"iat": 0, "exp": 1e300}), "exp is no time"),
            (json!({"iat": 0, "exp": exp, "nbf": null}), "nbf is no time"),
        ] {
            let why = said(wrong).unwrap_err();
            assert!(why.contains(name), "{why}");
        }
    }

    #[test]
    fn a_token_is_for_its_audience_and_of_several_for_the_one_it_was_given_to() {
        let is_for = |value: Value| is_for(&claims(value), "farm");
        assert!(is_for(json!({"aud": "farm"})) && is_for(json!({"aud": ["farm"], "azp": "somebody"})));
        assert!(is_for(json!({"aud": ["other", "farm"], "azp": "farm"})));
        for wrong in [
            json!({}),
            json!({"aud": "Farm"}),
            json!({"aud": "farm2"}),
            json!({"aud": []}),
            json!({"aud": {"farm": 1}}),
            json!({"aud": ["other", "farm"]}),
            json!({"aud": ["other", "farm"], "azp": "other"}),
            json!({"aud": "other", "azp": "farm"}),
        ] {
            assert!(!is_for(wrong.clone()), "{wrong}");
        }
    }

    #[test]
    fn tokens_are_told_apart_by_their_jti_or_by_all_that_they_say() {
        let identity = |value: Value, signed: &str| identity(&claims(value), signed);
        assert_eq!(identity(json!({"jti": "a"}), "x").unwrap(), identity(json!({"jti": "a"}), "y").unwrap());
        assert_ne!(identity(json!({}), "x").unwrap(), identity(json!({}), "y").unwrap());
        // Nobody can choose a jti that is what another token is known by.
        let other = identity(json!({}), "x").unwrap();
        assert_ne!(identity(json!({"jti": other}), "x").unwrap(), other);
        for wrong in
            [json!({"jti": ""}), json!({"jti": 7}), json!({"jti": "a\0"}), json!({"jti": "a".repeat(256)})]
        {
            assert!(identity(wrong, "x").is_err());
        }
    }
}
