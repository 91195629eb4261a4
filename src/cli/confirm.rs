//! Asking a person before something is changed.

use std::io::{BufRead as _, IsTerminal as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use super::error::Failure;
use super::exit::Exit;
use super::output::to_stderr;

/// Asks a person; without one, --yes is needed.
pub fn confirm(json: bool, plan: &str, question: &str) -> Result<(), Failure> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        let hint = "Add --yes to go on, or --dry-run to see the plan only.";
        return Err(Failure::usage("nobody can be asked: stdin is no terminal").with_hint(hint));
    }
    if json {
        to_stderr(&format!("{plan}\n"));
    }
    to_stderr(&format!("{question} [y/N] "));
    // While the question stands, one Ctrl-C is enough.
    let is_asking = Arc::new(AtomicBool::new(true));
    let failed = |error: std::io::Error| Failure::failed(format!("cannot ask: {error}"));
    for signal in [SIGINT, SIGTERM] {
        let code = i32::from(Exit::Interrupted.code());
        flag::register_conditional_shutdown(signal, code, Arc::clone(&is_asking))
            .map_err(failed)?;
    }
    let mut answer = String::new();
    let read = stdin.lock().read_line(&mut answer);
    is_asking.store(false, Ordering::SeqCst);
    read.map_err(failed)?;
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Failure::failed("not confirmed: nothing was changed")),
    }
}
