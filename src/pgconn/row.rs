//! Columns of an answer as values, and what is said when a column is not what it should be.

use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, Type};

use super::error::{Error, innermost};
use super::sql::Sql;
use crate::base::Timestamp;
use crate::pg::Lsn;

/// One row of the answer to one statement.
pub(super) struct Columns<'a> {
    sql: Sql,
    row: &'a Row,
}

impl<'a> Columns<'a> {
    /// The row of an answer that always has exactly one.
    pub(super) fn only(sql: Sql, rows: &'a [Row]) -> Result<Self, Error> {
        match rows {
            [row] => Ok(Self { sql, row }),
            _ => Err(Error::Unexpected {
                query: sql.name,
                expected: "one row",
                found: format!("{} rows", rows.len()),
            }),
        }
    }

    /// Each row of an answer.
    pub(super) fn each(sql: Sql, rows: &'a [Row]) -> impl Iterator<Item = Self> {
        rows.iter().map(move |row| Self { sql, row })
    }

    /// A column that may be NULL.
    pub(super) fn optional<T: FromSql<'a>>(&self, column: usize) -> Result<Option<T>, Error> {
        self.row.try_get::<_, Option<T>>(column).map_err(|error| Error::Unexpected {
            query: self.sql.name,
            expected: std::any::type_name::<T>(),
            found: format!("column {}: {}", column + 1, innermost(&error)),
        })
    }

    /// A column that is never NULL.
    pub(super) fn value<T: FromSql<'a>>(&self, column: usize) -> Result<T, Error> {
        self.optional(column)?
            .ok_or_else(|| self.unexpected(std::any::type_name::<T>(), column, "NULL"))
    }

    /// A time in microseconds since 1970.
    pub(super) fn optional_time(&self, column: usize) -> Result<Option<Timestamp>, Error> {
        let Some(micros) = self.optional::<i64>(column)? else {
            return Ok(None);
        };
        Timestamp::from_timestamp_micros(micros)
            .map(Some)
            .ok_or_else(|| self.unexpected("microseconds since 1970", column, &micros.to_string()))
    }

    /// A time that is never NULL.
    pub(super) fn time(&self, column: usize) -> Result<Timestamp, Error> {
        self.optional_time(column)?.ok_or_else(|| self.unexpected("a time", column, "NULL"))
    }

    /// A WAL position.
    pub(super) fn optional_lsn(&self, column: usize) -> Result<Option<u64>, Error> {
        let Some(text) = self.optional::<&str>(column)? else {
            return Ok(None);
        };
        text.parse::<Lsn>()
            .map(|lsn| Some(lsn.0))
            .map_err(|_| self.unexpected("a WAL position", column, text))
    }

    /// A WAL position that is never NULL.
    pub(super) fn lsn(&self, column: usize) -> Result<u64, Error> {
        self.optional_lsn(column)?.ok_or_else(|| self.unexpected("a WAL position", column, "NULL"))
    }

    /// The error for a column whose type fits and whose value does not.
    pub(super) fn unexpected(&self, expected: &'static str, column: usize, found: &str) -> Error {
        Error::Unexpected {
            query: self.sql.name,
            expected,
            found: format!("column {}: {found:?}", column + 1),
        }
    }
}

/// A text column as the bytes that came, not necessarily UTF-8.
///
/// Paths in `backup_label`, `tablespace_map` and `postmaster.pid` are what the file system has: in a
/// database of encoding UTF8 or SQL_ASCII the server sends them unchanged and unchecked.
pub(super) struct RawText(pub Vec<u8>);

impl<'a> FromSql<'a> for RawText {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(raw.to_vec()))
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::TEXT
    }
}
