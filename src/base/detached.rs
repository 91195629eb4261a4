//! Work that its caller may stop waiting for: asking somebody who may be away for long.
//!
//! A scope would wait for it. Whoever begins it sees to it that it ends in its own time, by deadlines of
//! what it calls, and that nothing depends on whether it does.

/// Does `work` in a thread that may outlive the call. A panic is told by the panic hook only.
#[allow(clippy::disallowed_methods, reason = "its name says that nobody waits for it")]
pub fn detached(work: impl FnOnce() + Send + 'static) {
    drop(std::thread::spawn(work));
}
