use std::sync::Mutex;

use tokio::net::UnixListener;

use super::*;

const IDENTITIES: &[u8] = &[11];

/// A SIMULATED agent, which notes what comes on each connection and answers with it.
fn agent(socket: &Path) -> Arc<Mutex<Vec<Vec<Vec<u8>>>>> {
    let listener = UnixListener::bind(socket).unwrap();
    let heard = Arc::new(Mutex::new(Vec::<Vec<Vec<u8>>>::new()));
    let noted = Arc::clone(&heard);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            noted.lock().unwrap().push(Vec::new());
            while let Ok(length) = stream.read_u32().await {
                let mut message = vec![0; usize::try_from(length).unwrap()];
                stream.read_exact(&mut message).await.unwrap();
                stream.write_all(&framed(&message)).await.unwrap();
                noted.lock().unwrap().last_mut().unwrap().push(message);
            }
        }
    });
    heard
}

#[tokio::test]
async fn an_agent_hears_only_what_builds_may_ask_and_all_of_a_question_on_one_connection() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("agent");
    let heard = agent(&socket);
    let bind = Bytes::from_static(b"\x1b\0\0\0\x18session-bind@openssh.com");
    let identities = Bytes::from_static(IDENTITIES);
    assert_eq!(ask(&socket, &[bind.clone(), identities.clone()]).await.unwrap(), IDENTITIES);
    assert_eq!(*heard.lock().unwrap(), [vec![bind.to_vec(), IDENTITIES.to_vec()]]);
    // Adding, removing, locking, other extensions: nothing of such a question is asked.
    for number in (0..=255u8).filter(|number| *number != 11) {
        let other = Bytes::from(vec![number]);
        assert_eq!(ask(&socket, &[identities.clone(), other]).await.unwrap(), FAILURE, "{number}");
    }
    assert_eq!(heard.lock().unwrap().len(), 1);
    assert!(ask(&folder.path().join("nobody"), &[identities]).await.is_err());
}
