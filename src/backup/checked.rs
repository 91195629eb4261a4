//! Reading a small file that carries its own checksum while the server may be writing it.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use super::copy::read_whole;
use super::error::{Error, Result};
use super::read::{Stat, stat};
use crate::base::Ctx;
use crate::pg::CheckedFile;

/// How often the file is read before its content counts as it is: a second, where a write takes a
/// millisecond.
const TRIES: u32 = 100;
const PAUSE: Duration = Duration::from_millis(10);

/// What was read, and what is wrong with it.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) stat: Stat,
    pub(super) content: Vec<u8>,
    pub(super) damage: Option<String>,
}

/// Reads until nobody wrote meanwhile and the checksum fits; `None` when the file has vanished. Each
/// try opens it anew: the server may have put another in its place.
pub(super) fn read_checked(ctx: &Ctx, kind: CheckedFile, path: &Path) -> Result<Option<Checked>> {
    let mut tries = 1;
    loop {
        ctx.cancel.check()?;
        let Some(read) = read_once(kind, path)? else { return Ok(None) };
        if read.damage.is_none() || tries >= TRIES {
            return Ok(Some(read));
        }
        tries += 1;
        ctx.clock.sleep(PAUSE);
    }
}

fn read_once(kind: CheckedFile, path: &Path) -> Result<Option<Checked>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::file("open", path)(error)),
    };
    let failed = || Error::file("stat", path);
    let before = written(&file.metadata().map_err(failed())?);
    let stat = stat(&file).map_err(failed())?;
    let content = read_whole(&file, path)?;
    let after = written(&file.metadata().map_err(failed())?);
    let damage = match kind.check(&content) {
        Err(damage) => Some(damage.to_string()),
        Ok(()) if before != after => Some("it was written at every reading".into()),
        Ok(()) => None,
    };
    Ok(Some(Checked { stat, content, damage }))
}

/// What every write changes.
fn written(metadata: &Metadata) -> (u64, [i64; 4]) {
    let times = [metadata.mtime(), metadata.mtime_nsec(), metadata.ctime(), metadata.ctime_nsec()];
    (metadata.len(), times)
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a server writes here, not pgkeep")]
mod tests {
    use std::path::PathBuf;
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::backup::copy::read_control_file;
    use crate::base::{Clock, Timestamp};

    fn state(fill: u8) -> Vec<u8> {
        let mut content = 0x57F9_4534_u32.to_le_bytes().to_vec();
        content.extend(300u32.to_le_bytes());
        content.resize(296, fill);
        let crc = crc32c::crc32c(&content);
        content.extend(crc.to_le_bytes());
        content
    }

    type Step = Box<dyn FnOnce(&Path) + Send>;

    /// A clock during whose naps a server goes on writing.
    struct Writing {
        path: PathBuf,
        steps: Mutex<Vec<Step>>,
    }

    impl std::fmt::Debug for Writing {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("Writing")
        }
    }

    impl Clock for Writing {
        fn now(&self) -> Timestamp {
            Timestamp::UNIX_EPOCH
        }
        fn monotonic(&self) -> Duration {
            Duration::ZERO
        }
        fn sleep(&self, _: Duration) {
            let mut steps = self.steps.lock().unwrap();
            if !steps.is_empty() {
                let step = steps.remove(0);
                step(&self.path);
            }
        }
    }

    fn read(first: &[u8], steps: Vec<Step>) -> Option<Checked> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("000002E1");
        std::fs::write(&path, first).unwrap();
        let mut ctx = Ctx::fixed(Timestamp::UNIX_EPOCH, 1);
        ctx.clock = Arc::new(Writing { path: path.clone(), steps: Mutex::new(steps) });
        read_checked(&ctx, CheckedFile::PreparedTransaction, &path).unwrap()
    }

    fn writes(content: Vec<u8>) -> Step {
        Box::new(move |path| std::fs::write(path, content).unwrap())
    }

    #[test]
    fn f059_a_file_in_the_making_is_read_until_it_is_whole() {
        let whole = state(7);
        let half = whole[..150].to_vec();
        let found = read(&[], vec![writes(half.clone()), writes(whole.clone())]).unwrap();
        assert_eq!((found.content, found.damage), (whole.clone(), None));
        assert_eq!(found.stat.size, 300, "what was asked belongs to what was read");

        let replaced: Step = Box::new(|path| {
            let beside = path.with_extension("tmp");
            std::fs::write(&beside, state(9)).unwrap();
            std::fs::rename(beside, path).unwrap();
        });
        assert_eq!(read(&half, vec![replaced]).unwrap().content, state(9));

        let removed: Step = Box::new(|path| std::fs::remove_file(path).unwrap());
        assert!(read(&half, vec![removed]).is_none(), "rolled back meanwhile");
    }

    #[test]
    fn f054_the_control_file_is_read_until_its_checksum_fits() {
        let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/pg15/pg_control");
        let whole = std::fs::read(sample).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pg_control");
        let mut torn = whole.clone();
        torn[40..48].fill(0);
        std::fs::write(&path, &torn).unwrap();
        let mut ctx = Ctx::fixed(Timestamp::UNIX_EPOCH, 1);
        let steps = Mutex::new(vec![writes(whole[..4096].to_vec()), writes(whole.clone())]);
        ctx.clock = Arc::new(Writing { path: path.clone(), steps });
        let (content, _, _) = read_control_file(&ctx, &path).unwrap();
        assert_eq!(content, whole);
        std::fs::write(&path, torn).unwrap();
        let failed = read_control_file(&ctx, &path).unwrap_err();
        assert!(matches!(failed, Error::Content { .. }), "{failed}");
    }

    #[test]
    fn f059_a_file_that_stays_bad_is_kept_and_told() {
        let mut bad = state(7);
        bad[100] ^= 1;
        let found = read(&bad, Vec::new()).unwrap();
        assert_eq!(found.content, bad);
        assert!(found.damage.unwrap().contains("CRC of a prepared transaction"));
    }
}
