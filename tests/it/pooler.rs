//! A pooler between pgkeep and the server: a session that is not one session cannot hold a backup.
//!
//! The pooler is the smallest that can be: all clients share one server session, which each has until
//! the server is ready for the next query.

use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex};

use pgkeep::backup;
use pgkeep::pgconn::{self, ConnectOptions, Session};

use crate::support::library::LibraryCluster;
use crate::support::{ScratchDir, Server, TestCluster};

/// One message: its type and all its bytes; nothing at the end of the stream.
fn message(stream: &mut UnixStream) -> Option<(u8, Vec<u8>)> {
    let mut head = [0; 5];
    stream.read_exact(&mut head).ok()?;
    let length = u32::from_be_bytes(head[1..].try_into().unwrap()) as usize;
    let mut bytes = head.to_vec();
    bytes.resize(length + 1, 0);
    stream.read_exact(&mut bytes[5..]).ok()?;
    Some((head[0], bytes))
}

/// Everything that the server says until it is ready for the next query.
fn until_ready(server: &mut UnixStream) -> Vec<u8> {
    let mut said = Vec::new();
    while let Some((kind, bytes)) = message(server) {
        said.extend(bytes);
        if kind == b'Z' {
            break;
        }
    }
    said
}

fn serve(mut client: UnixStream, server: &Mutex<UnixStream>, greeting: &[u8]) -> Option<()> {
    let mut length = [0; 4];
    client.read_exact(&mut length).ok()?;
    let mut startup = vec![0; u32::from_be_bytes(length) as usize - 4];
    client.read_exact(&mut startup).ok()?;
    client.write_all(greeting).ok()?;
    let mut asked = Vec::new();
    loop {
        let (kind, bytes) = message(&mut client)?;
        asked.extend(bytes);
        match kind {
            b'X' => return None,
            b'S' | b'Q' => {
                let mut server = server.lock().unwrap();
                server.write_all(&asked).ok()?;
                let answer = until_ready(&mut server);
                drop(server);
                client.write_all(&answer).ok()?;
                asked.clear();
            }
            _ => {}
        }
    }
}

/// Puts a pooler before a cluster; its socket is in `scratch`. Its threads end with their streams.
fn pool(cluster: &TestCluster, scratch: &ScratchDir) -> String {
    let socket = cluster.scratch().join(&format!(".s.PGSQL.{}", cluster.port()));
    let mut server = UnixStream::connect(socket).unwrap();
    let parameters = b"\0\x03\0\0user\0postgres\0database\0postgres\0\0";
    let length = u32::try_from(parameters.len() + 4).unwrap();
    server.write_all(&length.to_be_bytes()).unwrap();
    server.write_all(parameters).unwrap();
    let greeting = Arc::new(until_ready(&mut server));
    let server = Arc::new(Mutex::new(server));
    let listener = UnixListener::bind(scratch.join(".s.PGSQL.5432")).unwrap();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let (server, greeting) = (Arc::clone(&server), Arc::clone(&greeting));
            std::thread::spawn(move || serve(client, &server, &greeting));
        }
    });
    format!("host={} user=postgres dbname=postgres", scratch.path().display())
}

#[test]
fn a_pooler_in_between_is_noticed_before_the_backup_begins() {
    let Some(server) = Server::main() else { return };
    let live = LibraryCluster::start(&server);
    let scratch = ScratchDir::new("pooler");
    let pooled = pool(&live.cluster, &scratch);
    // Alone, a client does not notice.
    let options = ConnectOptions::new(pooled.clone(), "pgkeep");
    let alone = Session::connect(&live.ctx, &options).unwrap();
    let found = alone.prove_not_pooled(&live.ctx).unwrap_err();
    assert!(matches!(found, pgconn::Error::Pooled { .. }), "{found}");
    drop(alone);
    let repository = live.open(Arc::new(live.store.clone())).unwrap();
    let failed = live
        .backup(&repository, |options| options.connection = ConnectOptions::new(pooled, "pgkeep"))
        .unwrap_err();
    let is_pooled = matches!(failed, backup::Error::Server(pgconn::Error::Pooled { .. }));
    assert!(is_pooled, "{failed}");
    assert!(repository.backups(&live.ctx, &live.place).unwrap().complete.is_empty());
    let begun = live.cluster.psql(
        "select count(*) from pg_stat_activity where application_name like 'pgkeep backup 2%'",
    );
    assert_eq!(begun, "0");
}
