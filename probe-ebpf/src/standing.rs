//! How a process stands to the rules and to its pool, told at the instant in which it executes its program: a worker that
//! binds at once is no stranger. What cannot be told here is left to user space, which needs some milliseconds.

use aya_ebpf::helpers::generated::{
    bpf_get_current_cgroup_id, bpf_probe_read_kernel_str, bpf_probe_read_user_str,
};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, PerCpuArray};
use bindwatch_probe::abi::counter;
use bindwatch_probe::abi::policy::{ANCESTORS_MAX, Kin, known};
use bindwatch_probe::abi::standing::{
    Criteria, PATTERN_START, PATTERNS_MAX, PLACES_MAX, POOL_BITS, POOL_RULES_MAX, PREFIXES_MAX, PathState,
    Pattern, Place, SUPERVISORS_MAX, advance, pool, pool_number,
};

use crate::branchless::{is_zero, when};
use crate::emit::count;
use crate::guard::KIN;
use crate::kernel::{Addr, offset};
use crate::task;

const BPF_F_NO_PREALLOC: u32 = 1;

/// Bytes of a text that are read at once, with the 0 behind it: a name in a folder fits.
const TEXT: usize = 256;
/// Parts of arguments or of an environment that are looked through: so many texts, if none is longer than [`TEXT`].
const TEXTS_MAX: u32 = 1024;
/// Folders above a program, and mounts among them.
const FOLDERS_MAX: u32 = 48;
/// Parts of a cgroup's path (`PATH_MAX` of the kernel is 4096).
const PARTS_MAX: u32 = 17;

/// What the rules ask for.
#[map]
static CRITERIA: Array<Criteria> = Array::with_max_entries(1, 0);

/// The patterns of their programs.
#[map]
static PATTERNS: Array<Pattern> = Array::with_max_entries(PATTERNS_MAX, 0);

/// The cgroups that they name, by the hash of the path.
#[map]
static PREFIXES: HashMap<u64, u64> = HashMap::with_max_entries(PREFIXES_MAX, 0);

/// What there is to say of cgroups, by id. Filled by user space with those that are older.
#[map]
static PLACES: HashMap<u64, Place> = HashMap::with_max_entries(PLACES_MAX, BPF_F_NO_PREALLOC);

/// Which pool rules a process is the supervisor for, by name; those for none are left out.
#[map]
static SUPERVISORS: HashMap<u64, u32> = HashMap::with_max_entries(SUPERVISORS_MAX, BPF_F_NO_PREALLOC);

/// What does not fit on the stack. Tracepoints run with preemption disabled: nobody else uses it meanwhile.
#[repr(C)]
struct Desk {
    text: [u64; TEXT / 8],
    states: [u64; PATTERNS_MAX as usize],
    /// Rules whose program it is.
    rules: u64,
    /// Pool rules whose supervisor it is.
    parents: u64,
    /// Where the path of the program has been followed up to.
    dentry: u64,
    mount: u64,
    path: PathState,
    /// Rules that name a cgroup of this path.
    prefixes: u64,
}

#[map]
static DESK: PerCpuArray<Desk> = PerCpuArray::with_max_entries(1, 0);

/// What the rules ask for; none before user space has told.
#[inline(always)]
fn criteria() -> Option<&'static Criteria> {
    CRITERIA.get(0).filter(|criteria| criteria.in_use != 0)
}

#[inline(always)]
fn desk() -> Option<*mut Desk> {
    DESK.get_ptr_mut(0)
}

/// Whoever executes a program begins a lineage, and stands as that program does.
#[inline(always)]
pub fn executed(tgid: u32) {
    let Some(kin) = KIN.get_ptr_mut(tgid) else { return };
    // SAFETY: a process executes in one thread, and only its own thread writes its entry.
    let (name, parent) = unsafe {
        (*kin).lineage = (*kin).name;
        (*kin).pool = 0;
        (*kin).rules = 0;
        (*kin).known &= known::CUT;
        ((*kin).name, (*kin).ancestors[0])
    };
    let Some(criteria) = criteria() else { return };
    let Some(desk) = desk() else { return };
    let mark = mark();
    // SAFETY: a value of a per-CPU array, which is this program's alone while it runs.
    unsafe {
        (*desk).rules = 0;
        (*desk).parents = 0;
    }
    let is_whole = if criteria.patterns == 0 { 1 } else { read_program() };
    // SAFETY: as above.
    let (programs, parents) = unsafe { ((*desk).rules, (*desk).parents) };
    if criteria.with_parent != 0 {
        supervise(name, parents as u32);
    }
    // SAFETY: takes no arguments; the value is copied at once.
    let place = unsafe { PLACES.get(bpf_get_current_cgroup_id()).copied().unwrap_or_default() };
    let rules = (programs | criteria.any_program) & (place.rules | criteria.any_cgroup);
    let of_mark = mark == pool::MULTIPROCESSING || mark == pool::NODE_CLUSTER;
    let (number, is_settled) = if of_mark && parent != 0 {
        (pool_number(mark, parent), 1)
    } else if place.pool != 0 {
        (pool_number(pool::TEMPLATE, place.pool), 1)
    } else if rules >> POOL_BITS == 0 {
        (0, 1)
    } else {
        // Its supervisor may have ended: user space remembers those.
        let number = pool_by_rule(u64::from(tgid), rules >> POOL_BITS);
        (number, u64::from(number != 0))
    };
    let settled = criteria.complete != 0 && mark != UNKNOWN && is_whole & is_settled != 0;
    // SAFETY: as above.
    unsafe {
        (*kin).pool = number;
        (*kin).rules = rules as u32;
        if settled {
            (*kin).known |= known::SETTLED;
        }
    }
}

/// A child of a supervisor runs its program, and is one as well.
#[inline(always)]
pub fn forked(child: u64, parent: u64) {
    if criteria().is_none_or(|criteria| criteria.with_parent == 0) {
        return;
    }
    // SAFETY: copied at once.
    if let Some(parents) = unsafe { SUPERVISORS.get(parent).copied() } {
        supervise(child, parents);
    }
}

/// A process ended.
#[inline(always)]
pub fn ended(name: u64) {
    if criteria().is_some_and(|criteria| criteria.with_parent != 0) {
        let _ = SUPERVISORS.remove(name);
    }
}

#[inline(always)]
fn supervise(name: u64, parents: u32) {
    if parents == 0 {
        let _ = SUPERVISORS.remove(name);
    } else if SUPERVISORS.insert(name, parents, 0).is_err() {
        count(counter::GUARD);
    }
}

/// [`mark`]: arguments or environment could not be read whole.
const UNKNOWN: u64 = u64::MAX;

/// The mark by which a supervisor tells its workers what they are: a kind of [`pool`], 0 none, or [`UNKNOWN`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn mark() -> u64 {
    let mm = task::current().follow(offset!(task_mm));
    let in_arguments = search(mm.read(offset!(mm_arg_start)), mm.read(offset!(mm_arg_end)), 0);
    if in_arguments != 0 {
        return in_arguments;
    }
    search(mm.read(offset!(mm_env_start)), mm.read(offset!(mm_env_end)), 1)
}

/// Looks through texts that lie one behind the other in the process's memory.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn search(start: u64, end: u64, environment: u64) -> u64 {
    let mut at = start;
    let mut i = 0;
    // A text longer than the desk comes in parts, of which the first alone begins it.
    let mut begins = 1;
    while i < TEXTS_MAX {
        if at >= end {
            return 0;
        }
        let length = text_at(at);
        if length == 0 || length > TEXT as u64 {
            return UNKNOWN;
        }
        let found = compare(environment);
        if begins & is_zero(is_zero(found)) != 0 {
            return found;
        }
        let is_cut = is_zero(length ^ TEXT as u64);
        at += length - is_cut;
        begins = is_cut ^ 1;
        i += 1;
    }
    UNKNOWN
}

/// Puts a text of the process onto the desk: its length with the 0, or 0 when it cannot be read.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn text_at(at: u64) -> u64 {
    let Some(desk) = desk() else { return 0 };
    // SAFETY: there is room for so many bytes. The pages were written by this exec a moment ago.
    let read = unsafe { bpf_probe_read_user_str((&raw mut (*desk).text).cast(), TEXT as u32, at as *const _) }
        as i64;
    if read < 0 { 0 } else { read as u64 }
}

/// Whether the text on the desk is a mark: of arguments `--multiprocessing-fork`, of an environment `NODE_UNIQUE_ID=` and a
/// number.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn compare(environment: u64) -> u64 {
    const ARGUMENT: [u64; 3] = [
        u64::from_ne_bytes(*b"--multip"),
        u64::from_ne_bytes(*b"rocessin"),
        u64::from_ne_bytes([b'g', b'-', b'f', b'o', b'r', b'k', 0, 0]),
    ];
    const VARIABLE: [u64; 2] = [u64::from_ne_bytes(*b"NODE_UNI"), u64::from_ne_bytes(*b"QUE_ID=\0")];
    // Seven bytes of eight, and all but the last.
    const SEVEN: u64 = u64::from_ne_bytes([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0]);
    let Some(desk) = desk() else { return 0 };
    // SAFETY: a value of a per-CPU array.
    let text = unsafe { &raw const (*desk).text }.cast::<u64>();
    // SAFETY: within the text.
    let (first, second, third) = unsafe { (text.read(), text.add(1).read(), text.add(2).read()) };
    if environment == 0 {
        let differs = first ^ ARGUMENT[0] | second ^ ARGUMENT[1] | (third ^ ARGUMENT[2]) & SEVEN;
        return when(is_zero(differs), pool::MULTIPROCESSING);
    }
    if (first ^ VARIABLE[0] | (second ^ VARIABLE[1]) & SEVEN) != 0 {
        return 0;
    }
    let mut i = 15;
    while i < 25 {
        // SAFETY: within the text.
        let byte = unsafe { text.cast::<u8>().add(i).read_volatile() };
        if byte == 0 && i > 15 {
            return pool::NODE_CLUSTER;
        }
        if !byte.is_ascii_digit() {
            break;
        }
        i += 1;
    }
    // No number that Node.js gives: user space looks at it.
    UNKNOWN
}

/// Finds the rules whose program this process runs, by its name and by the path of its executable. 1, or 0 where that path
/// is not known whole.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn read_program() -> u64 {
    let Some(desk) = desk() else { return 0 };
    let current = task::current();
    begin_patterns();
    let name = current.0 + u64::from(offset!(task_comm));
    // SAFETY: there is room for so many bytes.
    let read =
        unsafe { bpf_probe_read_kernel_str((&raw mut (*desk).text).cast(), 16, name as *const _) } as i64;
    if read > 0 {
        feed(read as u64 - 1, step::JUDGE);
    }
    begin_patterns();
    let file = current.follow(offset!(task_mm)).follow(offset!(mm_exe_file));
    go_on_at(desk, file.follow(offset!(file_dentry)), mount_of(file.follow(offset!(file_mount))));
    // The last part of the path is a program's name as well.
    let mut flags = step::JUDGE | step::SLASH;
    let mut i = 0;
    while i < FOLDERS_MAX {
        let length = folder();
        if length == ROOT {
            feed(0, step::JUDGE);
            return 1;
        }
        if length >= TEXT as u64 {
            return 0;
        }
        if length != 0 {
            feed(length, flags);
            flags = step::SLASH;
        }
        i += 1;
    }
    0
}

/// What [`feed`] does behind a text.
mod step {
    /// What ends here is a program's name, or its path.
    pub const JUDGE: u64 = 1;
    /// A slash stands in front of it.
    pub const SLASH: u64 = 2;
}

/// [`folder`]: there is nothing above.
const ROOT: u64 = 1 << 32;
/// [`folder`]: this leads nowhere.
const ASTRAY: u64 = 1 << 33;

/// The mount that a `vfsmount` is part of.
#[inline(always)]
fn mount_of(part: Addr) -> Addr {
    Addr(part.0.wrapping_sub(u64::from(offset!(mount_mnt))))
}

#[inline(always)]
fn go_on_at(desk: *mut Desk, dentry: Addr, mount: Addr) {
    // SAFETY: a value of a per-CPU array.
    unsafe {
        (*desk).dentry = dentry.0;
        (*desk).mount = mount.0;
    }
}

/// Puts the name of the next folder upwards onto the desk: its length, 0 where a mount ends, [`ROOT`] or [`ASTRAY`]. Kernel:
/// `prepend_path`, fs/d_path.c.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn folder() -> u64 {
    let Some(desk) = desk() else { return ASTRAY };
    // SAFETY: a value of a per-CPU array.
    let (dentry, mount) = unsafe { (Addr((*desk).dentry), Addr((*desk).mount)) };
    let top = mount.read::<u64>(offset!(mount_mnt) + offset!(vfsmount_root));
    if dentry.0 == 0 || top == 0 {
        return ASTRAY;
    }
    if dentry.0 == top {
        let above = mount.follow(offset!(mount_parent));
        if above.0 == mount.0 {
            return ROOT;
        }
        go_on_at(desk, mount.follow(offset!(mount_point)), above);
        return 0;
    }
    let above = dentry.follow(offset!(dentry_parent));
    if above.0 == dentry.0 {
        return ASTRAY;
    }
    let name = dentry.follow(offset!(dentry_name));
    // SAFETY: as above; there is room for so many bytes.
    let read = unsafe {
        (*desk).dentry = above.0;
        bpf_probe_read_kernel_str((&raw mut (*desk).text).cast(), TEXT as u32, name.0 as *const _)
    } as i64;
    if read < 2 { ASTRAY } else { read as u64 - 1 }
}

/// Every pattern begins.
#[inline(always)]
fn begin_patterns() {
    let Some(desk) = desk() else { return };
    let mut i = 0;
    while i < PATTERNS_MAX as usize {
        // SAFETY: within the states of a value of a per-CPU array.
        unsafe { (&raw mut (*desk).states).cast::<u64>().add(i).write_volatile(PATTERN_START) };
        i += 1;
    }
}

/// Leads every pattern through the text on the desk, from its end to its beginning.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn feed(length: u64, flags: u64) -> u64 {
    let Some(criteria) = criteria() else { return 0 };
    let mut nth = 0;
    while nth < PATTERNS_MAX {
        if nth >= criteria.patterns {
            break;
        }
        feed_one(u64::from(nth), length, flags);
        nth += 1;
    }
    0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn feed_one(nth: u64, length: u64, flags: u64) -> u64 {
    if nth >= u64::from(PATTERNS_MAX) {
        return 0;
    }
    let Some(pattern) = PATTERNS.get_ptr(nth as u32) else { return 0 };
    let Some(desk) = desk() else { return 0 };
    // SAFETY: a value of an array map, whose life is the program's; one of a per-CPU array, likewise; both within.
    unsafe {
        let (stars, inner) = ((*pattern).stars, (*pattern).inner);
        let steps = (&raw const (*pattern).steps).cast::<u64>();
        let states = (&raw mut (*desk).states).cast::<u64>();
        let text = (&raw const (*desk).text).cast::<u8>();
        let mut state = states.add(nth as usize).read_volatile();
        let mut i = 1;
        while i < TEXT as u64 {
            if i > length {
                break;
            }
            let byte = text.add((length.wrapping_sub(i) & (TEXT as u64 - 1)) as usize).read_volatile();
            state = advance(state, byte, steps.add(byte as usize).read_volatile(), stars, inner);
            i += 1;
        }
        if flags & step::JUDGE != 0 && state & (*pattern).last != 0 {
            (*desk).rules |= (*pattern).rules;
            (*desk).parents |= (*pattern).parents;
        }
        if flags & step::SLASH != 0 {
            state = advance(state, b'/', steps.add(b'/' as usize).read_volatile(), stars, inner);
        }
        states.add(nth as usize).write_volatile(state);
    }
    0
}

/// The pool that the first of these rules makes a worker part of; 0 where none has its supervisor among the ancestors.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn pool_by_rule(tgid: u64, workers: u64) -> u64 {
    let Some(criteria) = criteria() else { return 0 };
    let mut nth = 0;
    while nth < u64::from(POOL_RULES_MAX) {
        if workers >> nth & 1 != 0 {
            if u64::from(criteria.with_parent) >> nth & 1 == 0 {
                return pool_number(pool::RULE + nth, 0);
            }
            let supervisor = supervisor_of(tgid, nth);
            if supervisor != 0 {
                return pool_number(pool::RULE + nth, supervisor);
            }
        }
        nth += 1;
    }
    0
}

/// The nearest ancestor that is a supervisor for a rule, by its name.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn supervisor_of(tgid: u64, nth: u64) -> u64 {
    // SAFETY: the entry lives as long as the process, which is running.
    let Some(kin) = (unsafe { KIN.get(tgid as u32) }) else { return 0 };
    let kin: &Kin = kin;
    let mut i = 0;
    while i < ANCESTORS_MAX {
        let name = kin.ancestors[i];
        if name == 0 {
            break;
        }
        // SAFETY: copied at once.
        let parents = unsafe { SUPERVISORS.get(name).copied().unwrap_or_default() };
        if u64::from(parents) >> (nth & 31) & 1 != 0 {
            return name;
        }
        i += 1;
    }
    0
}

/// A cgroup was made: what its path says of who will be in it.
#[inline(always)]
pub fn made(id: u64, path: u64) {
    let Some(criteria) = criteria() else { return };
    let Some(desk) = desk() else { return };
    // SAFETY: a value of a per-CPU array, which is this program's alone while it runs.
    unsafe {
        (&raw mut (*desk).path).write(PathState::new(criteria.seed));
        (*desk).prefixes = 0;
    }
    let mut at = path;
    let mut i = 0;
    while i < PARTS_MAX {
        let length = part(at);
        if length == 0 || length > TEXT as u64 {
            break;
        }
        at += length - 1;
        if length != TEXT as u64 {
            break;
        }
        i += 1;
    }
    end_component();
    // SAFETY: as above.
    let (pool, rules) = unsafe { ((*desk).path.template, (*desk).prefixes) };
    if pool | rules != 0 && PLACES.insert(id, Place { pool, rules }, 0).is_err() {
        count(counter::GUARD);
    }
}

/// A cgroup was removed.
#[inline(always)]
pub fn removed(id: u64) {
    let _ = PLACES.remove(id);
}

/// Reads one part of a cgroup's path: its length with the 0, 0 when it cannot be read.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn part(at: u64) -> u64 {
    let Some(desk) = desk() else { return 0 };
    // SAFETY: there is room for so many bytes.
    let read =
        unsafe { bpf_probe_read_kernel_str((&raw mut (*desk).text).cast(), TEXT as u32, at as *const _) }
            as i64;
    if read < 1 {
        return 0;
    }
    let length = read as u64;
    let mut i = 0;
    while i < TEXT as u64 - 1 {
        if i + 1 >= length {
            break;
        }
        // SAFETY: within the text of a value of a per-CPU array.
        let byte = unsafe { (&raw const (*desk).text).cast::<u8>().add(i as usize).read_volatile() };
        path_byte(u64::from(byte));
        i += 1;
    }
    length
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn path_byte(byte: u64) -> u64 {
    if byte as u8 == b'/' {
        end_component();
    }
    let Some(desk) = desk() else { return 0 };
    // SAFETY: a value of a per-CPU array.
    unsafe { (*desk).path.push(byte as u8) };
    0
}

/// Here a component of the path ends: what is in it may be below a cgroup that a rule names.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn end_component() -> u64 {
    let Some(desk) = desk() else { return 0 };
    // SAFETY: a value of a per-CPU array; that of the hash map is copied at once.
    unsafe {
        (*desk).path.end();
        let hash = (*desk).path.hash;
        (*desk).prefixes |= PREFIXES.get(hash).copied().unwrap_or_default();
    }
    0
}
