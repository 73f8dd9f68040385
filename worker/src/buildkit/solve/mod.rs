//! One solve, from the source to the pushed digest.
//!
//! Invariant: whatever ends it, the order is: the Solve call, then its status, then the session, then the
//! connection. The call's end is what kills a running step; a session that goes first would leave it running.
//!
//! `request` says in BuildKit's words what is asked, `sources` where what it names may be fetched from, `policy` which images may be
//! taken for it, and `bounded` which of those that weren't may be after all; `call` asks a frontend something instead of building.

mod bounded;
mod call;
mod policy;
mod request;
mod sources;

use std::sync::Arc;
use std::time::Duration;

use bollard_buildkit_proto::moby::buildkit::v1::SolveResponse;
use bollard_buildkit_proto::moby::buildkit::v1::control_client::ControlClient;
use bollard_buildkit_proto::moby::buildkit::v1::sourcepolicy::Policy;
use farm_dockerfile::{Build, Stages};
use farm_proto::v1::{AttemptEvent, CallAnswer};
use farm_types::chain::innermost;
use farm_types::spec::Call;
use farm_types::{Cause, Failure, FailureCode, ImageRef, Platform};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Code, Status};
use tracing::Instrument as _;

use self::bounded::{Allowed, HELD_FOR, TOLD_EACH};
use super::dockerfile::{self, Dockerfile};
use super::engine::Engine;
use super::engine::connect::MAX_MESSAGE_BYTES;
use super::engine::error::reason;
use super::failure::said::Named;
use super::failure::{self, Circumstances, denied};
use super::follow::collected::Collected;
use super::follow::{self, Shared};
use super::session::Session;
use super::session::auth::{Auth, Notes};
use super::session::filesync::{Files, Times};
use super::session::missed::Missed;
use super::session::secrets::Secrets;
use super::session::ssh::{Lost, Ssh};
use super::types::{Solve, SolveError, Solved};

/// How long an engine may take to accept a session.
const SESSION_TIMEOUT: Duration = Duration::from_secs(20);
/// How long the Solve call may outlive its session, to say itself what happened.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How long an engine may take to say again what became of a solve whose answer could not be read.
const SAID_AGAIN: Duration = Duration::from_secs(3);
/// How long an ended solve may take to be gone in the engine.
const GONE: Duration = Duration::from_secs(5);
/// Events between a solve and those who hold them back.
const QUEUE: usize = 16;

impl Engine {
    /// Builds an image, pushes it by digest if asked to, and sends what happens as it happens.
    ///
    /// Nothing is tried again here, but with an image more that everybody may read ([`bounded`]). `stop` ends it: the running step
    /// is killed at once, and the answer comes when the engine has let go of it (some 100 ms; 5 s at most). A receiver of `events`
    /// that is gone or slow does no harm, but the answer waits until the last event was taken.
    ///
    /// Cancel safety: dropping the future closes the connection, which ends the solve in the engine too.
    ///
    /// # Errors
    /// [`SolveError::Stopped`] after `stop`; else the failure, whose cause says whether to try again.
    pub async fn solve(
        &self,
        solve: Solve,
        events: mpsc::Sender<AttemptEvent>,
        stop: CancellationToken,
    ) -> Result<Solved, SolveError> {
        // On the heap: it is large, and what waits for it would be several times as large on the stack.
        Box::pin(self.solve_here(solve, events, stop)).await
    }

    async fn solve_here(
        &self,
        solve: Solve,
        events: mpsc::Sender<AttemptEvent>,
        stop: CancellationToken,
    ) -> Result<Solved, SolveError> {
        let solve = Arc::new(solve);
        let dockerfile = check(Arc::clone(&solve)).await?;
        let mut allowed = Allowed::within(solve.bounds.as_ref());
        let mut failure = loop {
            let policy = allowed.policy();
            let (ended, held) = self.solve_within(&solve, &dockerfile, policy, &events, &stop).await;
            let looked = match &ended {
                Err(Unsolved::Failed(_, Some(image))) => Some(unless(&stop, allowed.look_up(image)).await?),
                _ => None,
            };
            // What was held back comes again then.
            if looked == Some(Ok(())) {
                continue;
            }
            tokio::select! {
                () = bounded::pass_on(held, &events) => {}
                () = stop.cancelled() => {}
            }
            let failure = match ended {
                Ok(solved) => return Ok(solved),
                Err(Unsolved::Ended(error)) => return Err(error),
                // If it's closed, and not only bounded.
                Err(Unsolved::Failed(failure, Some(image))) => {
                    solve.fetches.explain(*failure, &format!("docker-image://{image}"))
                }
                Err(Unsolved::Failed(failure, None)) => *failure,
            };
            break match looked.and_then(Result::err).flatten() {
                Some(Failure { cause, code, message, .. }) => Failure { cause, code, message, ..failure },
                None => failure,
            };
        };
        if let Some(syntax) = &dockerfile.syntax {
            failure.message.push_str(&format!(
                " (the Dockerfile asks for # syntax={syntax}, in whose place the engine's own frontend was used)"
            ));
        }
        Err(failure.into())
    }

    /// Solves once, with what the policy allows. Answers also with events that were held back, if there is one.
    async fn solve_within(
        &self,
        solve: &Arc<Solve>,
        dockerfile: &Dockerfile,
        policy: Option<Policy>,
        events: &mpsc::Sender<AttemptEvent>,
        stop: &CancellationToken,
    ) -> (Result<Solved, Unsolved>, Vec<AttemptEvent>) {
        if policy.is_none() {
            let ended = self.solve_once(solve, dockerfile, policy, events.clone(), stop).await;
            return (ended, Vec::new());
        }
        let (told, heard) = mpsc::channel(QUEUE);
        let over = CancellationToken::new();
        let solving = async {
            let ended = self.solve_once(solve, dockerfile, policy, told, stop).await;
            over.cancel();
            ended
        };
        let holding = async {
            tokio::select! {
                held = bounded::hold(heard, (HELD_FOR, TOLD_EACH), events) => held,
                // A stop ends the wait for a receiver that takes none.
                () = async { over.cancelled().await; stop.cancelled().await } => Vec::new(),
            }
        };
        tokio::join!(solving, holding)
    }

    async fn solve_once(
        &self,
        solve: &Arc<Solve>,
        dockerfile: &Dockerfile,
        policy: Option<Policy>,
        events: mpsc::Sender<AttemptEvent>,
        stop: &CancellationToken,
    ) -> Result<Solved, Unsolved> {
        let lost = |why: String| {
            Failure::new(
                Cause::Infrastructure,
                FailureCode::EngineLost,
                format!("engine {}: {why}", self.address().short()),
            )
        };
        let channel =
            unless(stop, self.dialer().dial()).await?.map_err(|error| lost(innermost(&error).to_string()))?;
        let shared_key = self.served().shared_key(&solve.shared_key);
        let times = Times { served: Arc::clone(self.served()), shared_key: shared_key.clone() };
        let files = Files::new(request::served(solve), request::parts(solve), times);
        let missing = files.missing();
        let notes = Arc::<Notes>::default();
        let auth = Auth::new(solve.logins.clone(), solve.lending.clone(), Arc::clone(&notes));
        let missed = Missed::default();
        let secrets = Secrets::new(Arc::clone(&solve.mounted), missed.clone());
        let agent_lost = Lost::default();
        let ssh = Ssh::new(Arc::clone(&solve.mounted), missed.clone(), agent_lost.clone());
        let mounts = (secrets, ssh);
        let opening = Session::open(channel.clone(), &shared_key, files, auth, mounts, solve.outputs.clone());
        let session = unless(stop, tokio::time::timeout(SESSION_TIMEOUT, opening))
            .await?
            .map_err(|_| lost("it accepted no session in time".to_owned()))?
            .map_err(|status| lost(reason(&status)))?;

        let reference = uuid::Uuid::new_v4().simple().to_string();
        let policy = sources::policy(&solve.fetches, policy);
        let message = request::build(solve, dockerfile, Some(policy), &reference, session.id());
        let collected = Shared::new(stages(solve, dockerfile), solve.mask.clone());
        let ended = CancellationToken::new();
        let told = events.clone();
        let following =
            follow::follow(channel.clone(), reference.clone(), collected.clone(), told, ended.clone());
        let mut following = AbortOnDropHandle::new(tokio::spawn(following.in_current_span()));

        let given = async {
            match solve.call {
                None => {
                    let mut client = ControlClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
                    client.solve(message).await.map(|answer| Given::Built(answer.into_inner()))
                }
                Some(call) => {
                    call::ask(channel, message, call).await.map(|answer| Given::Answered(call, answer))
                }
            }
        };
        let outcome = Box::pin(watch(given, &session, &agent_lost, stop)).await;
        ended.cancel();
        match &outcome {
            Outcome::Answer(_) => {
                // Its events are part of the answer; a stop ends the wait for a receiver that takes none.
                tokio::select! {
                    _ = &mut following => {}
                    () = stop.cancelled() => {}
                }
            }
            // The status ends when the engine has let go of the solve.
            Outcome::Stopped | Outcome::SessionLost | Outcome::AgentLost(_) => {
                drop(tokio::time::timeout(GONE, &mut following).await)
            }
        }
        if matches!(&outcome, Outcome::Answer(Err(status)) if failure::is_broken(status)) {
            // What came was no answer. If the engine is there, its status says what became of the steps.
            let asking = async {
                if let Ok(channel) = self.dialer().dial().await {
                    follow::follow(channel, reference, collected.clone(), events.clone(), ended).await;
                }
            };
            tokio::select! {
                _ = tokio::time::timeout(SAID_AGAIN, asking) => {}
                () = stop.cancelled() => {}
            }
        }
        drop(session);
        if let (Outcome::Answer(Err(_)), Some(missing), false) =
            (&outcome, missing.get(), stop.is_cancelled())
        {
            return Err(SolveError::SourceIncomplete(missing.clone()).into());
        }
        let collected = collected.lock();
        match outcome {
            Outcome::Stopped => Err(SolveError::Stopped.into()),
            Outcome::SessionLost => {
                Err(failure::session_lost(&self.circumstances(solve, dockerfile, &collected)).into())
            }
            Outcome::AgentLost(failure) => Err(failure.into()),
            Outcome::Answer(Ok(Given::Built(answer))) => {
                Ok(request::solved(solve, dockerfile, &answer, collected.timings())?)
            }
            Outcome::Answer(Ok(Given::Answered(call, answer))) => {
                drop(collected);
                let stages = stages(solve, dockerfile).unwrap_or_default();
                answered(call, answer, dockerfile, (&solve.platform, &stages), &events).await
            }
            // What is left of a build that was stopped while it failed.
            Outcome::Answer(Err(_)) if stop.is_cancelled() => Err(SolveError::Stopped.into()),
            Outcome::Answer(Err(status)) if solve.call.is_some() && status.code() == Code::Unimplemented => {
                match solve.call {
                    Some(call) => Err(call::unsupported(call, &self.address().short()).into()),
                    None => Err(lost(reason(&status)).into()),
                }
            }
            Outcome::Answer(Err(status)) => {
                let failure = failure::classify(&status, &self.circumstances(solve, dockerfile, &collected));
                let failure = notes.explain(failure, status.message(), solve.lending.as_ref());
                let failure = missed.explain(failure, status.message());
                let image = denied::image(status.message());
                let failure = match denied::source(status.message()) {
                    Some(source) if image.is_none() => solve.fetches.explain(failure, source),
                    _ => failure,
                };
                Err(Unsolved::Failed(Box::new(failure), image))
            }
        }
    }

    /// What was going on when a solve failed.
    fn circumstances<'a>(
        &self,
        solve: &'a Solve,
        dockerfile: &'a Dockerfile,
        collected: &'a Collected,
    ) -> Circumstances<'a> {
        Circumstances {
            collected,
            dockerfile,
            platform: &solve.platform,
            target: solve.target.as_deref(),
            engine: self.address().short(),
            named: Named::of(solve, dockerfile),
            mask: &solve.mask,
        }
    }
}

fn stages(solve: &Solve, dockerfile: &Dockerfile) -> Option<Stages> {
    let build = Build {
        target: solve.target.as_deref(),
        args: &solve.build_args,
        contexts: &solve.named_contexts,
        platform: &solve.platform,
    };
    Stages::of(&farm_dockerfile::Dockerfile::parse(dockerfile.text.as_bytes()), &build)
}

/// What a frontend answered, with what follows from it.
async fn answered(
    call: Call,
    answer: CallAnswer,
    dockerfile: &Dockerfile,
    (platform, stages): (&Platform, &Stages),
    events: &mpsc::Sender<AttemptEvent>,
) -> Result<Solved, Unsolved> {
    if call == Call::Check {
        let now_ms = chrono::Utc::now().timestamp_millis();
        let (found, error) = call::findings(&answer, now_ms, platform, |line| stages.is_unused(line))?;
        let kept_from = call::kept_from(&answer);
        if let (Some(failure), Some(_)) = (&error, &kept_from) {
            return Err(Unsolved::Failed(Box::new(failure.clone()), kept_from));
        }
        for event in found {
            // An error: nobody listens.
            let _ = events.send(event).await;
        }
        if let Some(failure) = error {
            return Err(failure.into());
        }
    }
    let answer = call::bounded(call, answer)?;
    Ok(Solved { answer: Some(answer), syntax_replaced: dockerfile.syntax.clone(), ..Solved::default() })
}

/// Why a single solve gave nothing.
enum Unsolved {
    Ended(SolveError),
    /// The engine's answer, and the image that our policy keeps it from if it is that.
    Failed(Box<Failure>, Option<ImageRef>),
}

impl From<SolveError> for Unsolved {
    fn from(error: SolveError) -> Self {
        Self::Ended(error)
    }
}

impl From<Failure> for Unsolved {
    fn from(failure: Failure) -> Self {
        Self::Ended(failure.into())
    }
}

/// An image, or the frontend's answer to a call (`--check`, `--call`).
enum Given {
    Built(SolveResponse),
    Answered(Call, CallAnswer),
}

/// How the call to the engine ended.
enum Outcome {
    Answer(Result<Given, Status>),
    Stopped,
    SessionLost,
    /// A step asked an agent that is of no use any more.
    AgentLost(Failure),
}

/// Waits for the call. When this returns the call is over or was dropped, which ends it in the engine.
async fn watch(
    call: impl Future<Output = Result<Given, Status>>,
    session: &Session,
    agent: &Lost,
    stop: &CancellationToken,
) -> Outcome {
    tokio::pin!(call);
    tokio::select! {
        biased;
        answer = &mut call => Outcome::Answer(answer),
        () = stop.cancelled() => Outcome::Stopped,
        failure = agent.failure() => Outcome::AgentLost(failure),
        // An engine that died takes both along, and then the call says so.
        () = session.lost() => match tokio::time::timeout(LAST_WORDS, &mut call).await {
            Ok(answer) => Outcome::Answer(answer),
            Err(_) => Outcome::SessionLost,
        },
    }
}

/// Waits for this unless `stop` comes first.
async fn unless<T>(stop: &CancellationToken, what: impl Future<Output = T>) -> Result<T, SolveError> {
    tokio::select! {
        biased;
        () = stop.cancelled() => Err(SolveError::Stopped),
        what = what => Ok(what),
    }
}

/// Reads the Dockerfile, off the async threads.
async fn check(solve: Arc<Solve>) -> Result<Dockerfile, Failure> {
    let checking = tokio::task::spawn_blocking(move || {
        let tree = solve.roots.get("dockerfile").or_else(|| solve.roots.get("context"));
        dockerfile::read(tree.map(|tree| &**tree), &solve.dockerfile)
    });
    checking.await.map_err(|error| {
        Failure::new(
            Cause::Bug,
            FailureCode::EngineError,
            format!("reading the Dockerfile ended abnormally: {error}"),
        )
    })?
}
