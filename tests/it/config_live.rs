//! Configuration files outside the data directory, as Debian has them: saved with the backup, written on
//! request, and the server starts with the command that the restore prints.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::support::run::{DEADLINE, run, wait_until};
use crate::support::site::{Site, json};
use crate::support::{ScratchDir, Server, Stop, TestCluster, tools};

/// Moves a new cluster's configuration to a directory beside it.
pub(crate) fn like_debian(base: &TestCluster, etc: &ScratchDir, socket: &Path) {
    let data = base.data_dir();
    let conf = fs::read_to_string(data.join("postgresql.conf")).unwrap();
    etc.create_dir("main/conf.d");
    let main = etc.path().join("main");
    etc.write(
        "main/postgresql.conf",
        format!(
            "{conf}\ndata_directory = '{}'\nhba_file = '{}'\nident_file = '{}'\n\
             include_dir = 'conf.d'\ninclude '../shared.conf'\ninclude_if_exists 'none.conf'\n",
            data.display(),
            main.join("pg_hba.conf").display(),
            main.join("pg_ident.conf").display(),
        ),
    );
    etc.write(
        "main/conf.d/10.conf",
        format!("work_mem = '7MB'\nunix_socket_directories = '{}'\n", socket.display()),
    );
    etc.write("shared.conf", "maintenance_work_mem = '9MB'\nlisten_addresses = ''\n");
    etc.write("main/users", "postgres\n");
    etc.write("main/pg_hba.conf", "local all @users trust\n");
    etc.write("main/pg_ident.conf", "");
    fs::set_permissions(main.join("pg_hba.conf"), fs::Permissions::from_mode(0o640)).unwrap();
    for file in ["postgresql.conf", "pg_hba.conf", "pg_ident.conf"] {
        fs::remove_file(data.join(file)).unwrap();
    }
}

#[test]
fn a_debian_like_cluster_comes_back_with_its_configuration() {
    let Some(server) = Server::main() else { return };
    let (etc, copies) = (ScratchDir::new("etc"), ScratchDir::new("copies"));
    let socket = copies.create_dir("socket");
    let base = TestCluster::create(&server).checksums().wal_segment_mib(1).prepare();
    fs::create_dir_all(etc.path().join("main")).unwrap();
    like_debian(&base, &etc, &socket);
    let conf = etc.path().join("main/postgresql.conf");
    let launch = TestCluster::adopt(&server, base.data_dir());
    let site = Site::start(launch.setting("config_file", conf.to_str().unwrap()));
    site.cluster.psql("create table t as select 1 as n");

    // What cannot be read is a warning, never a failure.
    let whole = fs::read_to_string(&conf).unwrap();
    fs::write(&conf, format!("{whole}include 'gone.conf'\n")).unwrap();
    let warned = site.config.run(["backup", "--json"]).assert_code(3);
    assert!(warned.stderr.contains("gone.conf"), "{warned}");
    assert_eq!(json(&warned.stdout)["warnings"].as_array().unwrap().len(), 1, "{warned}");
    fs::write(&conf, &whole).unwrap();
    let id = site.backup();
    site.cluster.psql("insert into t values (2)");
    site.cluster.archive_now();
    site.cluster.stop(Stop::Fast);
    fs::remove_dir_all(base.data_dir()).unwrap();
    fs::remove_dir_all(etc.path()).unwrap();

    let (to, new_etc) = (copies.join("data"), copies.join("etc"));
    let restore = |args: &[&Path]| {
        let mut command = site.config.pgkeep(["restore", "--yes", "--target-action", "promote"]);
        run(command.args(["--archive", "off", "--to"]).args(args))
    };
    let plan = restore(&[&to, Path::new("--dry-run")]).assert_ok();
    assert!(plan.stdout.contains("--config-to DIR writes them"), "{plan}");
    assert!(plan.stdout.contains(conf.to_str().unwrap()), "{plan}");
    let flag = Path::new("--config-to");
    copies.create_dir("full");
    copies.write("full/precious", "mine");
    for wrong in ["full", "data", "data/etc"] {
        let refused = restore(&[&to, flag, &copies.join(wrong)]);
        assert!(matches!(refused.code(), Some(1 | 15)), "{wrong}\n{refused}");
        assert!(!to.exists(), "{wrong}");
    }
    let restored = restore(&[&to, flag, &new_etc]).assert_ok();
    tools::assert_verifybackup(&site.cluster, &to);
    assert!(!to.join("postgresql.conf").exists());
    let written = |name: &str| fs::read_to_string(new_etc.join(name)).unwrap();
    assert_eq!(written("postgresql.conf"), whole);
    assert_eq!(written("users"), "postgres\n");
    let shared = etc.path().join("shared.conf");
    let elsewhere = shared.strip_prefix("/").unwrap().to_str().unwrap();
    assert!(written(elsewhere).contains("9MB"));
    let mode = |name: &str| fs::metadata(new_etc.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("pg_hba.conf"), mode("conf.d/10.conf")), (0o640, 0o600));
    assert!(!new_etc.join("pgkeep_restore_in_progress.json").exists());

    // What a file of the directory above was, the server looks for there again: the plan says so.
    assert!(restored.stdout.contains("refers to ../shared.conf"), "{restored}");
    assert!(!restored.stdout.contains("refers to conf.d"), "{restored}");
    copies.write("shared.conf", written(elsewhere));
    let line = restored.stdout.lines().skip_while(|line| *line != "Next:").nth(1).unwrap();
    assert!(line.contains("pg_ctl start") && line.contains("config_file="), "{line}");
    let copy = TestCluster::adopt(&server, &to).prepare();
    let mut command = base.command("sh");
    command.env("PATH", format!("{}:/usr/bin:/bin", server.bin().display()));
    let _started = run(command.args(["-c", line])).assert_ok();
    let ask = |sql: &str| {
        let host = format!("host={} user=postgres dbname=postgres", socket.display());
        run(base.command("psql").args(["-XAtq", "-d", &host, "-c", sql])).stdout.trim().to_owned()
    };
    wait_until(
        DEADLINE,
        || ask("select not pg_is_in_recovery()") == "t",
        || format!("{line}\n{}", copy.log()),
    );
    assert_eq!(ask("select string_agg(n::text, ',' order by n) from t"), "1,2");
    assert_eq!(ask("show work_mem"), "7MB");
    assert_eq!(ask("show maintenance_work_mem"), "9MB");
    assert_eq!(ask("show data_directory"), to.display().to_string());
    for name in ["config_file", "hba_file", "ident_file"] {
        let shown = ask(&format!("show {name}"));
        assert!(shown.starts_with(new_etc.to_str().unwrap()), "{name}: {shown}");
    }
    copy.stop(Stop::Immediate);

    // Without pgkeep too.
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/unpack.py");
    let mut command = std::process::Command::new("python3");
    command.arg(script).arg(site.repo.path()).arg("--key-file").arg(site.repo.key_file());
    let unpacked = copies.join("unpacked");
    let _unpacked = run(command.args(["config", &id, "-o"]).arg(&unpacked)).assert_ok();
    let again = fs::read_to_string(unpacked.join(conf.strip_prefix("/").unwrap())).unwrap();
    assert_eq!(again, whole);
}

/// A configuration in the data directory is saved once, with everything else.
#[test]
fn files_inside_the_data_directory_are_not_external() {
    let Some(server) = Server::main() else { return };
    let site = Site::small(&server);
    site.cluster.psql("alter system set work_mem = '5MB'");
    site.backup();
    let copies = ScratchDir::new("copies");
    let mut command = site.config.pgkeep(["restore", "--dry-run", "--json", "--to"]);
    let plan = run(command.arg(copies.join("data"))).assert_ok();
    let plan = json(&plan.stdout);
    assert_eq!(plan["plan"]["external"]["files"].as_array().unwrap().len(), 0, "{plan}");
}

/// `postgresql.conf` named the source's directory: the start command that the restore printed would have
/// opened that one.
#[test]
fn d20261124_the_start_command_opens_the_restored_directory() {
    let Some(server) = Server::main() else { return };
    let copies = ScratchDir::new("copies");
    let socket = copies.create_dir("socket");
    let base = TestCluster::create(&server).wal_segment_mib(1).prepare();
    let conf = base.data_dir().join("postgresql.conf");
    let before = fs::read_to_string(&conf).unwrap();
    let own = base.data_dir().display();
    let lines = format!(
        "data_directory = '{own}'\nlisten_addresses = ''\nunix_socket_directories = '{}'\n",
        socket.display()
    );
    fs::write(&conf, before + &lines).unwrap();
    let site = Site::start(TestCluster::adopt(&server, base.data_dir()));
    site.backup();
    site.cluster.archive_now();
    let to = copies.join("data");
    let restored = site.restore(&to, &[]).assert_says("postgresql.conf sets data_directory");
    let line = restored.stdout.lines().skip_while(|line| *line != "Next:").nth(1).unwrap();
    let copy = TestCluster::adopt(&server, &to).prepare();
    drop(run(base.command("sh").args(["-c", line])).assert_ok());
    let host = format!("host={} user=postgres dbname=postgres", socket.display());
    let ask = |sql| run(base.command("psql").args(["-XAtq", "-d", &host, "-c", sql])).stdout;
    assert_eq!(ask("show data_directory").trim(), to.display().to_string());
    copy.stop(Stop::Immediate);
}
