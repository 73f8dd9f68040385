//! What measures have in common: turns, medians, the registry's requests, the machine's work.

pub mod publish;

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use tempfile::TempDir;

use crate::bed::Bed;
use crate::farm::output;
pub use crate::requests::counted;
use crate::requests::requests_in;

/// Ticks of `/proc/stat` in a second, as all kernels for these machines have it.
const TICKS: f64 = 100.0;

/// A command that succeeds, and how long it took, seconds.
pub fn timed(command: &mut Command) -> f64 {
    let begin = Instant::now();
    let out = output(command);
    let seconds = begin.elapsed().as_secs_f64();
    assert_eq!(out.status, 0, "{out:?}");
    seconds
}

/// Farm (`0`) and its peer (`1`) in turns; who is first changes from pair to pair. The first round, which is number 0, only warms up.
/// What one takes is its first number, and of that the rest are told beside.
pub fn in_turns<const N: usize>(
    pairs: usize,
    mut one: impl FnMut(usize, usize) -> [f64; N],
) -> [Vec<[f64; N]>; 2] {
    let mut took = [Vec::new(), Vec::new()];
    for round in 0..=pairs {
        let mut turns = [0, 1];
        turns.rotate_left(round % 2);
        for turn in turns {
            let numbers = one(round, turn);
            if round > 0 {
                took[turn].push(numbers);
            }
        }
    }
    took
}

/// The median of the ratios within each pair, and the medians of both.
pub fn ratio<const N: usize>(took: &[Vec<[f64; N]>; 2], number: usize) -> (f64, f64, f64) {
    let of = |turn: usize| took[turn].iter().map(|numbers| numbers[number]).collect::<Vec<f64>>();
    let (ours, theirs) = (of(0), of(1));
    let ratios: Vec<f64> = ours.iter().zip(&theirs).map(|(farm, peer)| farm / peer).collect();
    (median(&ratios), median(&ours), median(&theirs))
}

pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) }
}

/// What all processes of the machine together have computed so far, seconds of one CPU.
pub fn cpu_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/stat").unwrap();
    let first = stat.lines().next().unwrap();
    let all: Vec<f64> = first.split_whitespace().skip(1).map(|number| number.parse().unwrap()).collect();
    // Idle and waiting for disks are the fourth and the fifth; of guests is counted with user.
    let busy: f64 = all.iter().take(8).enumerate().filter(|(i, _)| ![3, 4].contains(i)).map(|(_, n)| n).sum();
    busy / TICKS
}

/// The requests that the bed's registry has answered, in the order in which it did: `GET manifests`.
pub fn requests() -> Vec<String> {
    requests_in(&Bed::from_env().state.join("logs").join("registry.log"))
}

/// A folder that goes with the measure.
pub struct Folder(TempDir);

impl Default for Folder {
    fn default() -> Self {
        Folder(Bed::from_env().folder("measure"))
    }
}

impl Folder {
    pub fn path(&self) -> PathBuf {
        self.0.path().to_owned()
    }

    pub fn write(&self, name: &str, text: &str) {
        self.write_bytes(name, text.as_bytes());
    }

    pub fn write_bytes(&self, name: &str, bytes: &[u8]) {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}
