//! Large blocks of memory: how much of them is kept that nobody uses, in a process that stays.
//!
//! With the first block of megabytes that is freed, glibc begins to take such blocks from an arena for each
//! thread, and keeps there what is freed, up to 64 MiB each (`mallopt(3)`, `M_MMAP_THRESHOLD`: its limit goes up
//! by itself to 32 MiB). A daemon of many threads that each stored a few segments would hold many times what its
//! limits say. Blocks of their own, given back whenever they are freed, would keep nothing, and cost an eighth more
//! processor time for each segment.

/// How many arenas the threads share. They wait for each other no longer than an allocation takes, and
/// allocate little besides segments.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const ARENAS: std::ffi::c_int = 2;

/// Lets threads share what others have freed, from now on.
pub fn share() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // SAFETY: it takes two numbers, and glibc guards what it sets by a lock.
        #[allow(unsafe_code, reason = "there is no other way to set it from within the process")]
        let is_set = unsafe { libc::mallopt(libc::M_ARENA_MAX, ARENAS) };
        debug_assert_eq!(is_set, 1, "any number of arenas can be set");
    }
}
