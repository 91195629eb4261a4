//! Large blocks of memory: how much of them is kept that nobody uses, in a process that stays.
//!
//! With the first block of megabytes that is freed, glibc begins to take such blocks from an arena for each
//! thread, and keeps there what is freed (`mallopt(3)`, `M_MMAP_THRESHOLD`: its limit goes up by itself to
//! 32 MiB). A daemon of many threads that each stored a few segments would hold many times what its limits say.

/// How many arenas the threads share. They wait for each other no longer than an allocation takes.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const ARENAS: std::ffi::c_int = 2;

/// From this size on, which whole segments have, a block is a mapping of its own and goes when it is freed: an
/// arena has holes of that size that nothing fits into. All its pages are fresh each time, which cost a sealed
/// segment an eighteenth of its processor time; it begins with a quarter of its room, which the arenas keep. From
/// 1 MiB on, which the pieces of one have, it would be an eighth.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const OWN_MAPPING: std::ffi::c_int = 8 << 20;

/// Keeps little of what is freed, from now on.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    for (what, value) in [(libc::M_ARENA_MAX, ARENAS), (libc::M_MMAP_THRESHOLD, OWN_MAPPING)] {
        // SAFETY: it takes two numbers, and glibc guards what it sets by a lock.
        #[allow(unsafe_code, reason = "there is no other way to set it from within the process")]
        let is_set = unsafe { libc::mallopt(what, value) };
        debug_assert_eq!(is_set, 1, "{what} can be {value}");
    }
}
