//! What can't be shown: thing and cure, as a page.

use std::time::Duration;

use farm_client::come_back;
use farm_store::StoreError;
use http::header::RETRY_AFTER;
use http::{Response, StatusCode};
use tonic::{Code, Status};

use super::reply;
use super::templates::{self, Told};
use crate::http::answer::{Body, seconds};
use crate::logs::LogError;
use crate::unstored;

/// Why there is no page.
#[derive(Debug)]
pub struct Problem {
    pub status: StatusCode,
    /// In a few words.
    pub thing: String,
    pub cure: String,
    /// When to come back, where that is known.
    pub wait: Option<Duration>,
}

impl Problem {
    /// What is wrong, and what to do.
    pub fn new(status: StatusCode, thing: impl Into<String>, cure: impl Into<String>) -> Self {
        Self { status, thing: thing.into(), cure: cure.into(), wait: None }
    }

    /// No page has this address.
    pub fn nowhere() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "There is no such page",
            "The page of a build is at /b/BUILD, with the id that farm builds lists.",
        )
    }

    /// A build that isn't there, or not for whoever asks: nobody is told which.
    pub fn no_build() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "There is no such build",
            "Or it is in a project that you are not in: farm project ls lists yours. Old builds are removed after a while. \
             farm builds lists those that are there.",
        )
    }

    /// What a page isn't for.
    pub fn method(methods: &str) -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "This can't be done here",
            format!("This address answers to {methods}."),
        )
    }

    /// Somebody comes too often.
    pub fn too_many(wait: Duration) -> Self {
        let seconds = wait.as_secs_f64().ceil().max(1.0);
        let cure = format!("Come back in {seconds} s.");
        let problem = Self::new(StatusCode::TOO_MANY_REQUESTS, "Too many requests come from you", cure);
        Self { wait: Some(wait), ..problem }
    }

    /// What only whoever runs the farm can mend; the log has it.
    pub fn bug() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "Something is wrong with the farm",
            "Its coordinator's log says what it is; tell whoever runs it.",
        )
    }

    /// The page.
    pub fn page(&self) -> Response<Body> {
        let told = Told { thing: self.thing.clone(), cure: self.cure.clone() };
        let mut response = reply::page(self.status, templates::problem(&told));
        if let Some(wait) = self.wait {
            response.headers_mut().insert(RETRY_AFTER, seconds(wait));
        }
        response
    }
}

impl From<Status> for Problem {
    /// Of what the layers below say to callers.
    fn from(status: Status) -> Self {
        let wait = || come_back(&status).unwrap_or(Duration::from_secs(1));
        match status.code() {
            Code::ResourceExhausted => Self::too_many(wait()),
            Code::Unavailable => {
                let thing = "The farm can't answer just now";
                let cure = "Its database or its store doesn't answer; try again in a moment.";
                let wait = Some(Duration::from_secs(2));
                Self { wait, ..Self::new(StatusCode::SERVICE_UNAVAILABLE, thing, cure) }
            }
            Code::NotFound => Self::no_build(),
            code => {
                tracing::error!(?code, why = status.message(), "a page can't be shown");
                Self::bug()
            }
        }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        unstored::store(error).into()
    }
}

impl From<LogError> for Problem {
    fn from(error: LogError) -> Self {
        match error {
            LogError::Store(error) => error.into(),
            LogError::Blobs(error) => {
                tracing::error!(%error, "the blob store fails");
                Status::unavailable("").into()
            }
            LogError::Frame(error) => {
                tracing::error!(%error, "a sealed log is not what it was");
                Self::bug()
            }
        }
    }
}
