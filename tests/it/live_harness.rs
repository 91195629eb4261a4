//! The harness itself, on real servers: what the other live tests rely on holds.

use std::fs;
use std::time::Duration;

use crate::support::run::{run, start, wait_until};
use crate::support::servers::{MAJORS, Server};
use crate::support::{Cipher, ScratchDir, Stop, TestCluster, TestConfig, TestRepo, tools};

#[test]
fn a_cluster_survives_restart_and_kill() {
    let Some(server) = Server::main() else { return };
    let cluster = TestCluster::create(&server).checksums().setting("work_mem", "5MB").start();
    assert_eq!(cluster.psql("show data_checksums; show work_mem; show fsync"), "on\n5MB\noff");
    cluster.set("work_mem", "6MB");
    assert_eq!(cluster.psql("show work_mem"), "6MB");
    cluster.psql("create table kept (n int); insert into kept select generate_series(1, 1000)");
    cluster.restart();
    assert!(cluster.is_running());
    cluster.kill9();
    assert!(!cluster.is_running());
    cluster.start();
    assert!(cluster.log().contains("automatic recovery in progress"));
    assert_eq!(cluster.psql("select count(*), sum(n) from kept"), "1000|500500");
    cluster.try_psql("select 1 / 0").assert_code(3).assert_says("division by zero");
}

#[test]
fn tools_agree_with_a_sound_cluster_and_see_a_broken_one() {
    let Some(server) = Server::main() else { return };
    let cluster = TestCluster::create(&server).checksums().start();
    tools::pgbench_init(&cluster, 1);
    let load = tools::pgbench_load(&cluster, 2);
    cluster.wait_until("select sum(delta) is not null from pgbench_history");
    drop(load);
    tools::pgbench(&cluster, 20);
    tools::assert_amcheck(&cluster);
    let segment = cluster.switch_wal();
    let segment = format!("{}/pg_wal/{segment}", cluster.data_dir().display());
    tools::pg_waldump(&cluster, &["-q", &segment]).assert_ok();
    let table = cluster.psql("select pg_relation_filepath('pgbench_accounts')");
    cluster.stop(Stop::Fast);
    tools::assert_checksums(&cluster);
    let table = cluster.data_dir().join(table);
    let mut content = fs::read(&table).unwrap();
    content[8000] ^= 1;
    fs::write(&table, content).unwrap();
    tools::pg_checksums(&cluster).assert_code(1).assert_says("checksum verification failed");
}

#[test]
fn segments_reach_the_archive_of_an_archive_command() {
    let Some(server) = Server::main() else { return };
    let archive = ScratchDir::new("archive");
    let cluster = TestCluster::create(&server).wal_segment_mib(1).archiving().start();
    let before = cluster.switch_wal();
    cluster.set_archive_command(&format!("cp %p {}/%f", archive.path().display()));
    let after = cluster.archive_now();
    for segment in [before, after] {
        assert_eq!(fs::metadata(archive.join(&segment)).unwrap().len(), 1 << 20, "{segment}");
    }
}

#[test]
fn a_copied_directory_is_adopted_recovers_and_promotes() {
    let Some(server) = Server::main() else { return };
    let archive = ScratchDir::new("archive");
    let copied = ScratchDir::new("copied");
    let archive_command = format!("cp %p {}/%f", archive.path().display());
    let source = TestCluster::create(&server).archive_command(&archive_command).start();
    let data = copied.join("data");
    let mut copy = source.command("pg_basebackup");
    run(copy.args(["-X", "none", "-c", "fast", "-d", &source.conninfo(), "-D"]).arg(&data))
        .assert_ok();
    source.psql("create table marker (n int); insert into marker values (1)");
    let target = source.psql("select pg_create_restore_point('here')");
    source.psql("insert into marker values (2)");
    source.archive_now();
    tools::assert_verifybackup(&source, &data);

    let adopt = || {
        TestCluster::adopt(&server, &data)
            .setting("archive_mode", "off")
            .setting("recovery_target_lsn", &target)
    };
    copied.write("data/recovery.signal", "");
    let log = adopt().setting("restore_command", "exit 200").start_expecting_failure();
    assert!(log.contains("could not restore file"), "{log}");

    let restore_command = format!("cp {}/%f %p", archive.path().display());
    let restored = adopt().setting("restore_command", &restore_command).start();
    restored.wait_for_pause();
    assert_eq!(restored.psql("select n from marker"), "1");
    restored.promote();
    restored.wait_for_promotion();
    assert_eq!(restored.psql("show archive_mode"), "off");
}

#[test]
fn each_major_starts_and_stops() {
    for server in Server::all() {
        let cluster = TestCluster::create(&server).start();
        let version = cluster.psql("select current_setting('server_version_num')::int / 10000");
        assert_eq!(version, server.version().to_string());
        cluster.stop(Stop::Fast);
    }
    assert!(MAJORS.contains(&15));
}

#[test]
fn a_server_listens_on_tcp_when_asked() {
    let Some(server) = Server::main() else { return };
    let cluster = TestCluster::create(&server).tcp().start();
    let conninfo = format!("host=127.0.0.1 port={} user=postgres", cluster.port());
    let mut psql = cluster.command("psql");
    let ran = run(psql.args(["-XAtqc", "select 1", "-d", &conninfo])).assert_ok();
    assert_eq!(ran.stdout, "1\n");
}

#[test]
fn the_binary_under_test_runs_as_the_servers_account() {
    let Some(server) = Server::main() else { return };
    let cluster = TestCluster::create(&server).prepare();
    let repo = TestRepo::new();
    let config = TestConfig::new(&cluster)
        .repository("local", &repo, Cipher::Aes)
        .repository("second", &TestRepo::new(), Cipher::None)
        .toml("[daemon]\nlisten = \"127.0.0.1:0\"");
    let text = fs::read_to_string(config.path()).unwrap();
    let parsed: toml::Table = text.parse().unwrap();
    assert_eq!(parsed["repository"]["local"]["url"].as_str(), Some(repo.url().as_str()));
    assert_eq!(parsed["cluster"]["main"]["connection"].as_str(), Some(&*cluster.conninfo()));
    config.run(["no-such-command"]).assert_code(2);
    assert!(config.archive_command().ends_with("archive-push \"%p\""));
    assert!(config.restore_command().ends_with("archive-get %f \"%p\""));
    assert_eq!(run(&mut cluster.pgkeep()).code(), Some(2));
}

#[test]
fn commands_are_bounded_and_their_words_kept() {
    let scratch = ScratchDir::new("commands");
    let account = crate::support::account::unprivileged();
    let mut shell = account.command("sh", scratch.path());
    let ran = run(shell.args(["-c", "echo out; echo err >&2; env | grep -c ^PG; exit 7"]));
    let ran = ran.assert_code(7).assert_says("out").assert_says("err");
    assert_eq!(ran.stdout, "out\n0\n");

    let mut sleeper = account.command("sh", scratch.path());
    let running = start(sleeper.args(["-c", "echo begun >&2; sleep 3600"]));
    wait_until(
        Duration::from_secs(10),
        || running.stderr_so_far() == "begun\n",
        || "it says that it has begun".to_owned(),
    );
    let panic = std::panic::catch_unwind(|| running.wait_within(Duration::ZERO)).unwrap_err();
    assert!(panic.downcast_ref::<String>().unwrap().contains("begun"));
}
