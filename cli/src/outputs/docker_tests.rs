use std::fs;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;

use super::*;

fn surroundings(config: &Path) -> Surroundings {
    Surroundings { config: Some(config.to_owned()), ..Surroundings::default() }
}

fn context(config: &Path, name: &str, host: &str) {
    let folder = config.join("contexts/meta").join(Digest::of(name.as_bytes()).hex());
    fs::create_dir_all(&folder).unwrap();
    let meta =
        format!("{{\"Name\":{name:?},\"Metadata\":{{}},\"Endpoints\":{{\"docker\":{{\"Host\":{host:?}}}}}}}");
    fs::write(folder.join("meta.json"), meta).unwrap();
}

#[test]
fn an_engine_is_found_as_the_docker_command_finds_it() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path();
    let address = |surroundings: &Surroundings, named: Option<&str>| {
        surroundings.address(named).map(|(address, _)| address).map_err(|error| error.to_string())
    };
    assert_eq!(address(&surroundings(config), None).unwrap(), "unix:///var/run/docker.sock");
    context(config, "rootless", "unix:///run/user/1000/docker.sock");
    context(config, "far", "ssh://me@host");
    context(config, "safe", "tcp://host:2376");
    fs::create_dir_all(config.join("contexts/tls").join(Digest::of(b"safe").hex()).join("docker")).unwrap();
    fs::write(config.join("config.json"), "{\"auths\":{},\"currentContext\":\"rootless\"}").unwrap();
    assert_eq!(address(&surroundings(config), None).unwrap(), "unix:///run/user/1000/docker.sock");
    let with = |host: Option<&str>, context: Option<&str>, tls| Surroundings {
        host: host.map(str::to_owned),
        context: context.map(str::to_owned),
        tls,
        ..surroundings(config)
    };
    assert_eq!(address(&with(None, Some("far"), false), None).unwrap(), "ssh://me@host");
    assert_eq!(address(&with(Some("tcp://h:1"), Some("far"), false), None).unwrap(), "tcp://h:1");
    assert_eq!(
        address(&with(Some("tcp://h:1"), None, false), Some("rootless")).unwrap(),
        "unix:///run/user/1000/docker.sock"
    );
    assert_eq!(address(&with(None, Some("default"), false), None).unwrap(), "unix:///var/run/docker.sock");
    assert!(address(&with(Some("tcp://h:1"), None, true), None).unwrap_err().contains("TLS"));
    assert!(address(&with(Some("unix:///s"), None, true), None).is_ok());
    assert!(address(&surroundings(config), Some("safe")).unwrap_err().contains("TLS"));
    assert!(address(&surroundings(config), Some("none")).unwrap_err().contains("docker context ls"));
}

#[test]
fn only_what_can_be_reached_is_taken() {
    assert_eq!(place("unix:///s", "x").unwrap(), Place::Unix("/s".into()));
    assert_eq!(place("tcp://h:1/", "x").unwrap(), Place::Tcp("h:1".into()));
    assert_eq!(place("tcp://h", "x").unwrap(), Place::Tcp("h:2375".into()));
    for other in ["ssh://me@h", "npipe:////./pipe/docker", "h:1", "unix://relative", "fd://"] {
        let error = place(other, "DOCKER_HOST").unwrap_err().to_string();
        assert!(
            error.contains(other) && error.contains("DOCKER_HOST") && error.contains("docker load"),
            "{error}"
        );
    }
}

#[test]
fn an_error_on_the_way_is_one_also_after_200() {
    let said = loaded(
        StatusCode::OK,
        "{\"stream\":\"Loaded image: app:1\\n\"}\n{\"stream\":\"Loaded image ID: sha256:x\\n\"}",
    );
    assert_eq!(said.unwrap(), ["app:1", "sha256:x"]);
    let error =
        "{\"stream\":\"a\"}\r\n{\"errorDetail\":{\"message\":\"no space\"},\"error\":\"no space\"}\r\n";
    assert_eq!(loaded(StatusCode::OK, error).unwrap_err(), "no space");
    assert_eq!(loaded(StatusCode::BAD_REQUEST, "{\"message\":\"why\"}").unwrap_err(), "why");
    assert!(loaded(StatusCode::NOT_FOUND, "page").unwrap_err().contains("404"));
}

/// What is sent over a real socket, and that a body that breaks off is no whole one. (A SIMULATED engine; the real one is
/// met in the end-to-end tests.)
#[tokio::test]
async fn an_archive_is_sent_as_it_comes() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("s");
    let listener = UnixListener::bind(&socket).unwrap();
    let engine = DockerEngine {
        place: Place::Unix(socket.clone()),
        shown: format!("unix://{}", socket.display()),
        keeps_indexes: true,
        platform: None,
    };
    let serve = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut seen = Vec::new();
        let mut buffer = [0; 1024];
        while !seen.ends_with(b"0\r\n\r\n") {
            let length = stream.read(&mut buffer).await.unwrap();
            if length == 0 {
                return seen;
            }
            seen.extend_from_slice(&buffer[..length]);
        }
        let answer = "{\"stream\":\"Loaded image: app:1\\n\"}";
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{answer}", answer.len());
        stream.write_all(head.as_bytes()).await.unwrap();
        seen
    };
    let (writer, pieces) = BodyWriter::new();
    let writing = tokio::task::spawn_blocking(move || (&writer).write_all(b"archive").unwrap());
    let (seen, said, _) = tokio::join!(serve, engine.load(pieces), writing);
    assert_eq!(said.unwrap(), ["app:1"]);
    let seen = String::from_utf8(seen).unwrap();
    assert!(seen.starts_with("POST /images/load?quiet=1") && seen.contains("archive"), "{seen}");

    let (writer, pieces) = BodyWriter::new();
    let breaking = tokio::task::spawn_blocking(move || writer.break_off());
    let (seen, said, _) = tokio::join!(serve_again(&listener), engine.load(pieces), breaking);
    assert!(said.is_err() && !seen.ends_with(b"0\r\n\r\n"));
}

/// What engines that hang do: take the connection and nothing of it, or the whole image, and never answer.
#[tokio::test]
async fn an_engine_that_never_answers_is_given_up_and_nobody_writes_on() {
    const SHORT: Duration = Duration::from_millis(200);
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("s");
    let listener = UnixListener::bind(&socket).unwrap();
    let engine = DockerEngine {
        place: Place::Unix(socket.clone()),
        shown: format!("unix://{}", socket.display()),
        keeps_indexes: true,
        platform: None,
    };
    for takes_all in [false, true] {
        let (writer, pieces) = BodyWriter::new();
        let writing =
            tokio::task::spawn_blocking(move || (0..64).try_for_each(|_| (&writer).write_all(&[7; 1 << 16])));
        let hanging = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            if takes_all {
                // The rest of it is read below the limit, piece by piece.
                let _ = stream.read_to_end(&mut Vec::new()).await;
            }
            std::future::pending::<()>().await;
        };
        let error = tokio::select! {
            loaded = engine.load_within(SHORT, pieces) => loaded.unwrap_err().to_string(),
            () = hanging => unreachable!(),
        };
        assert!(error.contains(&engine.shown) && error.contains("neither taken nor said"), "{error}");
        assert!(error.contains("type=docker,dest=image.tar"), "{error}");
        // Who makes the image does not wait for one who takes nothing.
        assert!(writing.await.unwrap().is_err() || takes_all);
    }
}

#[tokio::test]
async fn an_image_that_is_long_in_coming_is_not_held_against_the_engine() {
    const SHORT: Duration = Duration::from_millis(100);
    let turn = watch::Sender::new(Turn::Ours);
    let over = is_over(turn.subscribe(), SHORT);
    assert!(tokio::time::timeout(SHORT * 5, over).await.is_err());
    turn.send_replace(Turn::Engine(Instant::now()));
    is_over(turn.subscribe(), SHORT).await;
}

async fn serve_again(listener: &UnixListener) -> Vec<u8> {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut seen = Vec::new();
    stream.read_to_end(&mut seen).await.unwrap();
    seen
}

#[tokio::test]
async fn an_engine_that_is_not_there_is_told_before_anything_is_built() {
    let folder = tempfile::tempdir().unwrap();
    let host = format!("unix://{}/none.sock", folder.path().display());
    let surroundings = Surroundings { host: Some(host.clone()), ..Surroundings::default() };
    let error = DockerEngine::find_by(&surroundings, None).await.unwrap_err().to_string();
    assert!(
        error.contains(&host) && error.contains("DOCKER_HOST") && error.contains("nothing was built"),
        "{error}"
    );
}
