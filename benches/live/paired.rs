//! Several ways to do one thing, round by round, and their ratios.

use std::process::Command;

use super::cluster::Cluster;
use super::cost::{Cost, measure};
use super::folder::Folder;
use super::median;

/// One thing to run, round by round.
pub struct Side<'a> {
    pub name: String,
    pub prepare: Box<dyn Fn() + 'a>,
    pub command: Box<dyn Fn() -> Command + 'a>,
    pub finish: Box<dyn Fn() + 'a>,
    /// Whether the server's processor time belongs to it.
    pub on_server: bool,
    pub costs: Vec<Cost>,
}

/// Each side once in a round, beginning with another one in every round; a first round warms up.
pub fn run(folder: &Folder, cluster: &Cluster<'_>, sides: &mut [Side<'_>], rounds: usize) {
    for round in 0..=rounds {
        sides.rotate_left(1);
        for side in sides.iter_mut() {
            (side.prepare)();
            if side.on_server {
                // Another program may have driven the files from the page cache since.
                folder.warm(&cluster.data().join("base"));
            }
            folder.settle();
            let cost = measure(&mut (side.command)(), side.on_server.then_some(cluster));
            (side.finish)();
            println!(
                "round {round}: wall {:6.2} s, cpu {:6.2} s, server {:5.2} s, read {:8.2} MB, server {:8.2} MB: {}",
                cost.wall,
                cost.cpu,
                cost.server,
                cost.read / 1e6,
                cost.server_read / 1e6,
                side.name
            );
            if round > 0 {
                side.costs.push(cost);
            }
        }
    }
    let turned = (rounds + 1) % sides.len();
    sides.rotate_right(turned);
}

pub fn print_table(what: &str, sides: &[Side<'_>]) {
    let middle =
        |side: &Side<'_>, of: fn(&Cost) -> f64| median(side.costs.iter().map(of).collect());
    println!("\n{what}: medians; in brackets pgkeep / this side, median of the rounds' ratios");
    println!(
        "    wall s          cpu s           server s   with server      memory MiB   read MB            with server"
    );
    let own = &sides[0];
    for side in sides {
        let ratio = |of: fn(&Cost) -> f64| {
            let pairs = own.costs.iter().zip(&side.costs);
            median(pairs.map(|(own, other)| of(own) / of(other)).collect())
        };
        println!(
            "    {:6.2} ({:4.2})   {:6.2} ({:4.2})   {:6.2}     {:6.2} ({:4.2})   {:6.0}       \
             {:8.2} ({:5.3})   {:8.2} ({:5.3})   {}",
            middle(side, |cost| cost.wall),
            ratio(|cost| cost.wall),
            middle(side, |cost| cost.cpu),
            ratio(|cost| cost.cpu),
            middle(side, |cost| cost.server),
            middle(side, |cost| cost.cpu + cost.server),
            ratio(|cost| cost.cpu + cost.server),
            middle(side, |cost| cost.memory_mib),
            middle(side, |cost| cost.read / 1e6),
            ratio(|cost| cost.read),
            middle(side, |cost| (cost.read + cost.server_read) / 1e6),
            ratio(|cost| cost.read + cost.server_read),
            side.name
        );
    }
}
