//! Large blocks of memory: given back when they are freed, in a process that stays.
//!
//! With the first block of megabytes that is freed, glibc begins to take such blocks from an arena for each
//! thread, and keeps there what is freed, up to 64 MiB each (`mallopt(3)`, `M_MMAP_THRESHOLD`: its limit goes up by
//! itself to 32 MiB). A daemon of many threads that each stored a few segments would hold many times what its limits say.

/// From this size on a block is a mapping of its own. Smaller ones are many and short-lived.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const OWN_MAPPING: std::ffi::c_int = 1 << 20;

/// Lets blocks of a MiB and more go back to the system when they are freed, from now on.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // SAFETY: it takes two numbers, and glibc guards what it sets by a lock.
        #[allow(unsafe_code, reason = "there is no other way to set it from within the process")]
        let is_set = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, OWN_MAPPING) };
        debug_assert_eq!(is_set, 1, "any threshold up to 32 MiB can be set");
    }
}
