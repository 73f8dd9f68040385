//! Ctrl-C: the first asks for an orderly end, the second ends the command at once.

use tokio::sync::watch;

use crate::error::Exit;

/// Tells whether the user pressed Ctrl-C.
#[derive(Debug, Clone)]
pub struct Interrupts(watch::Receiver<bool>);

impl Interrupts {
    /// Takes Ctrl-C over from the system, from now on and to the end of the process.
    pub fn listen() -> Self {
        let (sender, receiver) = watch::channel(false);
        tokio::spawn(async move {
            while tokio::signal::ctrl_c().await.is_ok() {
                if sender.send_replace(true) {
                    eprintln!("left; the farm still ends the build");
                    std::process::exit(Exit::Cancelled.code().into());
                }
            }
            // Where Ctrl-C can't be heard nobody is told of one.
            std::future::pending::<()>().await;
        });
        Self(receiver)
    }

    /// Waits for the first Ctrl-C. Dropping the future loses nothing.
    pub async fn first(&mut self) {
        if self.0.wait_for(|pressed| *pressed).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
