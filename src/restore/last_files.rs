//! What a restore writes last: the files that make the server recover, and the control file when all else is
//! durable.

use std::io::{Read as _, Write as _};

use super::adopt::MARKER;
use super::conf_file::AUTO_CONF;
use super::control::{CONTROL_PATH, CONTROL_TEMPORARY};
use super::error::{Error, Result};
use super::external;
use super::options::Archiving;
use super::recovery::{marker, own_settings, settings, signal_file};
use super::writing::{MANIFEST, Writing, attributes, path_in};
use crate::base::{Event, Stage, durable};
use crate::pg::manifest::{ManifestWriter, WalRange, wal_ranges};
use crate::pg::{MajorVersion, TimelineId};
use crate::repo::{Row, RowKind};

impl Writing<'_> {
    /// The files that make the server recover. `tablespace_map` is never written: it would link the
    /// tablespaces to the source's.
    pub(super) fn recovery(&mut self) -> Result<()> {
        let label = self.plan.summary.backup_label.clone();
        self.own_file("backup_label", label.as_bytes(), true)?;
        if self.options.archiving == Archiving::Off {
            self.own_file(MARKER, marker(self.ctx, self.plan).as_bytes(), true)?;
        } else {
            // An interrupted run may have made a copy by default.
            let (root, path) = self.tree.find(MARKER.as_bytes());
            root.remove(path)?;
        }
        let in_place = self.has_tablespace_in_place;
        let settings = settings(self.ctx, self.plan, self.options, in_place)?;
        self.write_auto_conf(&settings)?;
        self.own_file(signal_file(self.options), b"", false)?;
        let ranges = self.wal_ranges()?;
        let manifest = std::mem::replace(
            &mut self.manifest,
            ManifestWriter::begin(MajorVersion::V15, 0, &mut Vec::new()),
        );
        manifest.finish(&ranges, &mut self.manifest_text);
        self.flush_manifest()?;
        let failed = Error::file("write", self.plan.to.join("backup_manifest"));
        self.manifest_file.flush().map_err(failed)?;
        let (root, path) = self.tree.find(MANIFEST);
        root.own(path, self.own)?;
        if let Some(root) = &self.tree.configuration {
            external::write(&self.plan.external, &self.plan.opened, root, self.own)?;
        }
        self.ctx.step("what makes the server recover is written");
        Ok(())
    }

    /// The backup's own settings, then those of this restore.
    fn write_auto_conf(&mut self, settings: &str) -> Result<()> {
        let path = self.plan.to.join("postgresql.auto.conf");
        let (root, rest) = self.tree.find(AUTO_CONF);
        let mut content = Vec::new();
        if self.auto_conf.is_some() {
            // The workers have written it.
            let mut there = root.open_there(rest)?;
            there.read_to_end(&mut content).map_err(Error::file("read", &path))?;
            content = own_settings(self.plan, self.options, content)?;
        } else {
            self.entries += 1;
        }
        content.extend_from_slice(settings.as_bytes());
        // One that an interrupted run has made would get the settings twice.
        root.remove(rest)?;
        let mut file = root.create(rest, self.auto_conf.unwrap_or(self.own))?;
        file.write_all(&content).map_err(Error::file("write", &path))
    }

    /// A standby's backup may span a switch of timelines: one range for each.
    fn wal_ranges(&self) -> Result<Vec<WalRange>> {
        let summary = &self.plan.summary;
        let timeline = |number| TimelineId::new(number).unwrap_or(TimelineId::FIRST);
        let start = (timeline(summary.timeline), summary.start_lsn);
        let stop = (timeline(summary.timeline_stop), summary.stop_lsn);
        wal_ranges(&self.plan.history, start, stop).ok_or_else(|| Error::Refused {
            what: format!(
                "the history of timeline {} does not lead from the backup's start on timeline {} to \
                 its stop on timeline {}",
                self.plan.timeline, summary.timeline, summary.timeline_stop
            ),
        })
    }

    /// Writes a file that is this restore's own.
    fn own_file(&mut self, name: &str, content: &[u8], in_manifest: bool) -> Result<()> {
        let (root, path) = self.tree.find(name.as_bytes());
        if self.ground.is_something() {
            root.remove(path)?;
        }
        self.entries += 1;
        let mut file = root.create(path, self.own)?;
        file.write_all(content).map_err(Error::file("write", self.plan.to.join(name)))?;
        if in_manifest {
            let row = Row {
                path: name.as_bytes().to_vec(),
                kind: RowKind::File,
                size: content.len() as u64,
                mode: self.own.mode,
                uid: self.own.uid,
                gid: self.own.gid,
                mtime: self.ctx.clock.now(),
                identity: None,
                crc: Some(crc32c::crc32c(content)),
                target: None,
                layers: Vec::new(),
                gone: false,
            };
            self.note(name.as_bytes(), row.size, &row)?;
        }
        Ok(())
    }

    /// Everything else first, then the control file.
    pub(super) fn make_durable(&mut self) -> Result<()> {
        let event = Event::Begin { stage: Stage::Sync, bytes_total: 0, files_total: 0 };
        self.ctx.observer.event(event);
        self.tree.sync()?;
        self.ctx.step("everything but the control file is durable");
        let Some((content, row)) = self.control.take() else {
            let why = "the backup does not hold it".into();
            return Err(Error::Content { path: CONTROL_PATH.to_vec(), why });
        };
        let path = path_in(self.plan, CONTROL_PATH);
        let temporary = path_in(self.plan, CONTROL_TEMPORARY);
        let (root, rest) = self.tree.find(CONTROL_TEMPORARY);
        let mut file = root.create(rest, attributes(&row))?;
        file.write_all(&content).map_err(Error::file("write", &temporary))?;
        file.sync_all().map_err(Error::file("sync", &temporary))?;
        self.ctx.step("the control file is written");
        durable::rename(&temporary, &path).map_err(Error::file("rename", &path))?;
        self.ctx.step("the control file has its name");
        self.ctx.observer.event(Event::End { stage: Stage::Sync });
        Ok(())
    }
}
