//! An account that is neither the servers' own nor root.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use super::account::{find_ids, unprivileged};
use super::servers::skip;

/// A command of yet another account, in `dir`. Nothing, said, when the tests can become nobody else.
pub fn other_command(program: &Path, dir: &Path) -> Option<Command> {
    let own = unprivileged().ids();
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    let mut others = ["nobody", "daemon"].into_iter();
    let found = others.find(|name| find_ids(&passwd, name).is_some_and(|ids| Some(ids) != own));
    let mut command = match (own, found) {
        (_, None) => return skip("there is no second account"),
        (Some(_), Some(name)) => {
            let (uid, gid) = find_ids(&passwd, name)?;
            let mut command = Command::new(program);
            command.uid(uid).gid(gid);
            command
        }
        (None, Some(name)) => {
            let mut command = Command::new("sudo");
            if !command.args(["-n", "true"]).status().is_ok_and(|status| status.success()) {
                return skip("the tests run without root and without sudo");
            }
            let mut command = Command::new("sudo");
            command.args(["-n", "-u", name, "--"]).arg(program);
            command
        }
    };
    command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").current_dir(dir);
    command.stdin(Stdio::null());
    Some(command)
}
