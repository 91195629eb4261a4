//! Work that its caller may stop waiting for: asking somebody who may be away for long.
//!
//! A scope would wait for it. Whoever begins it sees to it that it ends in its own time, by deadlines of
//! what it calls, and that nothing depends on whether it does.

use std::io;

/// Does `work` in a thread that may outlive the call. A panic is told by the panic hook only.
///
/// # Errors
/// When the system has no thread left: the work is not done.
#[allow(clippy::disallowed_methods, reason = "its name says that nobody waits for it")]
pub fn detached(work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    std::thread::Builder::new().spawn(work).map(drop)
}
