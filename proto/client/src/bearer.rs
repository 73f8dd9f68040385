//! Who calls, as each call says it.

use std::fmt;
use std::str::FromStr;

use http::{HeaderMap, HeaderName, HeaderValue};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::{Request, Status};

/// The header that names the project of a call.
pub const PROJECT: &str = "farm-project";

/// A token as the header `authorization: Bearer TOKEN`, which it puts into each call. It is never printed.
#[derive(Clone)]
pub struct Bearer {
    token: MetadataValue<Ascii>,
    project: Option<MetadataValue<Ascii>>,
}

impl Bearer {
    /// The same for calls in this project.
    ///
    /// # Errors
    /// No header takes the name, so no project has it.
    pub fn in_project(self, name: &str) -> Result<Self, BearerError> {
        let project = Some(name.parse().map_err(|_| BearerError::Characters)?);
        Ok(Self { project, ..self })
    }

    /// Puts it into the headers of a call.
    pub fn sign(&self, headers: &mut HeaderMap) {
        let mut put = |name: HeaderName, value: &MetadataValue<Ascii>| {
            // What metadata takes, headers take.
            if let Ok(mut header) = HeaderValue::from_bytes(value.as_bytes()) {
                header.set_sensitive(value.is_sensitive());
                headers.insert(name, header);
            }
        };
        put(http::header::AUTHORIZATION, &self.token);
        if let Some(project) = &self.project {
            put(HeaderName::from_static(PROJECT), project);
        }
    }
}

/// Why a text is no token. It holds nothing of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BearerError {
    /// It has blanks only.
    #[error("it is empty")]
    Empty,
    /// No header takes it.
    #[error("it holds characters that no token has")]
    Characters,
}

impl FromStr for Bearer {
    type Err = BearerError;

    /// Takes a token as it stands in a file or in the environment: blanks around it are dropped.
    fn from_str(text: &str) -> Result<Self, BearerError> {
        let token = text.trim();
        if token.is_empty() {
            return Err(BearerError::Empty);
        }
        let header = format!("Bearer {token}").parse();
        let mut header: MetadataValue<Ascii> = header.map_err(|_| BearerError::Characters)?;
        header.set_sensitive(true);
        Ok(Self { token: header, project: None })
    }
}

impl fmt::Debug for Bearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bearer(…)")
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.token.clone());
        if let Some(project) = &self.project {
            request.metadata_mut().insert(PROJECT, project.clone());
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_in_the_call_and_nowhere_else() {
        let mut bearer: Bearer = " farm_secret\n".parse().unwrap();
        assert!(!format!("{bearer:?}").contains("secret"));
        let request = bearer.call(Request::new(())).unwrap();
        assert_eq!(request.metadata().get("authorization").unwrap(), "Bearer farm_secret");
        assert!(!format!("{request:?}").contains("secret"), "{request:?}");
    }

    #[test]
    fn a_project_is_in_the_call_if_one_is_said() {
        let mut bearer: Bearer = "farm_secret".parse().unwrap();
        assert!(bearer.call(Request::new(())).unwrap().metadata().get(PROJECT).is_none());
        let mut bearer = bearer.in_project("web").unwrap();
        let request = bearer.call(Request::new(())).unwrap();
        assert_eq!(request.metadata().get(PROJECT).unwrap(), "web");
        assert_eq!(request.metadata().get("authorization").unwrap(), "Bearer farm_secret");
        assert!(bearer.in_project("a\u{7}b").is_err());
    }

    #[test]
    fn headers_get_the_same_as_calls() {
        let bearer: Bearer = "farm_secret".parse().unwrap();
        let mut bearer = bearer.in_project("web").unwrap();
        let mut headers = HeaderMap::new();
        bearer.sign(&mut headers);
        let called = bearer.call(Request::new(())).unwrap().into_parts().0.into_headers();
        assert_eq!(headers, called);
        assert!(headers["authorization"].is_sensitive());
    }

    #[test]
    fn what_no_header_takes_is_no_token() {
        assert_eq!(" \n".parse::<Bearer>().unwrap_err(), BearerError::Empty);
        assert_eq!("a\u{7}b".parse::<Bearer>().unwrap_err(), BearerError::Characters);
    }
}
