use std::sync::Mutex;

use farm_types::{Cause, FailureCode};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use ssh_server::Ssh as _;

use super::*;

const IDENTITIES: &[u8] = &[11];
const BIND: &[u8] = b"\x1b\0\0\0\x18session-bind@openssh.com";

/// A SIMULATED agent, which notes what it is asked, and answers with what was asked; or fails.
#[derive(Default)]
struct Noting {
    asked: Arc<Mutex<Vec<AgentAsked>>>,
    is_away: bool,
}

impl Agent for Noting {
    fn ask(&self, asked: AgentAsked) -> BoxFuture<'static, Result<Vec<u8>, Failure>> {
        let answer = match self.is_away {
            true => Err(Failure::new(Cause::User, FailureCode::SecretMissing, "away".to_owned())),
            false => Ok(asked.message.clone()),
        };
        self.asked.lock().unwrap().push(asked);
        futures::future::ready(answer).boxed()
    }
}

fn connection(agent: Noting, parts: Vec<Vec<u8>>) -> Connection {
    let permit = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
    Connection {
        incoming: stream::iter(parts.into_iter().map(Ok)).boxed(),
        frames: Frames::default(),
        binds: Vec::new(),
        agent: Arc::new(agent),
        lost: Lost::default(),
        _permit: permit,
    }
}

#[tokio::test]
async fn an_agent_is_asked_what_builds_may_and_told_what_its_connection_was_bound_to() {
    let add_key: &[u8] = &[17, 0, 0];
    let messages = [IDENTITIES, BIND, add_key, IDENTITIES];
    let bytes: Vec<u8> = messages.iter().flat_map(|message| framed(message)).collect();
    let agent = Noting::default();
    let asked = Arc::clone(&agent.asked);
    let mut connection = connection(agent, bytes.chunks(3).map(<[u8]>::to_vec).collect());
    let mut answers = Vec::new();
    while let Some(answer) = connection.next().await.unwrap() {
        answers.push(answer);
    }
    assert_eq!(answers, [IDENTITIES, BIND, FAILURE, IDENTITIES]);
    let asked = asked.lock().unwrap();
    let binds: Vec<usize> = asked.iter().map(|asked| asked.binds.len()).collect();
    assert_eq!(binds, [0, 0, 1]);
    assert_eq!(asked[2].binds[0], BIND);
}

#[tokio::test]
async fn too_long_a_message_ends_the_connection_and_so_does_too_many_binds_the_binding() {
    let mut endless = connection(Noting::default(), vec![vec![0xff; 8]]);
    assert_eq!(endless.next().await.unwrap_err().code(), tonic::Code::InvalidArgument);
    let bytes: Vec<u8> = (0..MOST_BINDS + 1).flat_map(|_| framed(BIND)).collect();
    let mut connection = connection(Noting::default(), vec![bytes]);
    for _ in 0..MOST_BINDS {
        assert_eq!(connection.next().await.unwrap().unwrap(), BIND);
    }
    assert_eq!(connection.next().await.unwrap().unwrap(), FAILURE);
}

#[tokio::test]
async fn an_agent_that_fails_is_the_end_of_the_solve() {
    let mut connection = connection(Noting { is_away: true, ..Default::default() }, vec![framed(IDENTITIES)]);
    let lost = connection.lost.clone();
    assert!(lost.failure().now_or_never().is_none());
    connection.next().await.unwrap_err();
    assert_eq!(lost.failure().now_or_never().unwrap().message, "away");
}

#[tokio::test]
async fn an_id_that_was_not_given_is_noted() {
    let mut mounted = Mounted::default();
    mounted.agents.insert("default".parse().unwrap(), Arc::new(Noting::default()));
    let missed = Missed::default();
    let ssh = Ssh::new(Arc::new(mounted), missed.clone(), Lost::default());
    let check = async |id: &str| ssh.check_agent(Request::new(CheckAgentRequest { id: id.to_owned() })).await;
    assert!(check("default").await.is_ok() && check("").await.is_ok());
    assert_eq!(check("git").await.unwrap_err().code(), tonic::Code::NotFound);
    assert!(missed.holds(MountType::Ssh, "git"));
}
