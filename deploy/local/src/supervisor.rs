//! The process behind `farm up`: takes the folder's lock, starts the parts, keeps them, answers, and stops them.
//!
//! One thread: the kernel ties the death signal of a child to the thread that started it.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::control::Event;
use crate::farm::LocalFarm;
use crate::layout::Layout;
use crate::order::Parts;
use crate::settings::Settings;
use crate::socket::ControlSocket;
use crate::{Error, Result, checks, failed, logs, sweep};

/// How often logs are looked at: a part that does nothing but write must not fill the disk.
const ROUND: Duration = Duration::from_secs(1);

/// A supervisor's whole life. What happens while it starts is written to standard output as lines of
/// [`Event`]; whoever reads them may go away at any time.
///
/// # Errors
/// It can't be started; nothing is left running then. The error was told already.
pub async fn run(layout: Layout, settings: Settings) -> Result<()> {
    let farm = LocalFarm::new(&layout, &settings);
    stop_on_signals(&farm.stop)?;
    let told = tokio::spawn(farm.starting.clone().play(tokio::io::stdout()));
    let end = live(&farm).await;
    if let Err(error) = &end {
        farm.starting.add(Event::Failed(error.to_string(), matches!(error, Error::Usage(_))));
    }
    let _ = timeout(Duration::from_secs(2), told).await;
    end
}

/// From now on a signal stops the farm in order, whatever it is doing.
fn stop_on_signals(stop: &CancellationToken) -> Result<()> {
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let mut signals = signal(kind).map_err(|e| failed("signals", &e))?;
        let stop = stop.clone();
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                stop.cancel();
            }
        });
    }
    Ok(())
}

async fn live(farm: &LocalFarm) -> Result<()> {
    let (layout, settings) = (&farm.layout, &farm.settings);
    let Some(lock) = lock(layout).await? else {
        farm.starting.add(Event::Busy);
        return Ok(());
    };
    layout.prepare()?;
    let socket = ControlSocket::open(farm)?;
    let mut parts = Parts::none(farm);
    let started = match prepare(farm).await {
        Ok(()) => parts.start().await,
        Err(error) => Err(error),
    };
    if started.is_ok() {
        layout.remember(settings);
        farm.starting.add(Event::Ready(Box::new(farm.status_when_up())));
        serve(farm).await;
    }
    farm.stop.cancel();
    parts.stop().await;
    if let Err(error) = &started {
        farm.starting.add(Event::Failed(error.to_string(), matches!(error, Error::Usage(_))));
    }
    // In this order: who hears that it has stopped can start it at once, and then has a socket of its own.
    let callers = socket.shut();
    drop(lock);
    farm.stopping.add(Event::Stopped);
    callers.leave().await;
    started
}

/// Somebody who only looked whether it is free may have it for a moment.
async fn lock(layout: &Layout) -> Result<Option<std::fs::File>> {
    for _ in 0..10 {
        if let Some(lock) = layout.lock()? {
            return Ok(Some(lock));
        }
        sleep(Duration::from_millis(20)).await;
    }
    Ok(None)
}

/// Ends what a killed farm has left, and sees whether this one can be.
async fn prepare(farm: &LocalFarm) -> Result<()> {
    let (layout, settings, starting) = (farm.layout.clone(), farm.settings.clone(), farm.starting.clone());
    let prepared = spawn_blocking(move || {
        let found = sweep::sweep(&layout);
        if !found.is_empty() {
            starting.add(Event::Notice(format!("ended what a killed farm had left: {}", found.join(", "))));
        }
        checks::before(&layout, &settings)?;
        checks::ports(&settings)?;
        checks::disk(&layout)
    });
    prepared.await.map_err(|e| Error::Failed(e.to_string()))?
}

/// Until it is told to stop.
async fn serve(farm: &LocalFarm) {
    let mut rounds = interval(ROUND);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = farm.stop.cancelled() => return,
            _ = rounds.tick() => {}
        }
        // A farm whose folder was removed under it has nothing to run from.
        if !farm.layout.is_marked() {
            return;
        }
        let logs = farm.board.parts().into_iter().map(|part| farm.layout.log(&part.name));
        let logs: Vec<_> = logs.chain([farm.layout.log("supervisor")]).collect();
        let _ = spawn_blocking(move || logs.iter().for_each(|log| logs::keep_small(log))).await;
    }
}
