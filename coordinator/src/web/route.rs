//! Addresses of pages.
//!
//! Where somebody goes on to after signing in is said by what they send themselves, so only what is an address of a page here, read
//! and written anew, is gone to.

use farm_types::{Platform, ProjectName, ShortId, escaped};

/// A page, with what its address says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    Home,
    Build(Place),
    /// The log: of one platform, or all of it.
    Log(Place, Option<Platform>),
    /// Lets what a fork proposes be built.
    Approve(Place),
    SignIn(Next),
    SignOut,
    /// Away to sign in at the issuer.
    ToIssuer(Next),
    /// Back from there.
    FromIssuer(Returned),
}

/// A build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub id: ShortId,
    /// Its project, where more than one of the visitor's has a build of this id.
    pub project: Option<ProjectName>,
}

/// The page that somebody wants to see, once they are signed in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Next(Option<(Place, Option<Option<Platform>>)>);

/// What an issuer sends along with a browser (OpenID Connect Core 1.0, section 3.1.2.5; RFC 9207).
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Returned {
    pub code: String,
    pub state: String,
    pub issuer: Option<String>,
    pub error: Option<String>,
}

impl std::fmt::Debug for Returned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Returned(…)")
    }
}

impl Route {
    /// The page at this address; `None`: there is none.
    pub fn of(path: &str, query: Option<&str>) -> Option<Self> {
        let fields: Vec<(String, String)> =
            form_urlencoded::parse(query.unwrap_or_default().as_bytes()).into_owned().collect();
        let field = |name: &str| fields.iter().find(|(field, _)| field == name).map(|(_, value)| value);
        let next = || field("next").map(|next| Next::read(next)).unwrap_or_default();
        match path {
            "/" => return Some(Self::Home),
            "/sign-in" => return Some(Self::SignIn(next())),
            "/sign-out" => return Some(Self::SignOut),
            "/sign-in/issuer" => return Some(Self::ToIssuer(next())),
            "/sign-in/callback" => {
                let text = |name: &str| field(name).cloned().unwrap_or_default();
                return Some(Self::FromIssuer(Returned {
                    code: text("code"),
                    state: text("state"),
                    issuer: field("iss").cloned(),
                    error: field("error").cloned(),
                }));
            }
            _ => {}
        }
        let rest = path.strip_prefix("/b/")?;
        let (id, what) = rest.split_once('/').unwrap_or((rest, "build"));
        let project = field("project").map(|name| name.parse()).transpose().ok()?;
        let place = Place { id: id.parse().ok()?, project };
        match what {
            "build" if id == rest => return Some(Self::Build(place)),
            "approve" => return Some(Self::Approve(place)),
            "log" => {}
            _ => return None,
        }
        let platform = field("platform").map(|platform| platform.parse()).transpose().ok()?;
        Some(Self::Log(place, platform))
    }

    /// The methods that it answers to.
    pub fn methods(&self) -> &'static str {
        match self {
            Self::SignIn(_) => "GET, HEAD, POST",
            Self::SignOut | Self::Approve(_) => "POST",
            _ => "GET, HEAD",
        }
    }
}

impl Place {
    /// Its page's address.
    pub fn path(&self) -> String {
        match &self.project {
            Some(project) => format!("/b/{}?project={}", self.id, escaped(project.as_str())),
            None => format!("/b/{}", self.id),
        }
    }

    /// Where the form goes that lets what a fork proposes be built.
    pub fn approve(&self) -> String {
        match &self.project {
            Some(project) => format!("/b/{}/approve?project={}", self.id, escaped(project.as_str())),
            None => format!("/b/{}/approve", self.id),
        }
    }

    /// The address of its log, of one platform or all of it.
    pub fn log(&self, platform: Option<&str>) -> String {
        let project = self.project.as_ref().map(|project| ("project", project.as_str()));
        let fields = [project, platform.map(|platform| ("platform", platform))].into_iter().flatten();
        let fields: Vec<String> = fields.map(|(name, value)| format!("{name}={}", escaped(value))).collect();
        let mark = if fields.is_empty() { "" } else { "?" };
        format!("/b/{}/log{mark}{}", self.id, fields.join("&"))
    }

    /// The same of another build of the project.
    pub fn of(&self, id: &str) -> Option<Self> {
        Some(Self { id: id.parse().ok()?, project: self.project.clone() })
    }
}

impl Next {
    /// A build's page.
    pub fn build(place: Place) -> Self {
        Self(Some((place, None)))
    }

    /// A build's log.
    pub fn log(place: Place, platform: Option<Platform>) -> Self {
        Self(Some((place, Some(platform))))
    }

    /// As it is written in a form or an address. What is no build's page or log is the beginning.
    pub fn read(written: &str) -> Self {
        let (path, query) = match written.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (written, None),
        };
        match Route::of(path, query) {
            Some(Route::Build(place)) => Self::build(place),
            Some(Route::Log(place, platform)) => Self::log(place, platform),
            _ => Self::default(),
        }
    }

    /// Its address.
    pub fn path(&self) -> String {
        match &self.0 {
            None => "/".to_owned(),
            Some((place, None)) => place.path(),
            Some((place, Some(platform))) => place.log(platform.as_ref().map(ToString::to_string).as_deref()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_leads_to_one_page_or_nowhere() {
        let build = |project: Option<&str>| Place {
            id: "7f3k2m".parse().unwrap(),
            project: project.map(|name| name.parse().unwrap()),
        };
        assert_eq!(Route::of("/b/7f3k2m", None), Some(Route::Build(build(None))));
        assert_eq!(Route::of("/b/7f3k2m", Some("project=web")), Some(Route::Build(build(Some("web")))));
        let approve = Route::of("/b/7f3k2m/approve", Some("project=web")).unwrap();
        assert_eq!(approve, Route::Approve(build(Some("web"))));
        assert_eq!(
            (approve.methods(), build(Some("web")).approve().as_str()),
            ("POST", "/b/7f3k2m/approve?project=web")
        );
        let arm = "linux/arm64".parse().unwrap();
        assert_eq!(
            Route::of("/b/7f3k2m/log", Some("platform=linux%2Farm64")),
            Some(Route::Log(build(None), Some(arm)))
        );
        for (path, query) in [
            ("/b/", None),
            ("/b/x", None),
            ("/b/7f3k2m/", None),
            ("/b/7f3k2m/logs", None),
            ("/b/7f3k2m/build", None),
            ("/b/7f3k2m/approve/x", None),
            ("/b/../etc", None),
            ("//b/7f3k2m", None),
            ("/B/7f3k2m", None),
            ("/b/7f3k2m", Some("project=%3Cscript%3E")),
            ("/b/7f3k2m/log", Some("platform=linux/arm46")),
            ("", None),
        ] {
            assert_eq!(Route::of(path, query), None, "{path} {query:?}");
        }
    }

    #[test]
    fn after_signing_in_one_goes_to_pages_of_builds_and_nowhere_else() {
        for own in [
            "/b/7f3k2m",
            "/b/7f3k2m?project=web",
            "/b/7f3k2m/log",
            "/b/7f3k2m/log?project=web&platform=linux%2Farm64",
        ] {
            assert_eq!(Next::read(own).path(), own);
        }
        // What else is in an address doesn't come along.
        assert_eq!(Next::read("/b/7f3k2m?x=%0d%0aset-cookie:a&project=web").path(), "/b/7f3k2m?project=web");
        for elsewhere in [
            "",
            "/",
            "https://evil.example/b/7f3k2m",
            "//evil.example/b/7f3k2m",
            "/\\evil.example",
            "/b//evil.example",
            "/b/7f3k2m/../../x",
            "javascript:alert(1)",
            "/sign-out",
            "/b/7f3k2m/approve",
            "/b/7f3k2m#x",
            "/b/7f3k2m\r\nlocation: https://evil.example",
        ] {
            assert_eq!(Next::read(elsewhere).path(), "/", "{elsewhere}");
        }
    }
}
