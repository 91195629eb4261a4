//! What a restore's plan takes for proven, on real clusters: a moment is reached when the archive, or the
//! server, proves it, and not because somebody's clock was there.

use crate::support::Server;
use crate::support::Stop;
use crate::support::planned::{Planned, later};
use crate::support::site::json;

/// A backup's end by the server's clock was taken for a moment that the archive proves. On a busy
/// server whose archive stopped then, 159 commits older than it were missing, and "nothing" was lost.
#[test]
fn d20261124_a_backup_s_end_by_the_clock_proves_nothing() {
    let Some(server) = Server::main() else { return };
    let planned = Planned::new(&server);
    planned.insert(1);
    let id = planned.site.backup();
    let shown = json(&planned.site.config.run(["info", "--json"]).assert_ok().stdout);
    let window = shown["repositories"][0]["windows"][0].clone();
    assert_eq!((&window["only_end"], &window["to"]), (&true.into(), &window["from"]), "{window}");
    let finished = later(&window["to"], 0);
    // The server itself can prove it as long as it is idle.
    planned.plan_soon(&["--target-time", &finished]);

    planned.site.cluster.set_archive_command("false");
    planned.insert(2);
    planned.site.cluster.stop(Stop::Fast);
    let told = planned.site.config.run(["info"]).assert_ok();
    assert!(told.stdout.contains(&format!("restore the end of backup {id}")), "{told}");
    let error = planned.refused(&["--target-time", &finished]);
    assert!(error["message"].as_str().unwrap().contains("is not proven"), "{error}");
    assert_eq!(
        (&error["nearest"][0]["side"], &error["nearest"][0]["end_of"]),
        (&"before".into(), &id.as_str().into())
    );
    let next = format!("--backup {id} --target-immediate");
    assert!(error["hint"].as_str().unwrap().contains(&next), "{error}");
    assert_eq!(planned.rows("end", &["--backup", &id, "--target-immediate"]), "1");
}
