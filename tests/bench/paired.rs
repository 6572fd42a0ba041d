//! Ratios that a busy machine does not change: many short slices of work, with and without what is measured, in turn.
//!
//! A slice is a few milliseconds. Of the slices of one side the low decile counts: it is the time that the work takes when
//! nothing interrupts it. What is measured is attached between two sides without it, and the round counts where those two agree:
//! where they do not, the machine became faster or slower meanwhile. What anybody else attaches changes both sides, so a
//! slice counts only while there are as many recordings on the machine as there are to be.

use scenarios::{Cgroup, loopback};

use crate::work::{Worker, time_until};

/// Slices of one side. In a guest that counts instructions there is nothing to wait out.
const SLICES: usize = if cfg!(feature = "guest") { 20 } else { 60 };
/// Cycles of one slice, about 5 ms.
const CYCLES: u32 = if cfg!(feature = "guest") { 200 } else { 2_000 };
/// Calls of one slice, about 5 ms.
const CALLS: u32 = if cfg!(feature = "guest") { 5_000 } else { 50_000 };
/// Cycles of one slice that pauses between them, about 15 ms.
const PACED: u32 = 300;

/// How far the two sides without may be apart, of their mean.
const STEADY: f64 = 0.05;
/// How many rounds are tried for one that counts.
const TRIES: usize = 4;
/// The program that each recording has once.
const OF_A_RECORDING: &[u8] = b"post_bind4";

/// What is done again and again.
pub(crate) struct Load {
    workers: Vec<Worker>,
    count: u32,
    made: u64,
}

impl Load {
    /// So many processes that cycle at once, each on an address of its own.
    pub(crate) fn cycles(processes: usize) -> anyhow::Result<Self> {
        let workers = (0..processes).map(|_| Worker::start(&["cycles", &loopback().to_string()]));
        Ok(Self { workers: workers.collect::<Result<_, _>>()?, count: CYCLES, made: 0 })
    }

    /// One process that cycles without SO_REUSEPORT, as most that bind do.
    pub(crate) fn plain() -> anyhow::Result<Self> {
        Ok(Self {
            workers: vec![Worker::start(&["plain", &loopback().to_string()])?],
            count: CYCLES,
            made: 0,
        })
    }

    /// One process that cycles in a cgroup.
    pub(crate) fn inside(cgroup: &Cgroup) -> anyhow::Result<Self> {
        let load = Self::cycles(1)?;
        load.workers.iter().for_each(|worker| cgroup.enrol(worker.pid()));
        Ok(load)
    }

    /// One process that cycles and pauses: so many binds that whoever tells of them can follow.
    pub(crate) fn paced() -> anyhow::Result<Self> {
        Ok(Self { workers: vec![Worker::start(&["paced", &loopback().to_string()])?], count: PACED, made: 0 })
    }

    /// One process that calls getppid(2).
    pub(crate) fn calls() -> anyhow::Result<Self> {
        Ok(Self { workers: vec![Worker::start(&["getppids"])?], count: CALLS, made: 0 })
    }

    /// The first of its processes.
    pub(crate) fn pid(&self) -> u32 {
        self.workers.first().map_or(0, Worker::pid)
    }

    /// Time of one cycle or call, ns: the mean of the processes.
    pub(crate) fn slice(&mut self) -> anyhow::Result<f64> {
        for worker in &mut self.workers {
            worker.ask(self.count)?;
        }
        let mut sum = 0.0;
        for worker in &mut self.workers {
            sum += worker.answer()?.0;
        }
        self.made += u64::from(self.count) * self.workers.len() as u64;
        Ok(sum / self.workers.len() as f64)
    }

    /// How many cycles or calls there have been.
    pub(crate) const fn made(&self) -> u64 {
        self.made
    }

    /// The time of one cycle or call while nothing interrupts it, beside this many recordings, ns.
    pub(crate) fn side(&mut self, recordings: usize) -> anyhow::Result<f64> {
        let mut times = Vec::new();
        while times.len() < SLICES {
            // Somebody else may record: that ends.
            time_until(|| Ok(recorders() == recordings))?;
            let time = self.slice()?;
            if recorders() == recordings {
                times.push(time);
            }
        }
        times.sort_by(f64::total_cmp);
        Ok(times.get(SLICES / 10).copied().unwrap_or(f64::NAN))
    }
}

/// How many recordings there are on this machine, whoever made them.
fn recorders() -> usize {
    let programs = aya::programs::loaded_programs().filter_map(Result::ok);
    programs.filter(|program| program.name() == OF_A_RECORDING).count()
}

/// A round that counts: the time without, and with each of what was attached.
pub(crate) struct Round<const N: usize> {
    /// Which of the tries it was, from 0.
    pub(crate) number: usize,
    pub(crate) without: f64,
    pub(crate) with: [f64; N],
}

/// Attaches something, measures beside it and detaches it.
pub(crate) type Side<'a> = &'a mut dyn FnMut(&mut Load) -> anyhow::Result<f64>;

/// So many rounds.
pub(crate) fn rounds<const N: usize>(
    load: &mut Load,
    count: usize,
    mut sides: [Side<'_>; N],
) -> anyhow::Result<Vec<Round<N>>> {
    let mut found = Vec::new();
    let mut unsteady = Vec::new();
    // The first slices are slower: memory is touched for the first time.
    load.side(0)?;
    let mut before = load.side(0)?;
    for number in 0..count * TRIES {
        let mut with = [0.0; N];
        for (time, side) in with.iter_mut().zip(&mut sides) {
            *time = side(load)?;
        }
        let after = load.side(0)?;
        let round = Round { number, without: f64::midpoint(before, after), with };
        let is_steady = (before - after).abs() <= STEADY * round.without;
        if is_steady { &mut found } else { &mut unsteady }.push(round);
        before = after;
        if found.len() == count {
            break;
        }
    }
    if found.len() < count {
        eprintln!(
            "only {} of {count} rounds on a steady machine; the others are counted as well",
            found.len()
        );
        found.extend(unsteady);
    }
    Ok(found)
}
