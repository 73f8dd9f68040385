//! A mail server on 127.0.0.1: aiosmtpd, by the Python that its Debian package is for, which keeps what comes as files.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::ports::free_port;
use crate::process::Child;

/// How long it is waited for something.
const PATIENCE: Duration = Duration::from_secs(60);

/// Serves until it is dropped.
pub struct MailServer {
    port: u16,
    mails: PathBuf,
    server: Child,
}

impl MailServer {
    /// Keeps all below this folder.
    pub fn start(folder: &Path) -> MailServer {
        let (port, mails) = (free_port(), folder.join("mails"));
        let mut command = Command::new("/usr/bin/python3");
        command.args([
            "-m",
            "aiosmtpd",
            "-n",
            "-l",
            &format!("127.0.0.1:{port}"),
            "-c",
            "aiosmtpd.handlers.Mailbox",
        ]);
        command.arg(&mails);
        let mut server = Child::spawn("mail", &command, folder);
        server
            .wait_until("mail server", PATIENCE, |_| std::net::TcpStream::connect(("127.0.0.1", port)).ok());
        MailServer { port, mails, server }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Waits until so many mails came; gives them as they are, in no order.
    pub fn wait(&mut self, many: usize) -> Vec<String> {
        let new = self.mails.join("new");
        self.server.wait_until(&format!("{many} mails"), PATIENCE, |_| {
            let found: Vec<PathBuf> =
                std::fs::read_dir(&new).ok()?.map(|entry| entry.unwrap().path()).collect();
            (found.len() >= many)
                .then(|| found.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect())
        })
    }
}

impl Drop for MailServer {
    fn drop(&mut self) {
        self.server.kill9();
    }
}
