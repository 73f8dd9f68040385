//! How soon the farm is well again after a fault that doesn't end by itself: from the moment when nothing is broken any
//! more until somebody leads and every coordinator answers.

use std::process::Command;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::Driver;
use super::fault::Fault;
use super::stage::Stage;
use crate::database::try_psql;
use crate::farm::output;

/// It has to be well again within this.
const BOUND: Duration = Duration::from_secs(30);
/// An answer that takes longer is none.
const ANSWERS_WITHIN: &str = "10";

#[derive(Debug, Default)]
pub struct Recovery {
    /// What it has not recovered from yet.
    pending: Vec<Fault>,
    calm_since: Option<Instant>,
    /// Asks all; gives who doesn't answer, or what is missing.
    probe: Option<JoinHandle<Option<String>>>,
    said: String,
    /// Seconds, per fault.
    pub took: Vec<f64>,
    pub failed: Vec<String>,
}

impl Recovery {
    pub fn is_over(&self) -> bool {
        self.pending.is_empty()
    }
}

impl Driver {
    pub(super) fn recovers_from(&mut self, fault: Fault) {
        self.recovery.pending.push(fault);
    }

    /// A look at whether it has recovered; asks only while nothing is broken.
    pub(super) fn watch_recovery(&mut self) {
        let recovery = &mut self.recovery;
        if recovery.pending.is_empty() || !self.broken.is_empty() {
            recovery.calm_since = None;
            recovery.probe = None;
            return;
        }
        let since = *recovery.calm_since.get_or_insert_with(Instant::now);
        let Some(probe) = recovery.probe.take_if(|probe| probe.is_finished()) else {
            recovery.probe.get_or_insert_with(|| ask(&self.stage));
            return;
        };
        let took = since.elapsed();
        match probe.join().expect("its panic is above") {
            None => {
                let faults = recovery.pending.drain(..);
                recovery.took.extend(faults.map(|_| took.as_secs_f64()));
            }
            Some(missing) if took > BOUND => {
                let faults: Vec<String> = recovery.pending.drain(..).map(|fault| fault.to_string()).collect();
                let failed = format!("{missing} for {:.0} s after {}", took.as_secs_f64(), faults.join(", "));
                println!("{:7.1} s  not well: {failed}", self.begin.elapsed().as_secs_f64());
                recovery.failed.push(failed);
            }
            Some(missing) => recovery.said = missing,
        }
        recovery.calm_since = (!recovery.pending.is_empty()).then_some(since);
    }
}

fn ask(stage: &Stage) -> JoinHandle<Option<String>> {
    let url = stage.database_url();
    let commands: Vec<Command> = (0..stage.coordinators.len())
        .map(|n| {
            let farm = stage.command_of(n, &["builds", "--limit", "1"]);
            let mut command = Command::new("timeout");
            command.arg(ANSWERS_WITHIN).arg(farm.get_program()).args(farm.get_args()).env_clear();
            command.envs(farm.get_envs().filter_map(|(name, value)| Some((name, value?))));
            command
        })
        .collect();
    std::thread::spawn(move || {
        let leads = try_psql(&url, "SELECT count(*) FROM leader WHERE expires_at > farm_now()");
        if leads.as_deref() != Some("1") {
            return Some("nobody led".to_owned());
        }
        let mut silent = commands.into_iter().enumerate().filter_map(|(n, mut command)| {
            let answer = output(&mut command);
            (answer.status != 0).then(|| {
                format!("coordinator {n} gave no answer (exit {}: {})", answer.status, answer.stderr.trim())
            })
        });
        silent.next()
    })
}
