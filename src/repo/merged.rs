//! The rows of a backup that stands on others: the tables of its chain, read side by side.

use super::error::Result;
use super::file_table::{FileTableReader, Row, Source};

impl Row {
    /// This row as a backup above its own sees it: what lies in the row's own backup lies in that base.
    #[must_use]
    pub fn seen_from_above(mut self, base: Option<u32>) -> Self {
        if base.is_some() {
            for layer in &mut self.layers {
                if let Source::Pack { base: own @ None, .. } = &mut layer.source {
                    *own = base;
                }
            }
        }
        self
    }
}

/// One table and the row that it has come to.
struct Table {
    reader: FileTableReader,
    base: Option<u32>,
    next: Option<Row>,
}

impl Table {
    fn advance(&mut self) -> Result<()> {
        self.next = self.reader.next_row()?.map(|row| row.seen_from_above(self.base));
        Ok(())
    }
}

/// Reads rows in order: of each path the newest backup's, and none where that says that it is gone.
pub struct Rows {
    /// Newest backup first.
    tables: Vec<Table>,
}

impl Rows {
    /// A reader of these tables, the newest backup's first, each with its number among the bases.
    pub(super) fn new(readers: Vec<(FileTableReader, Option<u32>)>) -> Result<Self> {
        let tables = readers.into_iter().map(|(reader, base)| {
            let mut table = Table { reader, base, next: None };
            table.advance()?;
            Ok(table)
        });
        Ok(Self { tables: tables.collect::<Result<_>>()? })
    }

    /// The next row.
    ///
    /// # Errors
    /// [`super::Error::Corrupt`].
    pub fn next_row(&mut self) -> Result<Option<Row>> {
        loop {
            let heads = self.tables.iter().filter_map(|table| table.next.as_ref());
            let Some(path) = heads.map(|row| &row.path).min().cloned() else { return Ok(None) };
            let mut newest = None;
            for table in &mut self.tables {
                if table.next.as_ref().is_some_and(|row| row.path == path) {
                    let row = table.next.take();
                    newest = newest.or(row);
                    table.advance()?;
                }
            }
            if newest.as_ref().is_some_and(|row| !row.gone) {
                return Ok(newest);
            }
        }
    }
}
