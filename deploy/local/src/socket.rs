//! Where a supervisor is asked: its socket, from before the first part is started until after the last has ended.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::child::Record;
use crate::control::{Event, Request};
use crate::farm::LocalFarm;
use crate::layout::{Layout, give_to_caller};
use crate::{Result, failed};

/// How long a caller may take to say what it wants, and in how many bytes.
const ASKING: (Duration, u64) = (Duration::from_secs(5), 4096);
/// How long callers have for reading the last word.
const LAST_WORD: Duration = Duration::from_secs(2);

/// The socket while it is open. When it is dropped, its file goes and nobody can call any more.
#[derive(Debug)]
pub struct ControlSocket {
    layout: Layout,
    callers: TaskTracker,
    close: CancellationToken,
}

impl ControlSocket {
    /// Opens it. Only for the holder of the folder's lock.
    ///
    /// # Errors
    /// The socket or the record can't be made.
    pub fn open(farm: &LocalFarm) -> Result<Self> {
        let layout = farm.layout.clone();
        let record = layout.run("supervisor.json");
        let socket = layout.control_socket();
        let me = Record::of(std::process::id(), "supervisor").map_err(|e| failed("its own record", &e))?;
        me.write(&record).map_err(|e| failed(record.display(), &e))?;
        let at = |e| failed(socket.display(), &e);
        let _ = fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).map_err(at)?;
        let open = Self { layout, callers: TaskTracker::new(), close: CancellationToken::new() };
        fs::set_permissions(&socket, fs::Permissions::from_mode(0o600)).map_err(at)?;
        give_to_caller(&socket);
        let (callers, close, farm) = (open.callers.clone(), open.close.clone(), farm.clone());
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    accepted = listener.accept() => match accepted {
                        Ok((stream, _)) => drop(callers.spawn(answer(stream, farm.clone()))),
                        // Too many open files, say: it passes.
                        Err(_) => sleep(Duration::from_millis(100)).await,
                    },
                    () = close.cancelled() => return,
                }
            }
        });
        Ok(open)
    }

    /// Lets no one in any more. Who came goes on listening.
    pub fn shut(self) -> Callers {
        Callers(self.callers.clone())
    }
}

/// Those who came before the socket was shut.
#[derive(Debug)]
pub struct Callers(TaskTracker);

impl Callers {
    /// Waits until all have heard the last word.
    pub async fn leave(self) {
        self.0.close();
        let _ = timeout(LAST_WORD, self.0.wait()).await;
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        self.close.cancel();
        let _ = fs::remove_file(self.layout.control_socket());
        let _ = fs::remove_file(self.layout.run("supervisor.json"));
    }
}

async fn answer(stream: UnixStream, farm: LocalFarm) {
    let mut reader = BufReader::new(stream.take(ASKING.1));
    let mut line = String::new();
    if !matches!(timeout(ASKING.0, reader.read_line(&mut line)).await, Ok(Ok(_))) {
        return;
    }
    let mut stream = reader.into_inner().into_inner();
    // Another version's sees the end of the stream.
    let Ok(request) = serde_json::from_str(&line) else { return };
    if request == Request::Down {
        farm.stop.cancel();
    }
    // First a sign of life: the next event may be long in coming.
    let line = Event::Status(Box::new(farm.status())).line();
    if stream.write_all(line.as_bytes()).await.is_err() {
        return;
    }
    match request {
        Request::Status => {}
        Request::Up => farm.starting.play(stream).await,
        Request::Down => farm.stopping.play(stream).await,
    }
}
