//! The probe's maps, as typed handles.

use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray, PerCpuHashMap};
use bindwatch_probe::abi::counter;

use super::{Probe, ProbeError, Ring};
use crate::event::{Cookie, ProcessKey};

/// The reader's wish to be woken.
pub struct Idle(Array<MapData, u32>);

impl Idle {
    /// Asks for a wake-up with the next record. The ring must be looked at once more before going to sleep.
    ///
    /// # Errors
    /// When the kernel refuses, which it does not for a map that is there.
    pub fn ask(&mut self) -> Result<(), aya::maps::MapError> {
        self.0.set(0, 1, 0)
    }
}

/// The loss counters.
pub struct Counters(PerCpuArray<MapData, u64>);

impl Counters {
    /// The counters' sums over all CPUs, in the order of [`counter::NAMES`]. Unreadable ones are 0.
    #[must_use]
    pub fn read(&self) -> [u64; counter::SLOTS as usize] {
        let mut sums = [0; counter::SLOTS as usize];
        for (slot, sum) in (0..counter::SLOTS).zip(&mut sums) {
            if let Ok(values) = self.0.get(&slot, 0) {
                *sum = values.iter().sum();
            }
        }
        sums
    }
}

/// Who opened which TCP connection.
pub struct Owners(HashMap<MapData, u64, [u64; 2]>);

/// Name of the map of [`Owners`].
const CONNECT_OWNERS: &str = "CONNECT_OWNERS";

impl Owners {
    /// Those of every probe that is attached on this machine. Empty without the privilege to look at maps
    /// (CAP_SYS_ADMIN).
    #[must_use]
    pub fn of_running_probes() -> Vec<Self> {
        let named = |info: &aya::maps::MapInfo| info.name_as_str() == Some(CONNECT_OWNERS);
        let ids = aya::maps::loaded_maps().filter_map(Result::ok).filter(named).map(|info| info.id());
        // A map of that name that is another tool's has other sizes, or another type, and is refused.
        ids.filter_map(|id| {
            let data = MapData::from_id(id).ok()?;
            HashMap::try_from(Map::LruHashMap(data)).ok().map(Self)
        })
        .collect()
    }

    /// The process that connected the socket with this cookie, if it is still remembered.
    #[must_use]
    pub fn of(&self, cookie: Cookie) -> Option<ProcessKey> {
        let [start, rest] = self.0.get(&cookie.0, 0).ok()?;
        let tgid = u32::try_from(rest & 0xffff_ffff).ok()?;
        Some(ProcessKey::from_ns(tgid, start))
    }
}

/// How many connections came to which listener.
pub struct Accepted(PerCpuHashMap<MapData, u64, u64>);

impl Accepted {
    /// Connections of the listener with this cookie; None where they are not counted.
    #[must_use]
    pub fn of(&self, cookie: Cookie) -> Option<u64> {
        self.0.get(&cookie.0, 0).ok().map(|counts| counts.iter().sum())
    }

    /// The listener is gone.
    pub fn forget(&mut self, cookie: Cookie) {
        // That it is not there is what is wanted.
        let _ = self.0.remove(&cookie.0);
    }
}

/// The sockets whose end is told where only conflicts are.
pub struct Watched {
    cookies: HashMap<MapData, u64, u32>,
    any: Array<MapData, u32>,
}

impl Watched {
    /// Whether this socket is one of them.
    #[must_use]
    pub fn has(&self, cookie: Cookie) -> bool {
        self.cookies.get(&cookie.0, 0).is_ok()
    }

    /// From now on it is.
    ///
    /// # Errors
    /// When there is no room.
    pub fn add(&mut self, cookie: Cookie) -> Result<(), aya::maps::MapError> {
        self.cookies.insert(cookie.0, 0, 0)?;
        self.any.set(0, 1, 0)
    }

    /// It no longer is.
    pub fn remove(&mut self, cookie: Cookie) {
        // That it is not there is what is wanted.
        let _ = self.cookies.remove(&cookie.0);
    }
}

fn missing(name: &str) -> ProbeError {
    ProbeError::Object { reason: format!("the object has no map {name}") }
}

fn refused(error: &aya::maps::MapError) -> ProbeError {
    ProbeError::Object { reason: error.to_string() }
}

impl Probe {
    /// The event ring. Once.
    ///
    /// # Errors
    /// The second time.
    pub fn ring(&mut self) -> Result<Ring, ProbeError> {
        let Some(Map::RingBuf(map)) = self.ebpf.take_map("RING") else { return Err(missing("RING")) };
        let size = map.info().map_err(|error| refused(&error))?.max_entries();
        Ring::new(map, size).map_err(|error| ProbeError::Object { reason: format!("the ring: {error}") })
    }

    /// The reader's bell. Once.
    ///
    /// # Errors
    /// The second time.
    pub fn idle(&mut self) -> Result<Idle, ProbeError> {
        let map = self.ebpf.take_map("READER_IDLE").ok_or_else(|| missing("READER_IDLE"))?;
        Array::try_from(map).map(Idle).map_err(|error| refused(&error))
    }

    /// The loss counters. Once.
    ///
    /// # Errors
    /// The second time.
    pub fn counters(&mut self) -> Result<Counters, ProbeError> {
        let map = self.ebpf.take_map("COUNTERS").ok_or_else(|| missing("COUNTERS"))?;
        PerCpuArray::try_from(map).map(Counters).map_err(|error| refused(&error))
    }

    /// The connections of listeners. Once.
    ///
    /// # Errors
    /// The second time.
    pub fn accepted(&mut self) -> Result<Accepted, ProbeError> {
        let map = self.ebpf.take_map("ACCEPTED").ok_or_else(|| missing("ACCEPTED"))?;
        PerCpuHashMap::try_from(map).map(Accepted).map_err(|error| refused(&error))
    }

    /// The sockets whose end is told. Once.
    ///
    /// # Errors
    /// The second time.
    pub fn watched(&mut self) -> Result<Watched, ProbeError> {
        let cookies = self.ebpf.take_map("WATCHED").ok_or_else(|| missing("WATCHED"))?;
        let any = self.ebpf.take_map("WATCHING").ok_or_else(|| missing("WATCHING"))?;
        let cookies = HashMap::try_from(cookies).map_err(|error| refused(&error))?;
        Ok(Watched { cookies, any: Array::try_from(any).map_err(|error| refused(&error))? })
    }

    /// The openers of connections. Once.
    ///
    /// # Errors
    /// The second time.
    pub fn owners(&mut self) -> Result<Owners, ProbeError> {
        let map = self.ebpf.take_map(CONNECT_OWNERS).ok_or_else(|| missing(CONNECT_OWNERS))?;
        HashMap::try_from(map).map(Owners).map_err(|error| refused(&error))
    }
}
