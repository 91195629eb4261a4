//! What a person at a terminal is asked before a restore goes over what is there.

use std::fs;
use std::path::Path;

use crate::delta_live::{DIGEST, digest_of, site};
use crate::restore_crash::{CONTROL, MARK};
use crate::support::Server;
use crate::support::run::{Ran, run_with_input};
use crate::support::site::Site;

/// A restore over `to` at a terminal, and what is typed there.
fn asked(site: &Site, to: &Path, typed: &str) -> Ran {
    let line = format!(
        "{} --config {} restore --delta --target-action promote --to {}",
        site.cluster.scratch().pgkeep_binary().display(),
        site.config.path().display(),
        to.display(),
    );
    let mut command = site.cluster.command("script");
    run_with_input(command.args(["-qec", &line, "/dev/null"]), typed)
}

#[test]
fn a_delta_shows_its_plan_and_goes_on_with_yes_only() {
    let Some(server) = Server::main() else { return };
    let (site, copies) = site(&server);
    site.backup();
    site.cluster.archive_now();
    let to = copies.join("data");
    site.restore(&to, &[]);
    let stray = to.join("stray");
    fs::write(&stray, "x").unwrap();
    let control = fs::read(to.join(CONTROL)).unwrap();
    for typed in ["n\n", "\n", "yeah\n"] {
        let ran = asked(&site, &to, typed).assert_code(1);
        let shown = &ran.stdout;
        // The plan first, with what goes, and then the question.
        let (plan, rest) = shown.split_once("[y/N]").unwrap_or_else(|| panic!("{ran}"));
        assert!(plan.contains("stray"), "{ran}");
        assert!(rest.contains("not confirmed: nothing was changed"), "{ran}");
        assert_eq!(fs::read(to.join(CONTROL)).unwrap(), control);
        assert!(stray.exists() && !to.join(MARK).exists());
    }
    asked(&site, &to, "y\n").assert_ok();
    assert!(!stray.exists());
    assert_eq!(digest_of(&server, &to), site.cluster.psql(DIGEST));
}
