//! What a browser keeps for the farm, and shows it again. Nothing that runs in a page reads it, no other site's request but a plain
//! link brings it.

use http::header::{COOKIE, HeaderMap, HeaderValue, SET_COOKIE};
use std::time::Duration;

/// What is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cookie {
    /// Who is signed in.
    Session,
    /// Of whom nobody knows yet who they are: that their form is of their visit.
    Visit,
    /// What ties an issuer's answer to the browser that was sent there.
    Leave,
}

impl Cookie {
    /// Its name. Over encrypted connections a browser takes it from nobody but this very host, and sends it to nobody else.
    fn name(self, is_secure: bool) -> &'static str {
        match (self, is_secure) {
            (Self::Session, true) => "__Host-farm_session",
            (Self::Session, false) => "farm_session",
            (Self::Visit, true) => "__Host-farm_visit",
            (Self::Visit, false) => "farm_visit",
            (Self::Leave, true) => "__Host-farm_leave",
            (Self::Leave, false) => "farm_leave",
        }
    }

    /// What a browser shows of it. Of two nothing: who knows whose the other is.
    pub fn read(self, headers: &HeaderMap, is_secure: bool) -> Option<String> {
        let name = self.name(is_secure);
        let all = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
        let mut found = all.flat_map(|value| value.split(';')).filter_map(|pair| {
            let (other, value) = pair.trim().split_once('=')?;
            (other == name).then(|| value.to_owned())
        });
        let first = found.next()?;
        found.next().is_none().then_some(first)
    }

    /// Has the browser keep it: so long, or until it is closed.
    ///
    /// # Errors
    /// The value can't stand in a header.
    pub fn set(
        self,
        headers: &mut HeaderMap,
        value: &str,
        lives: Option<Duration>,
        is_secure: bool,
    ) -> Result<(), http::header::InvalidHeaderValue> {
        let secure = if is_secure { "; Secure" } else { "" };
        let lives = lives.map(|lives| format!("; Max-Age={}", lives.as_secs())).unwrap_or_default();
        let name = self.name(is_secure);
        let text = format!("{name}={value}; Path=/; HttpOnly; SameSite=Lax{secure}{lives}");
        headers.append(SET_COOKIE, HeaderValue::from_str(&text)?);
        Ok(())
    }

    /// Has the browser forget it.
    pub fn forget(self, headers: &mut HeaderMap, is_secure: bool) {
        let secure = if is_secure { "; Secure" } else { "" };
        let name = self.name(is_secure);
        let text = format!("{name}=; Path=/; HttpOnly; SameSite=Lax{secure}; Max-Age=0");
        // Names and words from above, which a header can have.
        if let Ok(value) = HeaderValue::from_str(&text) {
            headers.append(SET_COOKIE, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_is_for_this_host_alone_and_over_tls_alone_where_there_is_tls() {
        let set = |is_secure| {
            let mut headers = HeaderMap::new();
            Cookie::Session.set(&mut headers, "s3", Some(Duration::from_secs(60)), is_secure).unwrap();
            headers[SET_COOKIE].to_str().unwrap().to_owned()
        };
        assert_eq!(set(true), "__Host-farm_session=s3; Path=/; HttpOnly; SameSite=Lax; Secure; Max-Age=60");
        assert_eq!(set(false), "farm_session=s3; Path=/; HttpOnly; SameSite=Lax; Max-Age=60");
        let mut headers = HeaderMap::new();
        assert!(Cookie::Visit.set(&mut headers, "a\r\nb", None, false).is_err());
    }

    #[test]
    fn of_two_of_one_name_neither_counts() {
        let read = |cookies: &[&str], is_secure| {
            let mut headers = HeaderMap::new();
            for cookie in cookies {
                headers.append(COOKIE, HeaderValue::from_str(cookie).unwrap());
            }
            Cookie::Session.read(&headers, is_secure)
        };
        assert_eq!(read(&["a=b; farm_session=s3;c=d"], false).as_deref(), Some("s3"));
        // One that came without TLS may be anybody's.
        assert_eq!(read(&["farm_session=s3"], true), None);
        assert_eq!(read(&["farm_session=s3; farm_session=s4"], false), None);
        assert_eq!(read(&["farm_session=s3", "farm_session=s4"], false), None);
        assert_eq!(read(&["xfarm_session=s3"], false), None);
    }
}
