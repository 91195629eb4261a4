//! What can be wrong with bytes, names and values of PostgreSQL's.

/// The room's result.
pub type Result<T> = std::result::Result<T, Error>;

/// Why bytes were not understood, or a value cannot be written down.
///
/// Values found in files are shown escaped, because they may be anything.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The bytes end before a field does.
    #[error("{field} needs {need} bytes, and there are {have}")]
    Short {
        /// What was being read.
        field: &'static str,
        /// Bytes needed from the start of the input.
        need: usize,
        /// Bytes that the input has.
        have: usize,
    },
    /// A value contradicts another one, a checksum, or PostgreSQL's rules.
    #[error("{what} is {found}, expected {expected}")]
    Corrupt {
        /// Which value.
        what: &'static str,
        /// What it should be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// Text or a file name that does not have the form of what it should be.
    #[error("\"{text}\" is not {what}")]
    Malformed {
        /// What it should be, with an article.
        what: &'static str,
        /// The text, escaped.
        text: String,
    },
    /// A version that this program does not know, most likely a newer one.
    #[error("{what} {found} is not known: this program reads PostgreSQL 14 to 18")]
    UnknownVersion {
        /// What carries the version.
        what: &'static str,
        /// The version found.
        found: String,
    },
    /// The file was written on a machine of the other byte order.
    #[error("{what} was written on a big-endian machine, which is not supported")]
    ByteOrder {
        /// Which file.
        what: &'static str,
    },
    /// A caller's value that PostgreSQL cannot take.
    #[error("{what} {problem}")]
    Unusable {
        /// Which value.
        what: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
}

impl Error {
    /// Text that does not have the form of `what`.
    pub(crate) fn malformed(what: &'static str, text: &[u8]) -> Self {
        Self::Malformed { what, text: text.escape_ascii().to_string() }
    }

    /// A value that contradicts what must hold.
    pub(crate) fn corrupt(
        what: &'static str,
        expected: impl ToString,
        found: impl ToString,
    ) -> Self {
        Self::Corrupt { what, expected: expected.to_string(), found: found.to_string() }
    }
}
