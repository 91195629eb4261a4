//! One worker's part: a file, or a run of a large file's blocks, into its pack.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use super::checked::read_checked;
use super::error::{Error, Result};
use super::known::Known;
use super::motion::Motion;
use super::read::{Stat, Uncached, stat};
use super::scan::became_unlogged;
use super::stands::Stands;
use super::throttle::Throttle;
use crate::base::{Ctx, Event};
use crate::codec::crc32c_join;
use crate::pg::page::{self, Verdict};
use crate::pg::{CheckedFile, ControlFile, Fork, RelationFile};
use crate::pgconn::BackupSession;
use crate::repo::manifest::Damage;
use crate::repo::{ContentSource, Layer, PackWriter, Row, RowKind, Unit};

/// How often an invalid page is read again before its bytes count as they are.
const REREADS: u32 = 8;

/// Between two readings of an invalid page: a torn read is over long before.
const REREAD_PAUSE: Duration = Duration::from_millis(10);

/// Invalid pages after which the next ones are read again once, without a pause.
const DAMAGE_PAUSED_MAX: u64 = 1_000;

/// Pages that are listed one by one; beyond, they are only counted.
const DAMAGE_LISTED_MAX: usize = 10_000;

/// Up to this length a file is a small one: a frame.
const SMALL: usize = 64 << 10;

/// What all workers share.
#[derive(Debug)]
pub(super) struct Shared<'a> {
    pub(super) session: &'a BackupSession,
    pub(super) block_size: usize,
    pub(super) relation_segment_blocks: u32,
    pub(super) checksums: bool,
    pub(super) uncached: Uncached,
    pub(super) throttle: Throttle,
    pub(super) damage: Mutex<Vec<Damage>>,
    pub(super) damaged_pages: AtomicU64,
    pub(super) motion: Motion,
    /// What this backup stands on.
    pub(super) stands: &'a Stands,
}

impl Shared<'_> {
    /// Counts a bad block, and lists it while the list is short.
    fn damaged(&self, ctx: &Ctx, job: &Job, block: u32, why: String) {
        let path = String::from_utf8_lossy(&job.path).into_owned();
        self.list_damage(ctx, Damage { path, block, why });
    }

    /// What the parent knew to be invalid in a file that is not read again.
    pub(super) fn repeat_damage(&self, ctx: &Ctx, path: &[u8]) {
        let Some(parent) = &self.stands.parent else { return };
        for known in parent.damage_of(&String::from_utf8_lossy(path)) {
            self.list_damage(ctx, known.clone());
        }
    }

    fn list_damage(&self, ctx: &Ctx, Damage { path, block, why }: Damage) {
        self.damaged_pages.fetch_add(1, Ordering::Relaxed);
        let mut damage = self.damage.lock().expect("no holder of this lock panics");
        if damage.len() < DAMAGE_LISTED_MAX {
            ctx.warn(format!("{path}: block {block}: {why}"));
            damage.push(Damage { path, block, why });
        }
    }
}

/// A file to copy.
#[derive(Debug)]
pub(super) struct Job {
    /// Its place in the order of rows.
    pub(super) sequence: u64,
    /// Relative to the data directory.
    pub(super) path: Vec<u8>,
    /// Where it is read.
    pub(super) source: PathBuf,
    /// What the parent says of this path, whatever it was.
    pub(super) before: Option<Row>,
    /// What dead attempts have of it.
    pub(super) salvaged: Vec<Row>,
    /// By its stat record it is what the parent says; its content shall say so too.
    pub(super) seems_same: bool,
}

impl Job {
    /// Rows of files that may hold blocks of it, the parent's first.
    fn known_rows(&self) -> Vec<&Row> {
        let before = self.before.iter().filter(|row| row.kind == RowKind::File);
        before.chain(&self.salvaged).collect()
    }

    /// What comes of it: a row, none where the parent's says the same, or that it has vanished.
    pub(super) fn outcome(&self, row: Option<Row>) -> Outcome {
        match (row, &self.before) {
            (Some(row), Some(before)) if row == *before => Outcome::Kept(row),
            (Some(row), _) => Outcome::Row(row),
            (None, Some(_)) => Outcome::Gone(self.path.clone()),
            (None, None) => Outcome::Nothing,
        }
    }
}

/// What comes of an entry of the walk.
#[derive(Debug)]
pub(super) enum Outcome {
    /// A row of this backup's own table.
    Row(Row),
    /// The parent's row holds as it is.
    Kept(Row),
    /// The parent's row does not hold any more.
    Gone(Vec<u8>),
    /// It has vanished, and the parent did not know it.
    Nothing,
}

/// What came of a run of blocks.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) first_block: u32,
    pub(super) layers: Vec<Layer>,
    pub(super) bytes: u64,
    pub(super) crc: u32,
    /// The file ended before the run did.
    pub(super) is_short: bool,
}

/// An open file as it was before its first read; `None` when it has vanished.
type Opened = std::result::Result<Option<(File, Stat)>, Arc<io::Error>>;

/// A file whose blocks are copied by several workers.
#[derive(Debug)]
pub(super) struct LargeFile {
    pub(super) job: Job,
    /// Opened and fstat'ed once, before anyone's first read; `None` when it has vanished.
    opened: OnceLock<Opened>,
    /// Runs that are done, and how many there are.
    pub(super) parts: Mutex<Vec<Part>>,
    pub(super) part_count: usize,
}

impl LargeFile {
    pub(super) fn new(job: Job, part_count: usize) -> Self {
        Self { job, opened: OnceLock::new(), parts: Mutex::default(), part_count }
    }

    fn open(&self) -> Result<Option<&(File, Stat)>> {
        match self.opened.get_or_init(|| open(&self.job.source).map_err(Arc::new)) {
            Ok(opened) => Ok(opened.as_ref()),
            Err(error) => {
                let error = io::Error::new(error.kind(), Arc::clone(error));
                Err(Error::file("open", &self.job.source)(error))
            }
        }
    }

    /// The row, when this was the last part.
    pub(super) fn finish_part(&self, part: Option<Part>, block_size: usize) -> Option<Option<Row>> {
        let mut parts = self.parts.lock().expect("no holder of this lock panics");
        let vanished = part.is_none();
        parts.push(part.unwrap_or(Part {
            first_block: u32::MAX,
            layers: Vec::new(),
            bytes: 0,
            crc: 0,
            is_short: true,
        }));
        if parts.len() < self.part_count {
            return None;
        }
        let opened = self.opened.get().and_then(|opened| opened.as_ref().ok()?.as_ref());
        let Some((_, stat)) = opened.filter(|_| !vanished) else { return Some(None) };
        parts.sort_by_key(|part| part.first_block);
        Some(Some(join(&self.job, stat, std::mem::take(&mut *parts), block_size)))
    }
}

/// Joins parts that are whole; of a file that shrank meanwhile, nothing after the first short one.
fn join(job: &Job, stat: &Stat, parts: Vec<Part>, block_size: usize) -> Row {
    let (mut layers, mut bytes, mut crc) = (Vec::new(), 0u64, 0u32);
    for part in parts {
        if u64::from(part.first_block) * block_size as u64 != bytes {
            break;
        }
        part.layers.into_iter().for_each(|layer| layer.join(&mut layers));
        crc = crc32c_join(crc, part.crc, part.bytes);
        bytes += part.bytes;
        if part.is_short {
            break;
        }
    }
    row(job, stat, bytes, crc, layers)
}

fn row(job: &Job, stat: &Stat, size: u64, crc: u32, layers: Vec<Layer>) -> Row {
    Row {
        path: job.path.clone(),
        kind: RowKind::File,
        size,
        mode: stat.mode,
        uid: stat.uid,
        gid: stat.gid,
        mtime: stat.mtime,
        // A file that was shorter than its own fstat said is never "unchanged" later.
        identity: stat.identity.clone().filter(|_| size == stat.size),
        crc: Some(crc),
        target: None,
        layers,
        gone: false,
    }
}

fn open(path: &Path) -> io::Result<Option<(File, Stat)>> {
    match File::open(path) {
        Ok(file) => {
            let stat = stat(&file)?;
            Ok(Some((file, stat)))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// One thread's tools.
pub(super) struct Worker<'a> {
    pub(super) ctx: &'a Ctx,
    pub(super) shared: &'a Shared<'a>,
    pub(super) packs: PackWriter<'a>,
}

impl<'a> Worker<'a> {
    /// Copies a whole file; `None` when it has vanished.
    pub(super) fn file(&mut self, job: &Job) -> Result<Option<Row>> {
        self.shared.session.check_alive(self.ctx)?;
        if let Some(kind) = CheckedFile::of(&job.path) {
            return self.checked(job, kind);
        }
        let opened = open(&job.source).map_err(Error::file("open", &job.source))?;
        let Some((file, stat)) = opened else { return Ok(None) };
        if job.seems_same
            && let Some(row) = &job.before
            && row.size == stat.size
            && row.crc == Some(self.sum_of(job, &file, stat.size)?)
        {
            // Its pages were judged when the parent read them, and are the same.
            self.shared.repeat_damage(self.ctx, &job.path);
            self.advance(stat.size, 1);
            return Ok(Some(row.clone()));
        }
        let part = self.run(job, &file, &stat, 0, stat.size)?;
        self.advance(0, 1);
        if became_unlogged(&job.path, &job.source)? {
            return Ok(None);
        }
        Ok(Some(row(job, &stat, part.bytes, part.crc, part.layers)))
    }

    /// The sum over a small file of that size, which is read and not stored.
    fn sum_of(&self, job: &Job, file: &File, size: u64) -> Result<u32> {
        let (mut at, mut sum) = (0, 0);
        let mut chunk = vec![0; usize::try_from(size).map_or(SMALL, |size| size.min(SMALL))];
        while at < size {
            self.ctx.cancel.check()?;
            let want = usize::try_from(size - at).map_or(chunk.len(), |left| left.min(chunk.len()));
            let chunk = chunk.get_mut(..want).unwrap_or_default();
            self.shared.throttle.pass(self.ctx, want)?;
            let read = self.shared.uncached.read(file, at, chunk);
            let count = read.map_err(Error::file("read", &job.source))?;
            sum = crc32c::crc32c_append(sum, chunk.get(..count).unwrap_or_default());
            at += count as u64;
            if count < want {
                break;
            }
        }
        Ok(sum)
    }

    /// Copies a file that has a checksum of its own; one that never fits is kept as it is, and told.
    fn checked(&mut self, job: &Job, kind: CheckedFile) -> Result<Option<Row>> {
        let Some(read) = read_checked(self.ctx, kind, &job.source)? else { return Ok(None) };
        let is_damaged = read.damage.is_some();
        if let Some(why) = read.damage {
            self.shared.damaged(self.ctx, job, 0, why);
        }
        self.content(job, &read.stat, &read.content, is_damaged).map(Some)
    }

    /// Copies bytes `begin` to `end` of a large file; with `end` absent, to where it ended at its fstat.
    pub(super) fn large(
        &mut self,
        file: &LargeFile,
        begin: u64,
        end: Option<u64>,
    ) -> Result<Option<Part>> {
        self.shared.session.check_alive(self.ctx)?;
        let Some((opened, stat)) = file.open()? else { return Ok(None) };
        let end = end.map_or(stat.size, |end| end.min(stat.size));
        self.run(&file.job, opened, stat, begin.min(end), end).map(Some)
    }

    /// Copies content that is in memory already.
    pub(super) fn bytes(&mut self, job: &Job, stat: &Stat, content: &[u8]) -> Result<Row> {
        self.content(job, stat, content, false)
    }

    fn content(&mut self, job: &Job, stat: &Stat, content: &[u8], is_damaged: bool) -> Result<Row> {
        let size = content.len() as u64;
        // Nobody takes such a file unread, also if this backup dies: what it is was told by more than its stat.
        self.packs.begin_content(ContentSource { identity: None, ..source(job, stat) });
        if is_damaged {
            self.packs.note_damage();
        }
        let mut known = self.known(job);
        let unit = unit(known.is_some(), None, size);
        let (mut block, mut crc) = (0, 0);
        let mut rest = content;
        while !rest.is_empty() {
            let space = self.packs.space_for(unit, rest.len())?;
            let (now, later) = rest.split_at(rest.len().min(space.len()));
            space.get_mut(..now.len()).unwrap_or_default().copy_from_slice(now);
            let part = self.accept(block, now.len(), unit, known.as_mut())?;
            crc = crc32c_join(crc, part, now.len() as u64);
            block += u32::try_from(now.len() / self.shared.block_size).unwrap_or(u32::MAX);
            rest = later;
        }
        let layers = self.packs.end_content()?;
        self.advance(size, 1);
        let row = row(job, stat, size, crc, layers);
        Ok(Row { identity: None, ..row })
    }

    fn run(&mut self, job: &Job, file: &File, stat: &Stat, begin: u64, end: u64) -> Result<Part> {
        let block_size = self.shared.block_size as u64;
        let number = |at: u64| {
            u32::try_from(at / block_size).map_err(|_| Error::Refused {
                what: format!("{} has more blocks than 32 bits can count", job.source.display()),
            })
        };
        let first_block = number(begin)?;
        let relation = RelationFile::parse(&job.path);
        self.packs.begin_content(source(job, stat));
        let mut known = self.known(job);
        let unit = unit(known.is_some(), relation.as_ref(), stat.size);
        let (mut at, mut crc) = (begin, 0);
        while at < end {
            self.ctx.cancel.check()?;
            self.shared.session.check_alive(self.ctx)?;
            let block = number(at)?;
            let left = usize::try_from(end - at).unwrap_or(usize::MAX);
            let space = self.packs.space_for(unit, left)?;
            let want = left.min(space.len());
            let chunk = space.get_mut(..want).unwrap_or_default();
            self.shared.throttle.pass(self.ctx, want)?;
            let count = self
                .shared
                .uncached
                .read(file, at, chunk)
                .map_err(Error::file("read", &job.source))?;
            let chunk = chunk.get_mut(..count).unwrap_or_default();
            let is_sound = match &relation {
                Some(relation) => {
                    check_pages(self.ctx, self.shared, job, file, relation, block, chunk)?
                }
                None => true,
            };
            if !is_sound {
                self.packs.note_damage();
            }
            let part = self.accept(block, count, unit, known.as_mut())?;
            crc = crc32c_join(crc, part, count as u64);
            self.advance(count as u64, 0);
            at += count as u64;
            if count < want {
                break;
            }
        }
        let layers = self.packs.end_content()?;
        Ok(Part { first_block, layers, bytes: at - begin, crc, is_short: at < end })
    }

    /// Where this file's blocks lie already.
    fn known<'j>(&self, job: &'j Job) -> Option<Known<'j>>
    where
        'a: 'j,
    {
        let rows = job.known_rows();
        (!rows.is_empty()).then(|| Known::new(self.shared.stands, rows))
    }

    fn accept(
        &mut self,
        block: u32,
        length: usize,
        unit: Unit,
        known: Option<&mut Known<'_>>,
    ) -> Result<u32> {
        let Some(known) = known else { return Ok(self.packs.accept(block, length)?) };
        let count = u32::try_from(length.div_ceil(self.shared.block_size)).unwrap_or(u32::MAX);
        known.load(block, block.saturating_add(count))?;
        Ok(self.packs.accept_new(block, length, unit, &mut |wanted| known.find(wanted))?)
    }

    pub(super) fn advance(&self, bytes: u64, files: u64) {
        self.ctx.observer.event(Event::Advance { bytes, files });
    }
}

/// A small file that is no relation's data is stored whole where anything of it has changed: nobody wants to read
/// one from two packs.
fn unit(has_parent: bool, relation: Option<&RelationFile>, size: u64) -> Unit {
    let is_data = relation.is_some_and(|file| file.fork == Fork::Main);
    if has_parent && !is_data && size <= SMALL as u64 { Unit::All } else { Unit::Block }
}

fn source(job: &Job, stat: &Stat) -> ContentSource {
    ContentSource {
        path: job.path.clone(),
        size: stat.size,
        mtime: stat.mtime,
        mode: stat.mode,
        uid: stat.uid,
        gid: stat.gid,
        identity: stat.identity.clone(),
        is_damaged: false,
    }
}

/// The longest file that is read whole: a prepared transaction's state is far below a gigabyte.
const WHOLE_MAX: u64 = 1 << 30;

pub(super) fn read_whole(file: &File, path: &Path) -> Result<Vec<u8>> {
    let failed = || Error::file("read", path);
    let size = file.metadata().map_err(failed())?.len();
    if size > WHOLE_MAX {
        let why = format!("it has {size} bytes, far more than such a file ever has");
        return Err(failed()(io::Error::other(why)));
    }
    let mut content = vec![0; usize::try_from(size).unwrap_or_default()];
    let count = Uncached::default().read(file, 0, &mut content).map_err(failed())?;
    content.truncate(count);
    Ok(content)
}

/// Reads `global/pg_control` until its checksum fits: the server overwrites it in place, and a
/// reading can be torn (src/backend/backup/basebackup.c copies it last for the same reason).
pub(super) fn read_control_file(ctx: &Ctx, path: &Path) -> Result<(Vec<u8>, Stat, ControlFile)> {
    let mut tries = 0;
    loop {
        ctx.cancel.check()?;
        let file = File::open(path).map_err(Error::file("open", path))?;
        let stat = stat(&file).map_err(Error::file("stat", path))?;
        let content = read_whole(&file, path)?;
        match ControlFile::parse(&content) {
            Ok(control) => return Ok((content, stat, control)),
            Err(source) if tries >= 100 => {
                return Err(Error::Content { path: path.into(), source });
            }
            Err(_) => {
                tries += 1;
                ctx.clock.sleep(REREAD_PAUSE);
            }
        }
    }
}

/// Checks the pages of a chunk; invalid ones are read again into their place. A page whose bytes
/// keep changing and whose LSN is one of this backup's is being written: WAL holds its full image.
/// Any other is damaged. Whether none is.
fn check_pages(
    ctx: &Ctx,
    shared: &Shared<'_>,
    job: &Job,
    file: &File,
    relation: &RelationFile,
    first: u32,
    chunk: &mut [u8],
) -> Result<bool> {
    let mut is_sound = true;
    let base = relation.first_block(shared.relation_segment_blocks);
    let size = shared.block_size;
    for (i, page) in (0u32..).zip(chunk.chunks_exact_mut(size)) {
        let block = first + i;
        let Some(absolute) = base.and_then(|base| base.checked_add(block)) else { continue };
        let verify = |page: &[u8]| page::verify(page, absolute, shared.checksums);
        if matches!(verify(page), Verdict::Valid | Verdict::New) {
            continue;
        }
        let why = reread(ctx, shared, job, file, block, page, &verify)?;
        if let Some(why) = why {
            is_sound = false;
            shared.damaged(ctx, job, block, why);
        }
    }
    Ok(is_sound)
}

fn reread(
    ctx: &Ctx,
    shared: &Shared<'_>,
    job: &Job,
    file: &File,
    block: u32,
    page: &mut [u8],
    verify: &dyn Fn(&[u8]) -> Verdict,
) -> Result<Option<String>> {
    let offset = u64::from(block) * page.len() as u64;
    let mut changed = false;
    // A file full of pages that are no PostgreSQL pages must not take hours.
    let many = shared.damaged_pages.load(Ordering::Relaxed) >= DAMAGE_PAUSED_MAX;
    let (rereads, pause) = if many { (1, Duration::ZERO) } else { (REREADS, REREAD_PAUSE) };
    for _ in 0..rereads {
        ctx.cancel.check()?;
        ctx.clock.sleep(pause);
        let mut again = vec![0; page.len()];
        let count = shared
            .uncached
            .read(file, offset, &mut again)
            .map_err(Error::file("read", &job.source))?;
        if count < again.len() {
            // Truncated meanwhile: WAL holds the truncation.
            return Ok(None);
        }
        // Only the last two readings count: a page that has come to rest is as it is.
        changed = again != page;
        page.copy_from_slice(&again);
        if matches!(verify(page), Verdict::Valid | Verdict::New) {
            return Ok(None);
        }
    }
    if changed && shared.motion.excuses(page, || Ok(shared.session.newest_lsn(ctx)?))? {
        return Ok(None);
    }
    Ok(match verify(page) {
        Verdict::BadChecksum { expected, found } => {
            Some(format!("checksum {found:04X} where the content gives {expected:04X}"))
        }
        _ => Some("its header makes no sense".into()),
    })
}
