//! Fetching a source: a worker brings it, and the command follows.

use std::sync::{Mutex, MutexGuard, PoisonError};

use farm_proto::v1;
use farm_proto::v1::attempt_event::Event;
use farm_proto::v1::{Build, ReadFetchedRequest, SubmitBuildRequest};
use farm_types::{Digest, FetchSource, FetchSpec, Fetched, GitPoint};
use tokio::time::sleep;
use tonic::Code;

use crate::calls::{cancel, submit, through};
use crate::connect::Client;
use crate::error::{Error, Result};
use crate::follow::{Seen, follow};
use crate::output::text::harmless;

/// Fetches that are under way, for whoever looks on, or has them end.
#[derive(Debug, Default)]
pub struct Fetching(Mutex<Vec<UnderWay>>);

#[derive(Debug)]
struct UnderWay {
    id: String,
    /// What it does, in words.
    does: String,
    /// It isn't given to a worker yet.
    waits: bool,
}

impl Fetching {
    /// What is done at the moment, in words; `None`: nothing is fetched.
    pub fn does(&self) -> Option<String> {
        self.lock().first().map(|fetch| fetch.does.clone())
    }

    /// The same while it waits for a worker.
    pub fn waits(&self) -> Option<String> {
        self.lock().first().filter(|fetch| fetch.waits).map(|fetch| fetch.does.clone())
    }

    /// Asks for the end of all of them. A farm that doesn't answer ends them at their deadline.
    pub async fn cancel(&self, client: &Client) {
        let ids: Vec<String> = self.lock().drain(..).map(|fetch| fetch.id).collect();
        for id in ids {
            // Nobody waits for them any more, and they take no slot.
            let _ = cancel(client, &id).await;
        }
    }

    fn begin(&self, id: &str, does: String) {
        self.lock().push(UnderWay { id: id.to_owned(), does, waits: false });
    }

    fn tell(&self, id: &str, does: String, waits: bool) {
        if let Some(fetch) = self.lock().iter_mut().find(|fetch| fetch.id == id) {
            fetch.does = does;
            fetch.waits = waits;
        }
    }

    fn end(&self, id: &str) {
        self.lock().retain(|fetch| fetch.id != id);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<UnderWay>> {
        // Each change under the lock is whole before anything can panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a fetch ended.
#[derive(Debug)]
pub enum Ended {
    /// With a source.
    Fetched(Box<Done>),
    /// Without: the fetch, with what was said of it.
    Not(Box<Build>, Vec<String>),
}

/// A source that is there.
#[derive(Debug)]
pub struct Done {
    /// The fetch, as a build.
    pub id: String,
    /// What it has brought.
    pub fetched: Fetched,
}

/// Has a source fetched, and follows that to its end. The same key gives the same fetch.
///
/// # Errors
/// The farm refuses, can't be reached, or is of before there were fetches.
pub(crate) async fn fetch(
    client: &Client,
    spec: &FetchSpec,
    key: &str,
    fetching: &Fetching,
) -> Result<Ended> {
    let from = harmless(&spec.source.to_string());
    let spec = v1::BuildSpec { fetch: Some(spec.into()), ..Default::default() };
    let request =
        SubmitBuildRequest { idempotency_key: key.to_owned(), spec: Some(spec), values: Vec::new() };
    let (build, _) = submit(client, request).await.map_err(|error| match error {
        // All that one of before understands of it is that the rest isn't there.
        Error::Usage(text) if text.contains("a build needs a source") => older(client),
        // Nor does one that knows git only see an archive.
        Error::Usage(text) if text.ends_with("say from where: git") => older(client),
        error => error,
    })?;
    if build.spec.as_ref().is_none_or(|spec| spec.fetch.is_none()) {
        cancel(client, &build.id).await?;
        return Err(older(client));
    }
    fetching.begin(&build.id, format!("fetching {from}"));
    let mut said = Vec::new();
    let last = follow(client, &build.id, true, sleep, |seen| match seen {
        Seen::Build(now) => {
            let waits =
                now.jobs.first().map(|job| job.waiting.as_str()).filter(|waiting| !waiting.is_empty());
            if let Some(waiting) = waits {
                let does = format!("fetching {from}  waiting  {}", harmless(waiting));
                fetching.tell(&build.id, does, true);
            }
        }
        Seen::Attempt(events) => {
            for event in &events.events {
                if let Some(Event::Notice(notice)) = &event.event {
                    fetching.tell(&build.id, harmless(&notice.text), false);
                    said.push(harmless(&notice.text));
                }
            }
        }
        Seen::Away(_) | Seen::Back => {}
    })
    .await?;
    fetching.end(&build.id);
    let last = last.unwrap_or(build);
    if last.state != "succeeded" {
        return Ok(Ended::Not(Box::new(last), said));
    }
    let result =
        last.jobs.first().and_then(|job| job.result.as_ref()).and_then(|result| result.fetched.clone());
    let result = result.ok_or_else(|| Error::Farm(format!("fetch {} brought nothing", last.id)))?;
    Ok(Ended::Fetched(Box::new(Done { id: last.id, fetched: result.try_into()? })))
}

fn older(client: &Client) -> Error {
    Error::Farm(format!(
        "the farm at {} is older and fetches no such sources; have it updated, or bring the source here and name its folder",
        client.url()
    ))
}

/// A file of a source that was fetched, from its root on.
///
/// # Errors
/// It isn't there, or the farm can't be asked.
pub(crate) async fn file(client: &Client, id: &str, root: &str, path: &str) -> Result<Vec<u8>> {
    let request =
        ReadFetchedRequest { build_id: id.to_owned(), root: root.to_owned(), path: path.to_owned() };
    let answer = through(async || client.builds().read_fetched(request.clone()).await).await;
    answer.map(|answer| answer.content.to_vec()).map_err(|status| match status.code() {
        Code::NotFound => Error::Usage(status.message().to_owned()),
        _ => client.error(&status),
    })
}

/// The key of the fetch that belongs to a build's.
pub fn key(of: &str, root: &str) -> String {
    format!("fetch-{}", &Digest::of(format!("{of}\n{root}").as_bytes()).hex()[..32])
}

/// `https://x.example/a.git#main:docker`, `https://x.example/a.tar.gz`.
pub fn shown(source: &FetchSource) -> String {
    let source = match source {
        FetchSource::Git(source) => source,
        FetchSource::Archive(source) => return source.to_string(),
    };
    let point = match &source.point {
        GitPoint::Head => String::new(),
        GitPoint::Named(name) => name.clone(),
        GitPoint::Ref(name) => name.to_string(),
        GitPoint::Commit(commit) => commit.to_string(),
    };
    match (point.is_empty(), source.subdir.is_empty()) {
        (true, true) => source.repository.to_string(),
        (false, true) => format!("{}#{point}", source.repository),
        (_, false) => format!("{}#{point}:{}", source.repository, source.subdir),
    }
}
